"""Publishes: gathered into batches, numbered, sent within credit, sent again until their outcome is known."""

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from penstock.connection import Wire
from penstock_protocol.batch import Kind
from penstock_protocol.messages.queues import Confirm, Enqueue
from penstock_protocol.messages.topics import Produce

T = TypeVar("T")
V = TypeVar("V")
Cells: TypeAlias = Sequence[tuple[Kind, bytes | int]]


class Address(NamedTuple):
    """Where a batch goes; sequences are counted per address. `partition` is 0 for a queue."""

    verb: type[Enqueue] | type[Produce]
    name: str
    partition: int = 0


Route: TypeAlias = Callable[[], Address]
"""Chooses the address of a batch when the batch is begun (sticky round robin). Hashable."""


class Placed(NamedTuple):
    """Where one message became durable. `time`: ms since 1970; `log`: the uuid in its id."""

    partition: int
    offset: int
    time: int
    duplicate: bool
    durability: str
    log: bytes


class Stretch(NamedTuple):
    """Messages of the input, one behind the other, that stand one behind the other in one batch: message i
    of them has the offset `confirm.first + first + i`."""

    confirm: Confirm
    first: int
    messages: int


class Publisher:
    """All publishes of one client."""

    def __init__(self, wire: Wire, *, timeout: float, max_pending_bytes: int, linger: float) -> None:
        raise NotImplementedError

    def publish(
        self, to: Address | Route, body: bytes, cells: Cells = (), *, timeout: float | None = None
    ) -> asyncio.Future[Placed]:
        """Gather one message; it goes out with whatever else this turn of the loop brings for `to`."""
        raise NotImplementedError

    async def many(
        self,
        items: Iterable[T] | AsyncIterable[T],
        encode: Callable[[T], tuple[Address | Route, bytes, Cells]],
        view: Callable[[list[Stretch]], V],
        *,
        plain: Address | Route | None = None,
        atomic: bool = False,
        timeout: float | None = None,
    ) -> V:
        """Publish `items` in order, lazily, pipelined; `view` of where they are, in the order of the input.

        `encode` says for one item where it goes and what it is; it may raise. `plain`: where items that are
        bytes go without asking `encode` (None: ask for each). Up to one batch per address it is atomic and
        raises the plain error; longer input raises `BatchError` with `.receipts = view(…)`.
        """
        raise NotImplementedError

    async def flush(self) -> None:
        """Wait until everything gathered so far has an outcome."""
        raise NotImplementedError

    def pending(self) -> Any:
        """Bytes gathered or unconfirmed."""
        raise NotImplementedError
