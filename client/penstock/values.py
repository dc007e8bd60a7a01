"""The values users hand in and get back, and their form on the wire.

Durations are float seconds or `timedelta` here, milliseconds there; instants are aware `datetime`s here, ms
since 1970 there; None is unlimited on both sides. What is wrong is refused here with `Invalid`, before it
shares a batch with somebody else's message. Nothing here knows a connection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict, TypeVar, cast
from uuid import UUID

import msgpack

from penstock.errors import Invalid, TooLarge
from penstock_protocol.batch import Kind
from penstock_protocol.limits import HEADER_KEY_BYTES_MAX, HEADER_KEYS_MAX, HEADERS_BYTES_MAX, KEY_BYTES_MAX

Duration: TypeAlias = float | timedelta
Header: TypeAlias = str | bytes | int | float | bool | None
Headers: TypeAlias = Mapping[str, Header]
Cells: TypeAlias = Sequence[tuple[Kind, bytes | int]]
"""Column values of one message, in the wire's encoding."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)


def seconds_of(duration: Duration) -> float:
    """Seconds of a duration. Raises `Invalid` for a negative or endless one."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not (isfinite(seconds) and seconds >= 0):
        raise Invalid(f"{duration!r} is not a duration", hint="give seconds from 0 up, or a timedelta")
    return seconds


def ms_of(duration: Duration) -> int:
    """Whole milliseconds of a duration, at least 1 if it is not 0."""
    seconds = seconds_of(duration)
    return max(round(seconds * 1000), 1) if seconds else 0


def instant_of(ms: int) -> datetime:
    """ms since 1970 as an aware datetime in UTC."""
    return EPOCH + ms * MS


def ms_at(instant: datetime) -> int:
    """ms since 1970 of an aware datetime. Raises `Invalid` for a naive one and one before 1970."""
    if instant.tzinfo is None:
        raise Invalid(f"{instant!r} has no time zone", hint="for instance datetime.now(timezone.utc)")
    if instant < EPOCH:
        raise Invalid(f"{instant} lies before 1970", hint="give a later instant")
    return (instant - EPOCH) // MS


# What is sent


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message of `enqueue_many` or record of `produce_many` that is more than its body.

    `key`, `partition` and `timestamp` are for topics alone; `body` None with a key is a tombstone.
    """

    body: Any
    headers: Headers | None = None
    key: bytes | str | None = None
    partition: int | None = None
    timestamp: datetime | None = None


def cells_of(
    *,
    headers: Headers | None = None,
    key: bytes | str | None = None,
    timestamp: datetime | None = None,
    absent: bool = False,
) -> Cells:
    """The column values of one message. Raises `Invalid` or `TooLarge` for what the wire does not carry."""
    cells: list[tuple[Kind, bytes | int]] = []
    if key is not None:
        cells.append((Kind.KEY, _pack(key_of(key))))
    if headers:
        cells.append((Kind.HEADERS, _headers(headers)))
    if timestamp is not None:
        cells.append((Kind.TIMESTAMP, ms_at(timestamp)))
    if absent:
        cells.append((Kind.ABSENT, 1))
    return cells


def key_of(key: bytes | str) -> bytes:
    """A key as bytes; str is UTF-8. Raises `TooLarge` above 16 KiB."""
    data = key.encode() if isinstance(key, str) else bytes(key)
    if len(data) > KEY_BYTES_MAX:
        raise TooLarge(
            f"key of {len(data):,} bytes; the limit is {KEY_BYTES_MAX:,}", hint="use a digest of it"
        )
    return data


def _headers(headers: Headers) -> bytes:
    if len(headers) > HEADER_KEYS_MAX:
        raise TooLarge(
            f"{len(headers)} headers; the limit is {HEADER_KEYS_MAX}", hint="put them into the body"
        )
    for name, value in headers.items():
        if not isinstance(name, str) or len(name.encode()) > HEADER_KEY_BYTES_MAX:
            raise Invalid(f"header name {name!r}", hint=f"text of at most {HEADER_KEY_BYTES_MAX} bytes")
        if not isinstance(value, str | bytes | int | float | None):
            raise Invalid(
                f"header {name!r} is a {type(value).__name__}", hint="flat values only; see codecs.json"
            )
    packed = _pack(dict(headers))
    if len(packed) > HEADERS_BYTES_MAX:
        raise TooLarge(
            f"headers of {len(packed):,} bytes; the limit is {HEADERS_BYTES_MAX:,}",
            hint="put them into the body",
        )
    return packed


def _pack(value: object) -> bytes:
    try:
        packed: bytes = msgpack.packb(value)
    except (OverflowError, ValueError) as error:
        raise Invalid(f"a value has no form on the wire: {error}", hint="integers have 64 bits") from error
    return packed


class Receipt(NamedTuple):
    """An enqueued message. `duplicate`: an earlier try of this call had got through. `durability`: the mode
    in which it was confirmed (`fsync`: it survives a power cut)."""

    id: str
    offset: int
    duplicate: bool
    durability: str


class RecordMetadata(NamedTuple):
    """A produced record. `timestamp`: the producer's, else the append's. The rest as in `Receipt`."""

    partition: int
    offset: int
    timestamp: datetime
    duplicate: bool
    durability: str


# Settings


@dataclass(frozen=True, slots=True)
class Backoff:
    """When a failed message comes back: after `initial` * `factor` ** (failures - 1) seconds, at most `max`,
    plus or minus the share `jitter` by chance."""

    initial: Duration = 1.0
    factor: float = 2.0
    max: Duration = 300.0
    jitter: float = 0.2


class QueueSettings(TypedDict, total=False):
    """Settings of a queue; those not given keep their value, or the default (in brackets) at creation."""

    visibility_timeout: Duration  # lease of a received message [30 s]
    max_attempts: int | None  # failures + 1 before it is dead-lettered [5]
    max_deliveries: int | None  # hand-outs before it is dead-lettered [50]
    dead_letter: str | None  # where such messages go [<name>.dead]
    retry: Backoff  # when a failed message comes back [1 s, doubled, at most 300 s, ± 20 %]
    max_messages: int | None  # `QueueFull` above [1,000,000]
    max_bytes: int | None  # `QueueFull` above [8 GiB]
    overflow: Literal["reject"]
    keep_settled: Duration | None  # how long settled messages' bytes are kept; they count as bytes [None]
    durability: str | None  # "fsync", "interval:50ms" or "os"; None is the broker's [None]


class TopicSettings(TypedDict, total=False):
    """Settings of a topic; those not given keep their value, or the default (in brackets) at creation."""

    partitions: int  # [1]; fixed once created
    retention: Duration | None  # records older than that may go [7 d]
    retention_bytes: int | None  # of the whole topic: what is more may go, oldest first [None]
    cleanup: Literal["delete", "compact", "both"]  # compact: the last record of each key stays ["delete"]
    tombstone_retention: Duration  # how long compaction keeps a tombstone [1 d]
    durability: str | None  # "fsync", "interval:50ms" or "os"; None is the broker's [None]


IfExists: TypeAlias = Literal["check", "alter", "keep"]
"""An existing object: compare the settings passed (`Conflict`), change them, or leave it alone."""

DURATIONS = {
    *("visibility_timeout", "retry_initial", "retry_max", "keep_settled"),
    *("retention", "tombstone_retention"),
}
"""Settings that are milliseconds on the wire."""


def settings_to_wire(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the caller passed, in the wire's names and units; ranges are judged by the broker alone."""
    flat = dict(settings)
    retry = flat.pop("retry", None)
    if retry is not None:
        if not isinstance(retry, Backoff):
            raise Invalid(
                "retry takes a Backoff", hint="for instance retry=penstock.Backoff(initial=1, max=300)"
            )
        flat |= {f"retry_{each.name}": getattr(retry, each.name) for each in fields(retry)}
    return {
        name: ms_of(value) if name in DURATIONS and value is not None else value
        for name, value in flat.items()
    }


def queue_settings_from_wire(settings: Mapping[str, Any]) -> QueueSettings:
    """The inverse of `settings_to_wire`: what could be passed again. What only a newer client knows is left
    out."""
    flat = _in_seconds(settings)
    flat["retry"] = Backoff(**{each.name: flat[f"retry_{each.name}"] for each in fields(Backoff)})
    return cast(QueueSettings, {name: flat[name] for name in QueueSettings.__annotations__ if name in flat})


def topic_settings_from_wire(settings: Mapping[str, Any]) -> TopicSettings:
    """As `queue_settings_from_wire`."""
    flat = _in_seconds(settings)
    return cast(TopicSettings, {name: flat[name] for name in TopicSettings.__annotations__ if name in flat})


def _in_seconds(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value / 1000 if name in DURATIONS and value is not None else value
        for name, value in settings.items()
    }


# What is described

D = TypeVar("D")


def described(cls: type[D], document: Mapping[str, Any]) -> D:
    """A dataclass from the broker's document; fields without a default must be there."""
    return cls(**{name: document[name] for name in cls.__annotations__ if name in document})


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Messages by state. `oldest_age`: seconds since the oldest unsettled one was enqueued, None if there is
    none. `bytes`: of messages not settled."""

    ready: int
    delayed: int
    in_flight: int
    waiting: int
    settled_total: int
    oldest_age: float | None
    bytes: int


@dataclass(frozen=True, slots=True)
class QueueDescription:
    """A queue as it is now. `created`: the call that returned this created it. `corrupt`: the broker cannot
    tell what it holds; its counts mean nothing, and it can only be deleted."""

    name: str
    uuid: UUID
    created: bool
    settings: QueueSettings
    stats: QueueStats
    corrupt: bool = False


@dataclass(frozen=True, slots=True)
class PartitionDescription:
    """One partition: offsets `start` … `end` can be fetched; not if it is `corrupt`."""

    partition: int
    uuid: UUID
    start: int
    end: int
    bytes: int
    corrupt: bool = False


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as it is now. `created`: the call that returned this created it."""

    name: str
    uuid: UUID
    created: bool
    settings: TopicSettings
    partitions: tuple[PartitionDescription, ...]


@dataclass(frozen=True, slots=True)
class GroupPartition:
    """Where a group stands in one partition. `current`: the next offset to read, None without a commit;
    `lag` in records, `lag_seconds` by append time."""

    topic: str
    partition: int
    current: int | None
    end: int
    lag: int | None
    lag_seconds: float | None
    member: str | None


@dataclass(frozen=True, slots=True)
class GroupDescription:
    """A consumer group as it is now."""

    name: str
    partitions: tuple[GroupPartition, ...]
