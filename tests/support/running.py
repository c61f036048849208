"""Running a coroutine in a test, so that other tests don't notice."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, which also takes away the event loop that Pulumi's mocks go on using."""
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(coroutine)
