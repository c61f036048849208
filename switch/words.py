"""How sizes and times are written for people, by the program, too. Pure."""

import time


def gib(size: int) -> str:
    """A size in bytes as GiB with two digits."""
    return f"{size / 2**30:.2f} GiB"


def utc(at: float) -> str:
    """A time in seconds since the epoch, by ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
