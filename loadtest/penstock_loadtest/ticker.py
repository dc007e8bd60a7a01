"""Wakes an open loop on time. The timers of an event loop are as coarse as its poll, 1 ms, which is more than
what is to be measured; a timer of the kernel is a file descriptor that becomes readable within 0.1 ms.

Linux alone, like everything here that reads /proc.
"""

import asyncio
import ctypes
import os
from types import TracebackType

CLOCK_MONOTONIC = 1
TIMER_ABSTIME = 1
NANOSECONDS = 1_000_000_000


class _Times(ctypes.Structure):
    """`struct itimerspec`: the interval, then the first expiry, each as seconds and nanoseconds."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns")]


class Ticker:
    """Ticks at `begin` (ns, CLOCK_MONOTONIC) and every `interval` ns from then on."""

    def __init__(self, begin: int, interval: int) -> None:
        self._times = _Times(*divmod(interval, NANOSECONDS), *divmod(begin, NANOSECONDS))
        self._ticked = asyncio.Event()

    def __enter__(self) -> "Ticker":
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0 or libc.timerfd_settime(self._fd, TIMER_ABSTIME, ctypes.byref(self._times), None):
            raise OSError(ctypes.get_errno(), "no timer of the kernel")
        asyncio.get_running_loop().add_reader(self._fd, self._expired)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _expired(self) -> None:
        os.read(self._fd, 8)
        self._ticked.set()

    async def tick(self) -> None:
        """Return at the next tick; at once if there was one since the last call."""
        await self._ticked.wait()
        self._ticked.clear()
