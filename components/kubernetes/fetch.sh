#!/bin/sh
# Fetches the weights $FOLDER on this node by $SCRIPT, which names its folders itself, unless they are there and as they
# were when they came: their mark says $DIGEST, and every file has its sum. $NEED KiB are what they take.
# Where $SENT is not empty, their folder `source` is sent here.
# It runs when a node starts and when what it fetches is other, and reads all of them. Their sizes are for what looks
# every few seconds.
# What came and was refused (status 65) is fetched again by another pod, and not by this one whenever it starts.
set -eu
place=/weights/$FOLDER pod=$(uname -n)
files() {
  find . -type f ! -name .complete ! -name .sums ! -name .sizes -exec "$@" {} +
}
sizes() {
  files stat -c '%s %n' >"$place.sizes"
  mv "$place.sizes" .sizes
}
if [ "$(cat "$place/.refused" 2>/dev/null)" = "$pod" ]; then
  echo "the weights $FOLDER that came were refused; to fetch them again, delete the pod $pod"
  exit 1
fi
if [ "$(cat "$place/.complete" 2>/dev/null)" = "$DIGEST" ]; then
  cd "$place"
  if sha256sum --check --quiet .sums; then
    sizes
    echo "the weights $FOLDER are here"
    exit 0
  fi
  echo "the weights $FOLDER are not what they were when they came: they are fetched again"
  cd /weights
  rm -rf "$place.bad"
  mv "$place" "$place.bad" # or what fetches them takes them for there
  rm -rf "$place.bad"
fi
mkdir -p "$place"
free=$(df -Pk /weights | while read -r _ _ _ free _; do echo "$free"; done | tail -n 1)
have=$(du -sk "$place" | cut -f1)
if [ "$((free + have))" -lt "$NEED" ]; then
  echo "the weights $FOLDER need $NEED KiB, and $((free + have)) KiB are free for them on this node"
  exit 1
fi
rm -f "$place/.complete" "$place/.refused"
if [ -n "$SENT" ]; then
  until [ -d "$place/source" ]; do
    echo "the weights $FOLDER come from the machine on which \`pulumi up\` runs"
    sleep 5
  done
fi
/bin/sh -c "$SCRIPT" || {
  status=$?
  [ "$status" -ne 65 ] || echo "$pod" >"$place/.refused"
  exit "$status"
}
cd "$place"
files sha256sum >"$place.sums"
mv "$place.sums" .sums
sizes
sync
echo "$DIGEST" >.complete
echo "the weights $FOLDER are here now"
