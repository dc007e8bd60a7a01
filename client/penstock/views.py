"""Messages, records and receipts as lazy sequences: made when touched, from parts of known lengths.

A view keeps the bytes of its delivery alive and nothing else.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar, overload

from penstock.message import Message
from penstock.record import Record, RecordRun
from penstock.runs import LeasedRun, Piece
from penstock.values import Duration

if TYPE_CHECKING:
    from penstock.queue import Queue

P = TypeVar("P")
V = TypeVar("V")
T = TypeVar("T")


class View(Sequence[V]):
    """Values of which `lengths[n]` lie in `parts[n]`; value i of a part is `make(part, i)`."""

    def __init__(self, parts: Sequence[P], lengths: Sequence[int], make: Callable[[P, int], V]) -> None:
        self._parts: Sequence[Any] = parts
        self._ends = list(accumulate(lengths))
        self._make: Callable[[Any, int], V] = make

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> V: ...
    @overload
    def __getitem__(self, index: slice) -> list[V]: ...
    def __getitem__(self, index: int | slice) -> V | list[V]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"there are {len(self)}, not {index}")
        part = bisect_right(self._ends, at)
        return self._make(self._parts[part], at - (self._ends[part - 1] if part else 0))

    def __iter__(self) -> Iterator[V]:
        make, begin = self._make, 0
        for part, end in zip(self._parts, self._ends, strict=True):
            for index in range(end - begin):
                yield make(part, index)
            begin = end

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)}>"


class Receipts(View[V]):
    """Where each message of a publish is, in the order of the input."""


class Messages(View[Message[T]]):
    """What one receive brought, or one peek. The settles here take every message not yet settled, as ranges;
    they raise what `Queue.ack` raises."""

    def __init__(self, queue: "Queue[T]", runs: Sequence[LeasedRun[T]]) -> None:
        super().__init__(runs, [run.stamps.messages for run in runs], Message)
        self.queue = queue
        self.runs = runs

    def pieces(self) -> Iterator[Piece[T]]:
        """Where those lie that are not settled yet, for who settles them."""
        for run in self.runs:
            for first, count in run.spans():
                yield run, first, count

    async def ack(self, *, timeout: float | None = None) -> None:
        """Settle them as done; durable on return."""
        await self.queue.ack(self, timeout=timeout)

    async def nack(
        self, delay: Duration | None = None, reason: str | None = None, *, timeout: float | None = None
    ) -> None:
        """They failed: back after `delay`, or after the queue's retry curve; durable on return."""
        await self.queue.nack(self, delay, reason, timeout=timeout)

    async def release(self, *, timeout: float | None = None) -> None:
        """They were not tried: back at once, no attempt counted."""
        await self.queue.release(self, timeout=timeout)


class Records(View[Record[T]]):
    """What one fetch brought. `start`, `end`: of the partition when it answered. `next_offset`: where to go
    on reading."""

    def __init__(
        self, partition: int, runs: Sequence[RecordRun[T]], *, start: int, end: int, next_offset: int
    ) -> None:
        super().__init__(runs, [run.stamps.messages for run in runs], Record)
        self.runs = runs
        self.partition = partition
        self.start = start
        self.end = end
        self.next_offset = next_offset


class Taken(View[Record[T]]):
    """Some records of a fetch. A piece: run, index of its first one here, how many."""

    def __init__(self, pieces: Sequence[tuple[RecordRun[T], int, int]]) -> None:
        super().__init__(pieces, [count for _, _, count in pieces], _record)
        self._pieces = pieces

    def bodies(self) -> list[memoryview]:
        """The values as they were sent, concatenated batch by batch: for who looks at many at once."""
        return [run.bodies(first, count) for run, first, count in self._pieces]


def _record(piece: tuple[RecordRun[T], int, int], index: int) -> Record[T]:
    run, first, _ = piece
    return Record(run, first + index)
