"""Which conversation a request goes on with, as far as its beginning tells. Pure.

Every turn repeats what was said before, so the engine that computed the last turn has all of it but the end
in its prefix cache. Clients send no name of a conversation, and its beginning is as good as one: what comes
before the first question and that question itself, which no later turn changes.
"""

import hashlib

from proxy.reading import Reading, Unreadable, items, members

LOOK_BYTES = 64 * 1024
"""Of the turns: so much takes no noticeable time in the event loop, also where it is walked through twice."""

TEXT_BYTES = 1024
"""Of a plain text, which goes on at its end: about 250 tokens. A block of vLLM's cache has 16."""


def conversation(raw: bytes, reading: Reading) -> bytes:
    """The same bytes for every turn of a conversation; none where nothing tells."""
    if reading.turns is None:
        return b""
    begins, ends = reading.turns
    turns = raw[begins : min(ends, begins + LOOK_BYTES)]
    beginning = turns[: _first_question(turns)] if turns[:1] == b"[" else turns[:TEXT_BYTES]
    model = reading.model.encode(errors="surrogatepass")
    return hashlib.blake2b(model + b"\0" + beginning, digest_size=16).digest()


def _first_question(turns: bytes) -> int:
    """Where the first turn of a user ends; where there is none, all that there is counts."""
    try:
        for begins, ends in items(turns, 0):
            if turns[begins : begins + 1] == b"{" and _is_users(turns, begins):
                return ends
    except Unreadable:
        pass  # it was cut off, in the middle of the beginning
    return len(turns)


def _is_users(turns: bytes, begins: int) -> bool:
    roles = [turns[slice(*at)] for name, at in members(turns, begins, whole=False) if name == "role"]
    return roles[-1:] == [b'"user"']
