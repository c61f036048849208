"""Another process, in which large texts are read: the interpreter does one thing at a time."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

LARGE_BYTES = 64 * 2**10
"""Texts from this size on are read there."""

_Said = TypeVar("_Said")


class Elsewhere:
    """That process. It is started anew once somebody has killed it."""

    def __init__(self) -> None:
        self._process = _new_process()

    async def read(self, function: Callable[..., _Said], raw: bytes, *more: str) -> _Said:
        """What a module's function says of a text and `more`. Raises what it raises."""
        if len(raw) < LARGE_BYTES:
            return function(raw, *more)
        loop, process = asyncio.get_running_loop(), self._process
        try:
            return await loop.run_in_executor(process, function, raw, *more)
        except BrokenProcessPool:
            if self._process is process:
                self._process = _new_process()
            return await loop.run_in_executor(self._process, function, raw, *more)

    def close(self) -> None:
        """Ends the process."""
        self._process.shutdown(wait=False, cancel_futures=True)


def _new_process() -> ProcessPoolExecutor:
    process = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=os.nice, initargs=(19,))
    process.submit(len, b"")  # it starts now, and not with the first large text
    return process
