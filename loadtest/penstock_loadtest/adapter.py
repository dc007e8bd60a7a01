"""What a system under test has to be able to do, and nothing of how the load is made.

One adapter object serves one flow in one process. An adapter uses its system the fastest way that its own
documentation recommends to Python programs; whatever it batches, pipelines or prefetches is its own affair.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from penstock_loadtest.scenarios import Flow

Bodies: TypeAlias = Sequence[bytes | memoryview]
"""Buffers of one or more whole bodies each."""
Arrived: TypeAlias = Callable[[Bodies, int], Awaitable[None]]
"""Told of a delivery: its bodies, and how many messages those are."""


class Unsupported(Exception):
    """This system has nothing that corresponds to a flow: one line why."""


class Adapter(ABC):
    """A client of the system at `url`, for a flow whose queues and topics are called `name`…"""

    features = frozenset({""})
    """Of a flow, that it can do."""
    durability = ""
    """What a confirm meant, if the system says so."""

    def __init__(self, url: str, flow: Flow, name: str) -> None:
        self.url = url
        self.flow = flow
        self.name = name
        self.stopping = asyncio.Event()

    def names(self) -> list[str]:
        """Of the queues of the flow, by lane."""
        return [f"{self.name}-{lane}" for lane in range(self.flow.lanes)]

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self.stopping.is_set()

    def stop(self) -> None:
        """`consume` is to return when it has settled what it was given."""
        self.stopping.set()

    @abstractmethod
    async def open(self) -> None:
        """Connect. Raises what says in one line why not."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""

    @abstractmethod
    async def create(self) -> None:
        """Make what the flow needs, for all its readers. Raises `Unsupported`."""

    @abstractmethod
    async def delete(self) -> None:
        """Leave nothing behind of what `create` made."""

    @abstractmethod
    async def publish(self, lane: int, bodies: list[bytes]) -> None:
        """Publish and return when all of them are confirmed; concurrent calls keep their order."""

    @abstractmethod
    async def consume(self, reader: int, arrived: Arrived) -> None:
        """Take messages for a reader until `stop`, await `arrived` for each delivery, then settle it."""
