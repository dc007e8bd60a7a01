"""SIGTERM and SIGINT: the first asks for a clean stop, any later one ends the node at once."""

import asyncio
import signal
from collections.abc import Callable

STOP = (signal.SIGTERM, signal.SIGINT)


def install(loop: asyncio.AbstractEventLoop, stop: Callable[[], None], end: Callable[[], None]) -> None:
    """Call `stop` at the first signal and `end` at each one after it."""
    acts = iter([stop])
    for number in STOP:
        loop.add_signal_handler(number, lambda: next(acts, end)())
