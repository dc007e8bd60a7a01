"""Runs: a delivery cut along its slices. A run is consecutive messages with the same stamps and one batch.

Nothing of a batch is decoded, or inflated, before it is touched. What is settled is kept here, per run, in
one byte per message, so that a view, a message made from it and a range of it can never disagree. A run knows
no socket.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar
from uuid import UUID

from penstock.compression import inflated
from penstock.values import shown
from penstock_protocol.batch import BatchView, Kind
from penstock_protocol.errors import Corrupt, Invalid, TooLarge
from penstock_protocol.limits import INT_MAX
from penstock_protocol.messages import schema
from penstock_protocol.slices import Range, Slice

if TYPE_CHECKING:
    from penstock.queue import Queue

T = TypeVar("T")

NOT_DECODED: Any = object()
"""Stands for a value that nobody has asked for yet."""
ID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):([0-9]{1,19})")


@lru_cache(maxsize=1_024)
def _uuid_text(log: bytes) -> str:
    return str(UUID(bytes=log))


def id_of(log: bytes, offset: int) -> str:
    """`<log uuid>:<offset>`: the id of what was first appended there."""
    return f"{_uuid_text(log)}:{offset}"


def place_of(id: str) -> tuple[bytes, int]:
    """The inverse of `id_of`. Raises `Invalid`."""
    found = ID.fullmatch(id) if isinstance(id, str) else None
    if found is None or int(found[2]) > INT_MAX:
        raise Invalid(
            f"id={shown(id)} is no id of a message", hint="take it from `.id`, of a receipt for instance"
        )
    return UUID(found[1]).bytes, int(found[2])


class Run:
    """One slice of a delivery with its batch. Raises `Corrupt` if the batch fails its checksum."""

    __slots__ = ("_bodies", "_cells", "_ends", "_integers", "batch", "deltas", "stamps")

    def __init__(self, stamps: Slice, data: memoryview) -> None:
        try:
            self.batch = BatchView(data)
        except (Invalid, TooLarge) as error:
            raise Corrupt(error.message, hint="it was damaged on the way; receive it again") from error
        if self.batch.count != stamps.messages:
            raise Corrupt(f"a slice of {stamps.messages} messages carries {self.batch.count}")
        self.stamps = stamps
        self.deltas = self.batch.deltas
        """Offset of each message less that of the first."""
        self._bodies: memoryview | None = None
        self._ends: list[int] = []
        self._cells: dict[Kind, list[memoryview] | None] = {}
        self._integers: dict[Kind, list[int] | None] = {}

    def raw(self, index: int) -> bytes:
        """The body of message `index` as it was given to the client that sent it."""
        bodies = self._open() if self._bodies is None else self._bodies
        return bytes(bodies[self._ends[index] : self._ends[index + 1]])

    def bodies(self, first: int, count: int) -> memoryview:
        """The bodies of messages `first` … `first + count` as they were sent, one behind the other."""
        bodies = self._open() if self._bodies is None else self._bodies
        return bodies[self._ends[first] : self._ends[first + count]]

    def _open(self) -> memoryview:
        """All bodies. Raises `Corrupt` for those of a compressed batch that do not inflate as they should."""
        batch = self.batch
        bodies = self._bodies = inflated(batch, self.stamps) if batch.codec else batch.bodies()
        self._ends = [0, *batch.ends()]
        return bodies

    def cell(self, kind: Kind, index: int) -> Any:
        """The value of message `index` in a column of msgpack cells; None where absent."""
        if kind not in self._cells:
            self._cells[kind] = self.batch.cells(kind)
        cells = self._cells[kind]
        return schema.unpack(cells[index]) if cells and cells[index] else None

    def document(self, kind: Kind, index: int) -> Any:
        """As `cell`, for what the broker adds: as large as it had to be."""
        if kind not in self._cells:
            self._cells[kind] = self.batch.cells(kind)
        cells = self._cells[kind]
        return schema.unpack_document(cells[index]) if cells and cells[index] else None

    def integer(self, kind: Kind, index: int) -> int:
        """The value of message `index` in a column of fixed width; 0 without such a column."""
        if kind not in self._integers:
            self._integers[kind] = self.batch.integers(kind)
        values = self._integers[kind]
        return values[index] if values else 0

    def id(self, index: int) -> str:
        """The id of message `index`; a copy in another log keeps it."""
        return id_of(self.stamps.origin_log, self.stamps.origin_first + self.deltas[index])


class LeasedRun(Run, Generic[T]):
    """A run of a queue under one lease (token 0: peeked, or settled by the broker when it was sent).

    `held` counts the messages not settled here; when none is left, the run leaves `holders`, the set of
    whoever extends its lease. `started`: when (loop time) a message was handed to the application.
    """

    __slots__ = ("_expires", "_extended", "_settled", "held", "holders", "queue", "started")

    def __init__(self, stamps: Slice, data: memoryview, queue: "Queue[T]", now: float) -> None:
        super().__init__(stamps, data)
        self.queue = queue
        self._settled = bytearray(stamps.messages)
        self.held = stamps.messages
        self.holders: set[LeasedRun[T]] | None = None
        self.started: dict[int, float] = {}
        self._expires = now + stamps.lease / 1000
        self._extended: dict[int, float] = {}

    def is_settled(self, index: int) -> bool:
        """Whether message `index` was settled or returned here, lost its lease, or never had one."""
        return bool(self._settled[index]) or not self.stamps.token

    def settle(self, first: int, count: int) -> None:
        """Messages `first` … `first + count` are the broker's again."""
        self.held -= self._settled.count(0, first, first + count)
        self._settled[first : first + count] = b"\1" * count
        if not self.held and self.holders is not None:
            self.holders.discard(self)

    def lose(self, stale: Range) -> int:
        """Settle what lies in a range the broker called stale; how many messages were still held."""
        stamps = self.stamps
        if stale.token != stamps.token or stale.partition != stamps.partition:
            return 0
        first = max(stale.first - stamps.first, 0)
        end = min(stale.first + stale.messages - stamps.first, stamps.messages)
        before = self.held
        if first < end:
            self.settle(first, end - first)
        return before - self.held

    def spans(self, begin: int = 0) -> Iterator[tuple[int, int]]:
        """(first, count) of each stretch of messages still held, from message `begin` on."""
        at = self._settled.find(0, begin)
        while at >= 0:
            end = self._settled.find(1, at)
            end = end if end >= 0 else len(self._settled)
            yield at, end - at
            at = self._settled.find(0, end)

    def range(self, first: int, count: int) -> Range:
        """The wire's name for messages `first` … `first + count`."""
        stamps = self.stamps
        return Range(stamps.token, stamps.first + first, stamps.partition, count)

    def expires(self, index: int) -> float:
        """Loop time at which the lease of message `index` ends."""
        return self._extended.get(index, self._expires) if self._extended else self._expires

    def extend(self, first: int, count: int, until: float) -> None:
        """The lease of messages `first` … `first + count` now ends at loop time `until`."""
        if count == len(self._settled):
            self._expires = until
            self._extended.clear()
        else:
            self._extended.update(dict.fromkeys(range(first, first + count), until))


Piece: TypeAlias = tuple[LeasedRun[T], int, int]
"""(run, first, count): messages that are settled together."""
