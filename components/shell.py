"""Shell programs whose text goes somewhere else: into a container, or into a stack's state.

What is sent stays the same to the byte, or each stack's steps run again and its containers become others: the
comments at a file's head are all that can be changed without that.
"""

import re
from pathlib import Path

_HERE = Path(__file__).parent


def program(name: str, **values: str) -> str:
    """The text of `components/NAME.sh` from its first command on, without the last line's end.

    A line that ends with a backslash is joined to the next one, and each `@KEY@` is replaced by its value.
    """
    lines = (_HERE / f"{name}.sh").read_text().splitlines()
    while lines[0].startswith("#"):
        del lines[0]
    text = "\n".join(lines).replace("\\\n", "")
    return re.sub("@([A-Z_]+)@", lambda found: values[found[1]], text)
