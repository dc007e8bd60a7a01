"""The values users hand in and get back, and their form on the wire.

Durations are float seconds or `timedelta` here, milliseconds there; instants are aware `datetime`s here, ms
since 1970 there; None is unlimited on both sides. What is wrong is refused here with `Invalid`. What is
published is in outgoing.py. Nothing here knows a connection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from math import isfinite, nan
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict, TypeVar, cast
from uuid import UUID

from penstock.errors import Invalid
from penstock_protocol.batch import Kind
from penstock_protocol.limits import (
    DEDUP_WINDOW_MS_MAX,
    DELAY_MS_MAX,
    FIELDS_ARRAY_MAX,
    INT_MAX,
    LABEL_BYTES_MAX,
    VISIBILITY_MS_MAX,
)

Duration: TypeAlias = float | timedelta
Header: TypeAlias = str | bytes | int | float | bool | None
Headers: TypeAlias = Mapping[str, Header]
Cells: TypeAlias = Sequence[tuple[Kind, bytes | int]]
"""Column values of one message, in the wire's encoding."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)
DAY_MS = 86_400_000
SHOWN_CHARACTERS_MAX = 80


def shown(value: object) -> str:
    """What was handed in, as it is typed, and cut where nobody reads on."""
    try:
        text = str(value) if isinstance(value, timedelta) else repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}…"


def seconds_of(duration: Duration, what: str = "", least_ms: int = 0, most_ms: int = INT_MAX) -> float:
    """Seconds of a duration. Raises `Invalid` for what is none, and for one beyond its bounds. `what`: how
    the error calls it."""
    try:
        if isinstance(duration, bool | str | bytes | bytearray):  # some of them could be made a float
            raise TypeError
        seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    except (TypeError, ValueError, OverflowError):
        seconds = nan
    if not (isfinite(seconds) and seconds >= 0):
        raise _no_duration(duration, what, "is not a duration", least_ms, most_ms)
    if seconds * 1000 > most_ms or (least_ms and max(seconds * 1000, seconds > 0) < least_ms):
        raise _no_duration(duration, what, "is not allowed", least_ms, most_ms)
    return seconds


def _no_duration(duration: object, what: str, why: str, least_ms: int, most_ms: int) -> Invalid:
    given = f"{what}={shown(duration)}" if what else shown(duration)
    end = "up" if most_ms == INT_MAX else f"to {most_ms / 1000:,.0f}"
    if 2 * DAY_MS <= most_ms < INT_MAX:
        end += f" ({most_ms // DAY_MS} days{', ten years' if most_ms == DELAY_MS_MAX else ''})"
    return Invalid(
        f"{given} {why}", hint=f"allowed: seconds from {least_ms / 1000:g} {end}, or a timedelta of as much"
    )


def ms_of(duration: Duration, what: str = "", least_ms: int = 0, most_ms: int = INT_MAX) -> int:
    """Whole milliseconds of a duration, at least 1 if it is not 0. Raises as `seconds_of`."""
    seconds = seconds_of(duration, what, least_ms, most_ms)
    return max(round(seconds * 1000), 1) if seconds else 0


def instant_of(ms: int) -> datetime:
    """ms since 1970 as an aware datetime in UTC."""
    return EPOCH + ms * MS


def ms_at(instant: datetime, what: str = "") -> int:
    """ms since 1970 of an aware datetime. Raises `Invalid` for a naive one, one before 1970 and what is none;
    `what`: how the error calls it."""
    if not isinstance(instant, datetime):
        raise _no_instant(instant, what, "is no datetime")
    if instant.tzinfo is None:
        raise _no_instant(instant, what, "has no time zone")
    if instant < EPOCH:
        raise _no_instant(instant, what, "lies before 1970")
    return (instant - EPOCH) // MS


def _no_instant(instant: object, what: str, why: str) -> Invalid:
    given = f"{what}={shown(instant)}" if what else shown(instant)
    return Invalid(f"{given} {why}", hint="for instance datetime.now(timezone.utc)")


# What is confirmed


class Receipt(NamedTuple):
    """An enqueued message. `duplicate`: an earlier try of this call had got through, or an earlier message of
    the same dedup id or job key stands for it, and `id` and `offset` are that one's. `durability`: the mode
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


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


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
    max_in_flight: int  # leased at once; above, nothing is delivered [100,000; SQS: 120,000]
    overflow: Literal["reject", "drop_oldest", "dead_letter_oldest"]  # what a full queue does ["reject"]
    delay: Duration  # of every message that names none, up to 10 years (SQS: 15 min) [0]
    ttl: Duration | None  # of every message that does not name a shorter one [None]
    on_expiry: Literal["drop", "dead_letter"]  # where expired messages go ["drop"]
    dedup_window: Duration  # how long a dedup id is remembered, 0 … 7 d [300 s, as SQS]
    content_dedup: bool  # a message without a dedup id has the hash of its body as one [False]
    job_scope: Literal["done", "queued"]  # a job key is taken until its message is done, or in hand ["done"]
    priority_ageing: Duration | None  # one step of priority more for each such time of waiting [None]
    single_active: bool  # one consumer at a time, the next takes over when it goes [False]
    paused: bool  # nothing is delivered [False]
    fair: bool  # message groups are tenants: they share, instead of keeping an order [False]
    group_concurrency: int | None  # of a message group in flight; None: 1, or no cap in a fair queue [None]
    group_failure: Literal["block", "park", "skip"]  # what a failed head means for its group ["block"]
    group_weights: Mapping[str, float]  # a tenant's share, if it is not 1; at most 32 tenants [none]
    rate: float | None  # deliveries a second [None]
    group_rate: float | None  # deliveries a second of each message group [None]
    expires: Duration | None  # deleted when unused for that long [None]
    exclusive: bool  # goes with the session that made it [False]
    source: str | None  # the topic (not compacted) whose records are its messages; fixed once created [None]
    keep_settled: Duration | None  # how long settled messages' bytes are kept; they count as bytes [None]
    durability: str | None  # "fsync", "interval:50ms" or "os"; None is the broker's [None]


class TopicSettings(TypedDict, total=False):
    """Settings of a topic; those not given keep their value, or the default (in brackets) at creation."""

    partitions: int  # [1]; may be raised later: keys move then
    retention: Duration | None  # records older than that may go [7 d]
    retention_bytes: int | None  # of the whole topic: what is more may go, oldest first [None]
    cleanup: Literal["delete", "compact", "both"]  # compact: the last record of each key stays ["delete"]
    tombstone_retention: Duration  # how long compaction keeps a tombstone [1 d]
    durability: str | None  # "fsync", "interval:50ms" or "os"; None is the broker's [None]


IfExists: TypeAlias = Literal["check", "alter", "keep"]
"""An existing object: compare the settings passed (`Conflict`), change them, or leave it alone."""

DURATIONS = {
    "visibility_timeout": (1, VISIBILITY_MS_MAX),
    "dedup_window": (0, DEDUP_WINDOW_MS_MAX),
    **dict.fromkeys(("retry_initial", "retry_max", "delay"), (0, DELAY_MS_MAX)),
    **dict.fromkeys(("ttl", "priority_ageing", "expires", "keep_settled"), (1, DELAY_MS_MAX)),
    **dict.fromkeys(("retention", "tombstone_retention"), (0, DELAY_MS_MAX)),
}
"""Settings that are milliseconds on the wire, and from how many to how many: the broker would speak of
milliseconds to somebody who gave seconds."""
WEIGHTS_MAX = FIELDS_ARRAY_MAX // 2
"""Of tenants: on the wire they are one list, name and weight in turn."""


def check_backoff(retry: object) -> None:
    """Raises `Invalid` for what is no `Backoff`."""
    if not isinstance(retry, Backoff):
        raise Invalid("retry takes a Backoff", hint="for instance retry=penstock.Backoff(initial=1, max=300)")


def settings_to_wire(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the caller passed, in the wire's names and units; ranges that are not of time are judged by the
    broker alone."""
    flat = dict(settings)
    retry = flat.pop("retry", None)
    if retry is not None:
        check_backoff(retry)
        flat |= {f"retry_{each.name}": getattr(retry, each.name) for each in fields(retry)}
    if "group_weights" in flat:
        flat["group_weights"] = _weights(flat["group_weights"])
    return {
        name: ms_of(value, name, *DURATIONS[name]) if name in DURATIONS and value is not None else value
        for name, value in flat.items()
    }


def _weights(weights: Any) -> tuple[object, ...]:
    if not isinstance(weights, Mapping) or len(weights) > WEIGHTS_MAX:
        raise _no_weights(weights)
    for name, weight in weights.items():
        if not isinstance(name, str) or len(name.encode(errors="replace")) > LABEL_BYTES_MAX:
            raise _no_weights(weights)
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0.001 <= weight <= 1_000:
            raise _no_weights(weights)
    return tuple(each for pair in weights.items() for each in pair)


def _no_weights(weights: object) -> Invalid:
    return Invalid(
        f"group_weights={shown(weights)}: it maps at most {WEIGHTS_MAX} message groups, text of up to"
        f" {LABEL_BYTES_MAX} bytes each, to their weights, numbers from 0.001 to 1,000",
        hint='for instance group_weights={"acme": 3}; every other group has 1',
    )


def queue_settings_from_wire(settings: Mapping[str, Any]) -> QueueSettings:
    """The inverse of `settings_to_wire`: what could be passed again. What only a newer client knows is left
    out."""
    flat = _in_seconds(settings)
    flat["retry"] = Backoff(**{each.name: flat[f"retry_{each.name}"] for each in fields(Backoff)})
    if "group_weights" in flat:
        weights = flat["group_weights"] or ()
        flat["group_weights"] = dict(zip(weights[::2], weights[1::2], strict=True))
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
    none. `bytes`: of messages not settled. `held`: those of `ready` that wait behind another of their message
    group or job key. `blocked_groups`: message groups whose head has failed; `throttled_tenants`: those that
    a rate or cap holds back now."""

    ready: int
    delayed: int
    in_flight: int
    waiting: int
    settled_total: int
    oldest_age: float | None
    bytes: int
    held: int = 0
    blocked_groups: int = 0
    throttled_tenants: int = 0


class Redriven(NamedTuple):
    """What a redrive, a replay or a move has moved, or would move (`dry_run`)."""

    messages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One time a message was handed out and failed. `start`: None if the broker has not kept it; `outcome`:
    how it ended (nacked, lease expired, …); `error`: the reason that was given."""

    consumer: str
    start: datetime | None
    end: datetime
    outcome: str
    error: str | None


@dataclass(frozen=True, slots=True)
class History:
    """What became of a message so far. `queue`, `offset`: where it was first; `first_at`: when it was
    enqueued there; `last_at`, `reason`: when and why it was dead-lettered last, None if it was not;
    `attempts`: those that failed, the last 50 of them."""

    queue: str
    offset: int
    first_at: datetime
    last_at: datetime | None
    reason: str | None
    attempts: tuple[Attempt, ...]


def history_of(document: Mapping[str, Any]) -> History:
    """The history in a message's column."""
    attempts = [
        Attempt(consumer, instant_of(start) if start else None, instant_of(end), outcome, error)
        for consumer, start, end, outcome, error in document["attempts"]
    ]
    return History(
        document["queue"],
        document["offset"],
        instant_of(document["first_at"]),
        instant_of(document["last_at"]) if document["last_at"] else None,
        document["reason"],
        tuple(attempts),
    )


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a message is where it is: its state, why it is not delivered now, in plain words (empty: it is
    next), and the facts behind them."""

    state: str
    reasons: tuple[str, ...]
    facts: Mapping[str, Any]


class StoryLine(NamedTuple):
    """Something that happened to a message."""

    when: datetime
    what: str
    detail: str


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
class ProducerDescription:
    """A name to produce under. `epoch`: how often it was opened; `client`: who did it last."""

    name: str
    epoch: int
    opened_at: datetime
    client: str


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
    """Where a group stands in one partition. `current`: the next offset to read, None without a commit; `lag`
    in records, `lag_seconds` by append time. `rate_in`, `rate_out`: records per second that came and that
    were committed, over the last minute. `catch_up_seconds`: at that pace, None if it never does.
    `member`: who reads it."""

    topic: str
    partition: int
    current: int | None
    end: int
    lag: int | None
    lag_seconds: float | None
    rate_in: float
    rate_out: float
    catch_up_seconds: float | None
    member: str | None


class GroupMember(NamedTuple):
    """Who is in a group. `state`: steady; yielding: it was asked to give something up; away: a named instance
    whose seat is kept. `topics`: what it subscribed to, patterns too; `partitions`: what it may read."""

    member: str
    client: str
    instance: str | None
    state: str
    topics: tuple[str, ...]
    partitions: tuple[TopicPartition, ...]


@dataclass(frozen=True, slots=True)
class GroupDescription:
    """A consumer group now. `state`: empty, stable or balancing. `assignor`: None without members."""

    name: str
    partitions: tuple[GroupPartition, ...]
    state: str
    generation: int
    assignor: str | None
    members: tuple[GroupMember, ...]
