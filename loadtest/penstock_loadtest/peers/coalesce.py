"""For clients that block: publishes of concurrent callers go out as one pipeline, as their own users do."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Item(NamedTuple):
    """One publish call that waits for its turn."""

    lane: int
    bodies: list[bytes]
    done: "asyncio.Future[None]"


class Coalescer:
    """Collects what is published during a turn of the event loop, in pipelines of about `most` messages.

    `send` publishes and returns when all is confirmed; what it raises is raised by each call it was for.
    """

    def __init__(self, send: Callable[[Sequence[Item]], None], most: int) -> None:
        self._send = send
        self._most = most
        self._items: deque[Item] = deque()

    async def publish(self, lane: int, bodies: list[bytes]) -> None:
        """Publish with the next pipeline that has room."""
        loop = asyncio.get_running_loop()
        item = Item(lane, bodies, loop.create_future())
        if not self._items:
            loop.call_soon(self._flush)
        self._items.append(item)
        await item.done

    def _flush(self) -> None:
        taken: list[Item] = []
        messages = 0
        while self._items and messages < self._most:
            taken.append(self._items.popleft())
            messages += len(taken[-1].bodies)
        if self._items:
            asyncio.get_running_loop().call_soon(self._flush)
        try:
            self._send(taken)
        except Exception as error:
            for item in taken:
                item.done.set_exception(error)
        else:
            for item in taken:
                item.done.set_result(None)
