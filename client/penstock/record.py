"""One record of a topic: a place in a run, decoded as it is touched."""

from datetime import datetime
from typing import Generic, TypeVar, cast

from penstock.codecs import Codec
from penstock.runs import NOT_DECODED, Run
from penstock.values import Header, instant_of
from penstock_protocol.batch import Kind
from penstock_protocol.slices import Slice

T = TypeVar("T")


class RecordRun(Run, Generic[T]):
    """A run of a partition."""

    __slots__ = ("codec", "topic")

    def __init__(self, stamps: Slice, data: memoryview, topic: str, codec: Codec[T]) -> None:
        super().__init__(stamps, data)
        self.topic = topic
        self.codec = codec


class Record(Generic[T]):
    """A record as fetched. Two of the same place in the same fetch are equal."""

    __slots__ = ("_index", "_run", "_value")
    _value: T | None

    def __init__(self, run: RecordRun[T], index: int) -> None:
        self._run = run
        self._index = index
        self._value = NOT_DECODED

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self._run.topic

    @property
    def partition(self) -> int:
        """The partition it lies in."""
        return self._run.stamps.partition

    @property
    def offset(self) -> int:
        """Its offset in the partition."""
        return self._run.stamps.first + self._run.deltas[self._index]

    @property
    def id(self) -> str:
        """`<log uuid>:<offset>` of where it was first appended; a copy keeps it."""
        return self._run.id(self._index)

    @property
    def value(self) -> T | None:
        """The value through the topic's codec; None for a tombstone."""
        if self._value is NOT_DECODED:
            self._value = None if self.is_tombstone else self._run.codec.decode(self.raw)
        return self._value

    @property
    def is_tombstone(self) -> bool:
        """Whether it was produced with `value=None`: what it says is that its key is gone."""
        return bool(self._run.integer(Kind.ABSENT, self._index))

    @property
    def raw(self) -> bytes:
        """The value as it was sent; empty for a tombstone."""
        return self._run.raw(self._index)

    @property
    def text(self) -> str:
        """The value as UTF-8 text."""
        return self.raw.decode()

    @property
    def key(self) -> bytes | None:
        """The key, or None."""
        return cast("bytes | None", self._run.cell(Kind.KEY, self._index))

    @property
    def headers(self) -> dict[str, Header]:
        """The headers; empty without any."""
        return self._run.cell(Kind.HEADERS, self._index) or {}

    @property
    def timestamp(self) -> datetime:
        """The producer's `timestamp=`, else the time of the append. UTC."""
        return instant_of(self._run.integer(Kind.TIMESTAMP, self._index) or self._run.stamps.time)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self._place() == other._place()

    def __hash__(self) -> int:
        return hash(self._place())

    def _place(self) -> tuple[int, int]:
        return id(self._run), self._index

    def __repr__(self) -> str:
        return f"<Record {self.offset} of {self.topic!r} partition {self.partition}>"
