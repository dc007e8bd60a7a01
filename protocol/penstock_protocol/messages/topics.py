"""Messages of the log verbs and of consumer-group offsets."""

from enum import IntEnum
from typing import Any, NamedTuple


class At(IntEnum):
    """Which offset OFFSET asks for."""

    EARLIEST = 0
    LATEST = 1
    TIME = 2  # the first record appended at or after `time`; the end if there is none


class Produce(NamedTuple):
    """Append one batch (payload) to a partition, durably, all or nothing. Answered by Confirm. Refused as
    `Conflict` unless its first record gets `expected_offset`, where that is given."""

    topic: str
    partition: int
    expected_offset: int | None = None
    payload: Any = b""


class Fetch(NamedTuple):
    """Records from `offset` on, waiting up to `wait` ms if there are none yet. `where`: only those that fit,
    see where.py. `in_parts`: a reply whenever there are some, until `records`, `size` or `wait` is used up.
    """

    topic: str
    partition: int
    offset: int
    records: int
    size: int
    wait: int
    where: dict[str, Any] | None = None
    in_parts: bool = False


class Fetched(NamedTuple):
    """`slices` slices and their batches; the partition starts at `start` and ends at `end`. Go on at `next`:
    between there and what was asked for there is nothing more."""

    slices: int
    start: int
    end: int
    next: int
    payload: Any


class Offset(NamedTuple):
    """One offset of a partition by position or time."""

    topic: str
    partition: int
    at: int
    time: int = 0


class OffsetReply(NamedTuple):
    """The offset asked for."""

    offset: int


class Commit(NamedTuple):
    """Store offsets of a group: (partition, next offset to read, metadata). `member` and `generation`
    fence; 0 = an explicit assignment."""

    group: str
    topic: str
    offsets: tuple[tuple[int, int, str], ...]
    member: bytes | None = None
    generation: int = 0


class Offsets(NamedTuple):
    """Committed offsets of a group on a topic, as a document: [[partition, offset, metadata, time], …]."""

    group: str
    topic: str


class OpenProducer(NamedTuple):
    """Be the producer of that name from now on: the reply has its id, and whoever had the name is fenced.
    `again`: only if it was this session that opened it last."""

    name: str
    again: bool = False


class ListProducers(NamedTuple):
    """Named producers in name order, behind `after`, at most `limit`."""

    prefix: str
    after: str
    limit: int


class DeleteProducer(NamedTuple):
    """Forget the name; whoever has it is fenced."""

    name: str


class CreateTopic(NamedTuple):
    """Create a topic. `if_exists`: check, alter or keep."""

    name: str
    settings: dict[str, Any]
    if_exists: str


class AlterTopic(NamedTuple):
    """Change settings of an existing topic."""

    name: str
    settings: dict[str, Any]


class DeleteTopic(NamedTuple):
    """Delete a topic with its records and the offsets committed on it."""

    name: str


class ListTopics(NamedTuple):
    """Descriptions of topics in name order, behind `after`, at most `limit`."""

    prefix: str
    after: str
    limit: int


class DescribeTopic(NamedTuple):
    """Settings, uuid and per partition start, end and bytes."""

    name: str


class ListGroups(NamedTuple):
    """Names of groups in order, behind `after`, at most `limit`."""

    prefix: str
    after: str
    limit: int


class DescribeGroup(NamedTuple):
    """Per partition: topic, partition, current, end, lag, lag_seconds, member."""

    name: str
