"""Reading stdin and writing stdout without holding up the event loop, whatever they are.

A descriptor is never made non-blocking, because it is shared with the shell: instead it is read or written
only when that cannot wait. Regular files are always ready.
"""

import asyncio
import os
import select
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

STDIN, STDOUT = 0, 1
FILE_BYTES = 1 << 20
"""Bytes of a regular file to move at once."""
PIPE_BYTES: int = getattr(select, "PIPE_BUF", 512)
"""What a pipe takes without waiting once it is ready."""


async def readable(fd: int) -> None:
    """Wait until reading `fd` gives something, or its end, at once."""
    if os.name == "posix" and not select.select([fd], [], [], 0)[0]:
        loop = asyncio.get_running_loop()
        await _once(fd, loop.add_reader, loop.remove_reader)


async def readable_within(fd: int, seconds: float) -> bool:
    """Wait at most that long for `readable`; whether it is."""
    try:
        async with asyncio.timeout(seconds):
            await readable(fd)
    except TimeoutError:
        return False
    return True


async def writable(fd: int) -> None:
    """Wait until `fd` takes `PIPE_BYTES` at once, or its reader is gone."""
    if os.name == "posix" and not select.select([], [fd], [], 0)[1]:
        loop = asyncio.get_running_loop()
        await _once(fd, loop.add_writer, loop.remove_writer)


async def _once(fd: int, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
    ready = asyncio.Event()
    add(fd, ready.set)
    try:
        await ready.wait()
    finally:
        remove(fd)


async def read(fd: int) -> bytes:
    """What there is, at most 1 MiB; empty at the end."""
    await readable(fd)
    return os.read(fd, FILE_BYTES)


async def write(fd: int, data: bytes) -> None:
    """All of `data`; on return it is in the hands of the system. Raises `BrokenPipeError`."""
    step = FILE_BYTES if stat.S_ISREG(os.fstat(fd).st_mode) else PIPE_BYTES
    view = memoryview(data)
    while view:
        await writable(fd)
        view = view[os.write(fd, view[:step]) :]


@asynccontextmanager
async def while_read(fd: int) -> AsyncIterator[None]:
    """The block, as long as the pipe has a reader: when that goes, `BrokenPipeError`, even if nothing is
    being written. So `penstock receive --follow | head -1` ends, and takes no message that nobody sees."""
    if os.name != "posix" or not stat.S_ISFIFO(os.fstat(fd).st_mode):
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    gone = False

    def hang_up() -> None:
        nonlocal gone
        gone = True
        loop.remove_reader(fd)
        task.cancel()

    # The end one writes to is never readable: what wakes its "reader" is the hang-up.
    loop.add_reader(fd, hang_up)
    try:
        yield
    except asyncio.CancelledError:
        if not gone or task.uncancel():
            raise
        raise BrokenPipeError("the reader of the pipe is gone") from None
    finally:
        loop.remove_reader(fd)
