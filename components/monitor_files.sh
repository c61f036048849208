#!/bin/sh
# monitor_files.sh: puts the monitor's configuration, a JSON object of texts by path on stdin, into the volume $CONFIG
# on the Docker host, and gives $HISTORY to its user. What runs reads it anew within half a minute. A key that nobody
# knows keeps whoever reaches the page from deleting what is stored.
set -eu
docker run --rm -i --network none --cap-drop ALL --cap-add CHOWN \
  --security-opt no-new-privileges:true -v "$CONFIG:/config" -v "$HISTORY:/history" "$IMAGE" python3 -c '
import json, os, pathlib, secrets, sys

folder, owner = pathlib.Path("/config"), int(sys.argv[1])
wanted = json.load(sys.stdin)
if not (folder / "key").exists():
    wanted["key"] = secrets.token_hex(24)
for name, text in wanted.items():
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    new = file.with_name(f"{file.name}.new")
    new.write_text(text)
    new.chmod(0o444)
    new.replace(file)
for file in folder.rglob("*"):
    if file.is_file() and str(file.relative_to(folder)) not in {*wanted, "key"}:
        file.unlink()
os.chown("/history", owner, owner)
' "${OWNER%%:*}"
echo "The monitor's configuration ($CONTENT) is on the host."
