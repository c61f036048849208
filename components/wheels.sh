#!/bin/sh
# wheels.sh: fetches what the proxy is made of, by proxy/requirements.lock ($LOCK says which), for the platform of
# the Docker host, and puts it into the volume $VOLUME there. The volume $LOGS becomes the proxy's user's own.
# It does nothing where all of it is there. The host itself needs no package registry.
set -eu
in_container() {
  docker run --rm -i --network none -v "$VOLUME:/wheels" -v "$LOGS:/log" "$IMAGE" sh -c "$1"
}
if in_container "chown $OWNER /log && test -e /wheels/complete"; then
  echo "The proxy's packages are there."
  exit 0
fi
arch=$(docker version --format '{{.Server.Arch}}')
case $arch in
  amd64) platform=x86_64-unknown-linux-gnu ;;
  arm64) platform=aarch64-unknown-linux-gnu ;;
  *)
    echo "the proxy runs on amd64 and arm64, and the Docker host is $arch" >&2
    exit 1
    ;;
esac
folder=.changeover/wheels/$LOCK-$arch
if [ ! -d "$folder" ]; then
  new=$folder.$$
  trap 'rm -rf "$new"' EXIT
  uv=.venv/bin/uv
  [ -x "$uv" ] || uv=uv
  UV_CACHE_DIR="${UV_CACHE_DIR:-${CHANGEOVER_CACHE:-$HOME/.cache/changeover}/uv}" \
    "$uv" pip install --quiet --target "$new" --python-version "$PYTHON" --python-platform "$platform" \
    --only-binary :all: --require-hashes --no-deps -r proxy/requirements.lock
  [ -d "$folder" ] || mv "$new" "$folder" # another update may have been faster
fi
# shellcheck disable=SC2016 # for the container's shell
tar -C "$folder" -cf - . | in_container 'find /wheels -mindepth 1 -delete &&
tar -C /wheels --no-same-owner -xf - && chmod -R a+rX /wheels && python3 -m compileall -q /wheels &&
touch /wheels/complete'
echo "The proxy's packages of $LOCK are in place, for $platform."
