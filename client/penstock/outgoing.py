"""What users hand in to be published, and its columns on the wire.

    given            column          on the wire
    delay, ttl       DELAY, TTL      ms, from the append on
    at               AT              ms since 1970
    priority         PRIORITY        u8; none if it is 0
    labels           one each        msgpack str of 1 … 255 bytes UTF-8
    on_conflict      ON_CONFLICT     u8; none if it is "reject"

What is wrong is refused here, before it shares a batch with somebody else's message; what depends on the
queue is judged by the broker. A plain body has no columns, and never comes here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Literal, TypeAlias, TypedDict

import msgpack

from penstock import checks
from penstock.errors import Invalid, TooLarge
from penstock.values import Cells, Duration, Headers, instant_of, ms_at, ms_of, shown
from penstock_protocol.batch import Kind
from penstock_protocol.batch import OnConflict as Rule
from penstock_protocol.limits import (
    DELAY_MS_MAX,
    HEADER_KEY_BYTES_MAX,
    HEADER_KEYS_MAX,
    HEADERS_BYTES_MAX,
    KEY_BYTES_MAX,
    PRIORITY_MAX,
)

OnConflict: TypeAlias = Literal["reject", "keep", "replace", "run_after"]
"""What becomes of a message whose job key is taken: refused (`Conflict`); not enqueued, the receipt is that
of the older one; put in its place, unless that is in flight; delivered when those before it are done."""

RULES = {rule.name.lower(): rule for rule in Rule}


class RequestOptions(TypedDict, total=False):
    """What `Queue.request` takes beside the body: see `EnqueueOptions`."""

    headers: Headers | None
    delay: Duration | None
    at: datetime | None
    ttl: Duration | None
    priority: int
    message_group: str | None
    dedup_id: str | None
    job_key: str | None
    on_conflict: OnConflict | None
    content_type: str | None


class EnqueueOptions(RequestOptions, total=False):
    """What `Queue.enqueue` takes beside the body; the meaning of each is in `Outgoing`."""

    reply_to: str | None
    correlation_id: str | None


@dataclass(slots=True)  # not frozen: making a frozen one takes eight times as long, more than its cells do
class Outgoing:
    """One message of `enqueue_many` or record of `produce_many` that is more than its body.

    For topics alone: `key`, `partition`, `timestamp`; `body` None with a key is a tombstone. For queues:

    `delay`, `at`: not delivered before (at most 10 years; SQS: 15 min). `ttl`: expires that long after its
    append. `priority`: 0 to 9, 9 first (RabbitMQ recommends up to 10). `message_group`: strict order among
    the messages of a group (SQS: MessageGroupId), or the tenant in a fair queue. `dedup_id`: only the first
    of that id within the queue's `dedup_window` counts (SQS: MessageDeduplicationId). `job_key`: at most one
    such message at a time, else `on_conflict`. `reply_to`, `correlation_id`, `content_type`: told to the
    receiver as they are (AMQP's properties of these names).
    """

    body: Any
    headers: Headers | None = None
    key: bytes | str | None = None
    partition: int | None = None
    timestamp: datetime | None = None
    delay: Duration | None = None
    at: datetime | None = None
    ttl: Duration | None = None
    priority: int = 0
    message_group: str | None = None
    dedup_id: str | None = None
    job_key: str | None = None
    on_conflict: OnConflict | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    content_type: str | None = None


OF_TOPICS = ("key", "partition", "timestamp")
LABELS = (
    ("message_group", Kind.MESSAGE_GROUP),
    ("dedup_id", Kind.DEDUP_ID),
    ("job_key", Kind.JOB_KEY),
    ("reply_to", Kind.REPLY_TO),
    ("correlation_id", Kind.CORRELATION_ID),
    ("content_type", Kind.CONTENT_TYPE),
)
OF_QUEUES = ("delay", "at", "ttl", "priority", "on_conflict", *(name for name, _ in LABELS))
_labels = attrgetter(*(name for name, _ in LABELS))
_of_topics = attrgetter(*OF_TOPICS)
_of_queues = attrgetter(*OF_QUEUES)
NO_LABELS = (None,) * len(LABELS)
PLAIN_RECORD = (None, None, None, 0, None, *NO_LABELS)
PLAIN_MESSAGE = (None,) * len(OF_TOPICS)


def record_cells(item: Outgoing, *, absent: bool = False) -> Cells:
    """The column values of a record. Raises `Invalid` or `TooLarge` for what the wire does not carry."""
    if _of_queues(item) != PLAIN_RECORD:
        given = next(name for name in OF_QUEUES if getattr(item, name) not in (None, 0))
        raise Invalid(f"a record of a topic has no {given}", hint="that is for queues")
    cells: list[tuple[Kind, bytes | int]] = []
    if item.key is not None:
        cells.append((Kind.KEY, _pack(key_of(item.key), "key")))
    if item.headers is not None:
        cells += _headers(item.headers)
    if item.timestamp is not None:
        cells.append((Kind.TIMESTAMP, ms_at(item.timestamp, "timestamp")))
    if absent:
        cells.append((Kind.ABSENT, 1))
    return cells


def message_cells(item: Outgoing, now_ms: Callable[[], int]) -> Cells:
    """The column values of a message of a queue. `now_ms`: the broker's wall clock. Raises as
    `record_cells`."""
    if _of_topics(item) != PLAIN_MESSAGE:
        given = next(name for name in OF_TOPICS if getattr(item, name) is not None)
        raise Invalid(f"a message of a queue has no {given}", hint="that is for topics")
    cells: list[tuple[Kind, bytes | int]] = []
    if item.headers is not None:
        cells += _headers(item.headers)
    labels = _labels(item)
    if labels != NO_LABELS:
        pairs = zip(LABELS, labels, strict=True)
        cells += [(kind, _label(name, label)) for (name, kind), label in pairs if label is not None]
    if item.priority or type(item.priority) is not int:
        cells.append((Kind.PRIORITY, _priority(item.priority)))
    if item.delay is not None or item.at is not None:
        cells += _not_before(item.delay, item.at, now_ms)
    if item.ttl is not None:
        cells.append((Kind.TTL, _ttl(item.ttl)))
    if item.on_conflict is not None:
        cells += _on_conflict(item)
    elif item.job_key is not None and item.message_group is not None:
        raise _two_orders()
    return cells


def key_of(key: bytes | str) -> bytes:
    """A key as bytes; str is UTF-8. Raises `TooLarge` above 16 KiB."""
    data = key.encode() if isinstance(key, str) else bytes(key)
    if len(data) > KEY_BYTES_MAX:
        raise TooLarge(
            f"key of {len(data):,} bytes; the limit is {KEY_BYTES_MAX:,}", hint="use a digest of it"
        )
    return data


def ms_until(at: datetime, now_ms: Callable[[], int]) -> int:
    """ms since 1970 of when a message becomes ready. Raises `Invalid` beyond ten years."""
    ms = ms_at(at, "at")
    latest = now_ms() + DELAY_MS_MAX
    if ms > latest:
        raise Invalid(f"at={at}: it can be at most ten years ahead, {instant_of(latest)}", hint=_SOONER)
    return ms


def delay_ms(delay: Duration) -> int:
    """ms of a delay. Raises `Invalid` beyond ten years."""
    return ms_of(delay, "delay", 0, DELAY_MS_MAX)


_SOONER = "enqueue it later, or with a shorter delay"


def _not_before(
    delay: Duration | None, at: datetime | None, now_ms: Callable[[], int]
) -> list[tuple[Kind, bytes | int]]:
    if at is None:
        ms = 0 if delay is None else delay_ms(delay)
        return [(Kind.DELAY, ms)] if ms else []
    if delay is not None:
        raise Invalid(f"delay={delay} and at={at} exclude each other", hint="pass one of them")
    return [(Kind.AT, ms_until(at, now_ms))]


def _ttl(ttl: Duration) -> int:
    return ms_of(ttl, "ttl", 1, DELAY_MS_MAX)


def _priority(priority: int) -> int:
    if type(priority) is not int or not 0 <= priority <= PRIORITY_MAX:
        raise Invalid(f"priority={shown(priority)}: it can be 0 to {PRIORITY_MAX}, {PRIORITY_MAX} first")
    return priority


def _on_conflict(item: Outgoing) -> list[tuple[Kind, bytes | int]]:
    given: Any = item.on_conflict
    rule = RULES.get(given) if isinstance(given, str) else None
    if rule is None:
        raise Invalid(f"on_conflict={shown(item.on_conflict)}: it can be {', '.join(RULES)}")
    if item.job_key is None:
        raise Invalid(f"on_conflict={item.on_conflict!r} without a job_key", hint="pass job_key=…, too")
    if item.message_group is not None:
        raise _two_orders()
    return [(Kind.ON_CONFLICT, rule.value)] if rule else []


def _two_orders() -> Invalid:
    return Invalid(
        "message_group and job_key exclude each other: each puts messages in an order of its own",
        hint="pass one of them",
    )


def _label(name: str, label: str) -> bytes:
    checks.label(name, label)
    if name == "reply_to":
        checks.full_name(name, label)
    return _pack(label, name)


def _headers(headers: Headers) -> Cells:
    if type(headers) is not dict and not isinstance(headers, Mapping):
        raise Invalid(
            f"headers={shown(headers)} is no mapping", hint='for instance headers={"type": "order"}'
        )
    if not headers:
        return []
    if len(headers) > HEADER_KEYS_MAX:
        raise TooLarge(
            f"{len(headers)} headers; the limit is {HEADER_KEYS_MAX}", hint="put them into the body"
        )
    for name, value in headers.items():
        if not isinstance(name, str) or len(name.encode(errors="replace")) > HEADER_KEY_BYTES_MAX:
            raise Invalid(f"header name {shown(name)}", hint=f"text of at most {HEADER_KEY_BYTES_MAX} bytes")
        if not isinstance(value, str | bytes | int | float | None):
            raise Invalid(
                f"header {name!r} is a {type(value).__name__}", hint="flat values only; see codecs.json"
            )
    packed = _pack(dict(headers), "headers")
    if len(packed) > HEADERS_BYTES_MAX:
        raise TooLarge(
            f"headers of {len(packed):,} bytes; the limit is {HEADERS_BYTES_MAX:,}",
            hint="put them into the body",
        )
    return [(Kind.HEADERS, packed)]


def _pack(value: object, what: str) -> bytes:
    try:
        packed: bytes = msgpack.packb(value)
    except (OverflowError, ValueError) as error:
        raise Invalid(
            f"{what}={shown(value)} has no form on the wire: {error}",
            hint="integers have 64 bits, text is UTF-8",
        ) from error
    return packed
