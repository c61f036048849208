"""Fetches a repository of Hugging Face's hub, in vLLM's image: `python3 -c TEXT REPOSITORY REVISION FOLDER`.

The hub's library takes what a folder has where the hub gives no answer, and compares sizes. Here every file
has to have come, and to have the hash that the hub names for it: the SHA-256 of what is large and comes from
elsewhere, and Git's own of the others.
"""

import hashlib
import sys
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download  # type: ignore[import-not-found]

repository, revision, folder = sys.argv[1:]
about = HfApi().model_info(repository, revision=revision, files_metadata=True)
snapshot_download(repository, revision=about.sha, local_dir=folder)
missing, wrong = [], []
for each in about.siblings:
    file = Path(folder, each.rfilename)
    if not file.is_file():
        missing.append(each.rfilename)
        continue
    said = each.lfs.sha256 if each.lfs else each.blob_id
    digest = hashlib.sha256() if each.lfs else hashlib.sha1(b"blob %d\0" % file.stat().st_size)
    with file.open("rb") as content:
        while part := content.read(1 << 20):
            digest.update(part)
    if digest.hexdigest() != said:
        wrong.append(each.rfilename)
        file.unlink()
if missing:
    sys.exit(f"{repository} has not come whole: it lacks {', '.join(missing)}. Run the command again")
if wrong:
    print(f"files of {repository} do not match the hub's hashes and were removed: {', '.join(wrong)}.")
    print("Run the command again. If that fails again, something on the way changes downloads")
    sys.exit(65)  # what keeps weights on a node of a cluster does not fetch them again by itself
