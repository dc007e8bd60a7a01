"""Every setting of a queue: its default, its range, and what is checked between settings.

One table. What a client sends is a map of names to wire values (times in ms, sizes in bytes, None for
unlimited); a queue holds a `Policy` with every value filled in.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from random import Random
from typing import Any, NamedTuple

from penstock_broker import durability
from penstock_broker.checks import Check, checked, choice, flag, integer, number, or_none
from penstock_protocol.errors import Invalid
from penstock_protocol.limits import (
    DEDUP_WINDOW_MS_MAX,
    DELAY_MS_MAX,
    FIELDS_ARRAY_MAX,
    INT_MAX,
    LABEL_BYTES_MAX,
    NAME_CHARACTERS_MAX,
    VISIBILITY_MS_MAX,
)

GIB = 1 << 30
DEAD_SUFFIX = ".dead"


RATE_MAX = 1_000_000
WEIGHTS_MAX = FIELDS_ARRAY_MAX // 2


def _name() -> Check:
    limit = NAME_CHARACTERS_MAX + len(DEAD_SUFFIX)
    return Check(lambda value: type(value) is str and 0 < len(value) <= limit, "a queue name")


def _weights() -> Check:
    def holds(value: Any) -> bool:
        if type(value) not in (tuple, list) or len(value) % 2 or len(value) > 2 * WEIGHTS_MAX:
            return False
        names, weights = value[::2], value[1::2]
        groups = all(type(name) is str and len(name.encode()) <= LABEL_BYTES_MAX for name in names)
        return groups and all(map(number(0.001, 1_000).holds, weights))

    what = f"a message group, text of up to {LABEL_BYTES_MAX} bytes, and a weight from 0.001 to 1,000"
    return Check(holds, f"up to {WEIGHTS_MAX:,} pairs of {what}")


SETTINGS: dict[str, Check] = {
    "visibility_timeout": integer(1, VISIBILITY_MS_MAX),  # SQS: 12 h
    "max_attempts": or_none(integer(1, 1_000)),  # SQS: maxReceiveCount 1 … 1,000
    "max_deliveries": or_none(integer(1, 100_000)),
    "dead_letter": or_none(_name()),
    "retry_initial": integer(0, DELAY_MS_MAX),
    "retry_factor": number(1, 100),
    "retry_max": integer(0, DELAY_MS_MAX),
    "retry_jitter": number(0, 1),
    "max_messages": or_none(integer(0, INT_MAX)),
    "max_bytes": or_none(integer(0, INT_MAX)),
    "max_in_flight": integer(1, 1_000_000),
    "overflow": choice("reject", "drop_oldest", "dead_letter_oldest"),
    "delay": integer(0, DELAY_MS_MAX),  # SQS: DelaySeconds, up to 15 min
    "ttl": or_none(integer(1, DELAY_MS_MAX)),
    "on_expiry": choice("drop", "dead_letter"),
    "dedup_window": integer(0, DEDUP_WINDOW_MS_MAX),  # SQS: 5 min, fixed
    "content_dedup": flag(),
    "job_scope": choice("done", "queued"),
    "priority_ageing": or_none(integer(1, DELAY_MS_MAX)),
    "single_active": flag(),
    "paused": flag(),
    "fair": flag(),
    "group_concurrency": or_none(integer(1, 100_000)),
    "group_failure": choice("block", "park", "skip"),
    "group_weights": _weights(),
    "group_rate": or_none(number(0.001, RATE_MAX)),
    "rate": or_none(number(0.001, RATE_MAX)),
    "expires": or_none(integer(1, DELAY_MS_MAX)),
    "exclusive": flag(),
    "source": or_none(_name()),
    "source_start": choice("earliest", "latest"),
    "keep_settled": or_none(integer(1, DELAY_MS_MAX)),
    "durability": or_none(Check(durability.is_mode, durability.ALLOWED)),
}


@dataclass(frozen=True, slots=True)
class Policy:
    """How a queue behaves. Times in ms, sizes in bytes, None = unlimited."""

    visibility_timeout: int = 30_000  # SQS: 30 s
    max_attempts: int | None = 5
    max_deliveries: int | None = 50
    dead_letter: str | None = None
    retry_initial: int = 1_000
    retry_factor: float = 2
    retry_max: int = 300_000
    retry_jitter: float = 0.2
    max_messages: int | None = 1_000_000
    max_bytes: int | None = 8 * GIB
    max_in_flight: int = 100_000
    overflow: str = "reject"
    delay: int = 0
    """ms before a message is delivered that does not say otherwise."""
    ttl: int | None = None
    """ms after which a message expires, or sooner if it says so."""
    on_expiry: str = "drop"
    dedup_window: int = 300_000  # SQS: 5 min
    content_dedup: bool = False
    """A message without a dedup id has the digest of its body for one."""
    job_scope: str = "done"
    """How long a job key is taken: until its message is done, or while it is queued."""
    priority_ageing: int | None = None
    """ms after which a message that waits rises by one priority."""
    single_active: bool = False
    paused: bool = False
    fair: bool = False
    group_concurrency: int | None = None
    """Messages of one group in flight; None: 1, in a fair queue any number."""
    group_failure: str = "block"
    group_weights: tuple[Any, ...] = ()
    """Name, weight, name, weight, … of tenants of a fair queue; the others weigh 1."""
    group_rate: float | None = None
    rate: float | None = None
    """Messages per second that are handed out."""
    expires: int | None = None
    """ms without a consumer, a receive or a publish after which the queue is deleted."""
    exclusive: bool = False
    """It ends with the session that created it."""
    source: str | None = None
    """The topic whose records are its messages."""
    source_start: str = "earliest"
    """From where on, when it is created."""
    keep_settled: int | None = None
    durability: str | None = None
    """A mode; None is the node's."""

    def delay_of(self, failures: int, random: Random) -> int:
        """ms until a message that failed that often (1, 2, …) is tried again: a curve with jitter."""
        base = min(self.retry_max, self.retry_initial * self.retry_factor ** min(failures - 1, 64))
        return round(base * (1 + self.retry_jitter * random.uniform(-1, 1)))

    @property
    def marks_all(self) -> bool:
        """Even a plain message has traits here."""
        return self.delay > 0 or self.ttl is not None or self.content_dedup or self.fair

    def as_map(self) -> dict[str, Any]:
        """Every setting by name, as on the wire."""
        return asdict(self)


def policy_for(name: str, settings: Mapping[str, Any], before: Policy | None = None) -> Policy:
    """The policy of queue `name` with `settings` over `before` or the defaults.

    Without a say, dead letters go to `<name>.dead`, unless the queue has no limit at all. Raises
    `Invalid` for what does not go together.
    """
    given = checked("queue", SETTINGS, settings)
    values = before.as_map() if before is not None else default_settings(name)
    if before is None and given.get("max_attempts", 0) is None and given.get("max_deliveries", 0) is None:
        values["dead_letter"] = None
    values.update(given)
    values["group_weights"] = tuple(values["group_weights"])
    policy = Policy(**values)
    if policy.dead_letter is None and (policy.max_attempts is not None or policy.max_deliveries is not None):
        raise Invalid(
            "dead_letter=None needs max_attempts=None and max_deliveries=None",
            hint="name a dead-letter queue, or lift both limits: such messages would have nowhere to go",
        )
    if policy.dead_letter == name:
        raise Invalid("a queue cannot be its own dead-letter queue", hint="name another queue")
    for setting, value in (("on_expiry", "dead_letter"), ("overflow", "dead_letter_oldest")):
        if getattr(policy, setting) == value and policy.dead_letter is None:
            raise Invalid(f"{setting}={value!r} needs a dead-letter queue", hint="name one with dead_letter=")
    return policy


def check_cycle(name: str, policy: Policy, dead_letter_of: Callable[[str], str | None]) -> None:
    """Raises `Invalid` if dead letters of queue `name` would come back to it. `dead_letter_of`: where those
    of another queue go, if it is there."""
    path = [name]
    after = policy.dead_letter
    while after is not None:
        path.append(after)
        if after == name:
            raise Invalid(
                f"dead letters would go round: {' → '.join(path)}",
                hint="name a dead-letter queue that has none, or another one, itself",
            )
        if after in path[:-1]:
            return  # a round that this queue is not part of
        after = dead_letter_of(after)


class Unkept(NamedTuple):
    """A setting that does nothing in a queue over a topic: why, what to do, and what holds there anyway."""

    why: str
    instead: str
    anyway: tuple[Any, ...] = ()


_ROOM = "what is produced to the topic is never refused for the queue's sake"
_BOUND = "bound the topic, with retention or retention_bytes"
_PLAIN = "a record has no message group, job key or priority"
_OWN = "leave it out, or publish to a queue without a source"
OVER_TOPIC: dict[str, Unkept] = {
    "max_messages": Unkept(_ROOM, _BOUND, (None,)),
    "max_bytes": Unkept(_ROOM, _BOUND, (None,)),
    "overflow": Unkept(_ROOM, _BOUND),
    "delay": Unkept("a record is there as soon as it is produced", _OWN),
    "ttl": Unkept("a record expires when the topic's retention takes it", "set the topic's retention"),
    "on_expiry": Unkept("what retention took cannot be dead-lettered any more", _OWN),
    "dedup_window": Unkept("a record has no dedup id", "produce with a named producer", (0,)),
    "content_dedup": Unkept("records that are alike are all kept", _OWN),
    "job_scope": Unkept(_PLAIN, _OWN),
    "priority_ageing": Unkept(_PLAIN, _OWN),
    "fair": Unkept(_PLAIN, _OWN),
    "group_concurrency": Unkept(_PLAIN, _OWN),
    "group_failure": Unkept(_PLAIN, _OWN),
    "group_weights": Unkept(_PLAIN, _OWN),
    "group_rate": Unkept(_PLAIN, "limit the whole queue with rate"),
    "keep_settled": Unkept(
        "a settled record is there as long as the topic keeps it", "set the topic's retention"
    ),
}
"""Their defaults may be said: who says them asks for nothing."""
IN_MS = frozenset({"delay", "ttl", "dedup_window", "priority_ageing", "keep_settled"})


def check_over_topic(policy: Policy, given: Iterable[str]) -> None:
    """Raises `Invalid` for a setting that was given and cannot be kept, if the queue is over a topic."""
    if policy.source is None:
        return
    plain = Policy()
    for name in sorted(OVER_TOPIC.keys() & set(given)):
        value, (why, instead, anyway) = getattr(policy, name), OVER_TOPIC[name]
        if value != getattr(plain, name) and value not in anyway:
            raise Invalid(
                f"{name}={value!r}{' ms' * (name in IN_MS)} is not kept by a queue over a topic: {why}",
                hint=instead,
            )


def default_settings(name: str) -> dict[str, Any]:
    """What a queue of that name has when nothing is said."""
    values = {field.name: field.default for field in fields(Policy)}
    values["dead_letter"] = name + DEAD_SUFFIX
    return values


DEAD_LETTER_SETTINGS: dict[str, Any] = {"dead_letter": None, "max_attempts": None, "max_deliveries": None}
"""Of a dead-letter queue made on first need."""
