"""Takes the machine code of other GPUs out of a library of CUDA, so that it packs to little. Pure.

nvcc puts a container into a library for each source file, with an entry for each kind of GPU it was compiled
for. The entries that a card does not load are overwritten with zeros and stay where they are, so that nothing
in the library moves; compressed they take nothing. The layout is that of `fatbinary` of CUDA 11 to 13.
"""

import struct
from dataclasses import dataclass

CONTAINER = struct.Struct("<IHHQ")  # magic, version, size of this header, size of what follows
ENTRY = struct.Struct("<HHIQIIHHI")  # kind, version, size of this header, of the payload, …, architecture
MAGIC = 0xBA55ED50
PTX, CUBIN = 1, 2


@dataclass(frozen=True)
class Entry:
    """`kind` is PTX or CUBIN, `compute` the capability times ten; the payload is `start` to `end`."""

    kind: int
    compute: int
    start: int
    end: int


def containers(library: bytes | bytearray) -> list[list[Entry]]:
    """The entries of each container, in the library's order."""
    found, at = [], 0
    magic = struct.pack("<I", MAGIC)
    while (at := library.find(magic, at)) != -1:
        if at + CONTAINER.size > len(library):
            break
        _, _, header, size = CONTAINER.unpack_from(library, at)
        entry, end = at + header, at + header + size
        if header != CONTAINER.size or end > len(library):  # the same four bytes in something else
            at += len(magic)
            continue
        entries = []
        while entry + ENTRY.size <= end:
            kind, _, head, payload, _, _, _, _, compute = ENTRY.unpack_from(library, entry)
            entries.append(Entry(kind, compute, entry + head, entry + head + payload))
            entry += head + payload
        found.append(entries)
        at = end
    return found


def needed(entries: list[Entry], compute: int) -> list[Entry]:
    """What of a container a GPU of this capability can load: its own machine code; else the newest that is
    older within the same generation, which runs on it; else the newest PTX that it can compile."""
    own = [each for each in entries if each.kind == CUBIN and each.compute == compute]
    generation = [
        each
        for each in entries
        if each.kind == CUBIN and each.compute // 10 == compute // 10 and each.compute < compute
    ]
    text = [each for each in entries if each.kind == PTX and each.compute <= compute]
    for some in (own, generation, text):
        if some:
            newest = max(each.compute for each in some)
            return [each for each in some if each.compute == newest]
    return []


def pruned(library: bytes, compute: int) -> tuple[bytes, int]:
    """The library with all other machine code zeroed, and how many containers have code for the GPU."""
    changed, served = bytearray(library), 0
    for entries in containers(library):
        keep = needed(entries, compute)
        served += bool(keep)
        for each in entries:
            if each not in keep:
                changed[each.start : each.end] = bytes(each.end - each.start)
    return bytes(changed), served
