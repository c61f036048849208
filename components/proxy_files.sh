#!/bin/sh
# proxy_files.sh: puts what the proxy is made of into the volume $VOLUME on the Docker host: its packages, by
# proxy/requirements.lock ($LOCK says which), and its own code ($ARCHIVE, which is called $CODE there). The
# packages are fetched here, by hash, for the platform of the host, which itself needs no package registry.
# The volume $LOGS becomes the proxy's user's own. What is there is left as it is.
set -eu
in_container() {
  docker run --rm -i --network none --cap-drop ALL --cap-add CHOWN --security-opt no-new-privileges:true \
    -v "$VOLUME:/wheels" -v "$LOGS:/log" "$IMAGE" sh -euc "$1"
}
if ! in_container "chown $OWNER /log; test -e /wheels/complete"; then
  arch=$(docker version --format '{{.Server.Arch}}')
  case $arch in
    amd64) platform=x86_64-unknown-linux-gnu ;;
    arm64) platform=aarch64-unknown-linux-gnu ;;
    *)
      echo "the proxy runs only on amd64 and arm64, and this Docker host is $arch" >&2
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
      --only-binary :all: --require-hashes --no-deps -r proxy/requirements.lock || {
      echo "The proxy's packages could not be fetched. What serves goes on as before; fix the cause and run: pulumi up" >&2
      exit 1
    }
    [ -d "$folder" ] || mv "$new" "$folder" # another update may have been faster
  fi
  tar -C "$folder" -cf - . | in_container 'find /wheels -mindepth 1 -delete
tar -C /wheels --no-same-owner -xf -
chmod -R a+rX /wheels
python3 -m compileall -q /wheels
touch /wheels/complete'
fi
in_container "cat >/wheels/new; chmod a+r /wheels/new; mv /wheels/new /wheels/$CODE" <"$ARCHIVE"
echo "The proxy's code ($CODE) and packages ($LOCK) are on the host."
