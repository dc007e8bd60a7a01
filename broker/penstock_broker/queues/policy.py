"""Every setting of a queue: its default, its range, and what is checked between settings.

One table. What a client sends is a map of names to wire values (times in ms, sizes in bytes, None for
unlimited); a queue holds a `Policy` with every value filled in.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from random import Random
from typing import Any

from penstock_broker import durability
from penstock_broker.checks import Check, checked, choice, integer, number, or_none
from penstock_protocol.errors import Invalid
from penstock_protocol.limits import DELAY_MS_MAX, INT_MAX, NAME_CHARACTERS_MAX, VISIBILITY_MS_MAX

GIB = 1 << 30
DEAD_SUFFIX = ".dead"


def _name() -> Check:
    limit = NAME_CHARACTERS_MAX + len(DEAD_SUFFIX)
    return Check(lambda value: type(value) is str and 0 < len(value) <= limit, "a queue name")


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
    "overflow": choice("reject"),
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
    keep_settled: int | None = None
    durability: str | None = None
    """A mode; None is the node's."""

    def delay(self, failures: int, random: Random) -> int:
        """ms until a message that failed that often (1, 2, …) is tried again: a curve with jitter."""
        base = min(self.retry_max, self.retry_initial * self.retry_factor ** min(failures - 1, 64))
        return round(base * (1 + self.retry_jitter * random.uniform(-1, 1)))

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
    policy = Policy(**values)
    if policy.dead_letter is None and (policy.max_attempts is not None or policy.max_deliveries is not None):
        raise Invalid(
            "dead_letter=None needs max_attempts=None and max_deliveries=None",
            hint="name a dead-letter queue, or lift both limits: such messages would have nowhere to go",
        )
    if policy.dead_letter == name:
        raise Invalid("a queue cannot be its own dead-letter queue", hint="name another queue")
    return policy


def default_settings(name: str) -> dict[str, Any]:
    """What a queue of that name has when nothing is said."""
    values = {field.name: field.default for field in fields(Policy)}
    values["dead_letter"] = name + DEAD_SUFFIX
    return values


DEAD_LETTER_SETTINGS: dict[str, Any] = {"dead_letter": None, "max_attempts": None, "max_deliveries": None}
"""Of a dead-letter queue made on first need."""
