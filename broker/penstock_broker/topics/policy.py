"""Every setting of a topic: its default and its range.

One table. What a client sends is a map of names to wire values (times in ms, sizes in bytes, None for
unlimited); a topic holds a `Policy` with every value filled in.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from penstock_broker import durability
from penstock_broker.checks import Check, checked, choice, integer, or_none
from penstock_protocol.limits import DELAY_MS_MAX, INT_MAX, PARTITIONS_MAX

DAY_MS = 86_400_000
DELETE, COMPACT, BOTH = "delete", "compact", "both"

SETTINGS: dict[str, Check] = {
    "partitions": integer(1, PARTITIONS_MAX),
    "retention": or_none(integer(0, DELAY_MS_MAX)),
    "retention_bytes": or_none(integer(0, INT_MAX)),
    "cleanup": choice(DELETE, COMPACT, BOTH),
    "tombstone_retention": integer(0, DELAY_MS_MAX),
    "durability": or_none(Check(durability.is_mode, durability.ALLOWED)),
}


@dataclass(frozen=True, slots=True)
class Policy:
    """How a topic behaves. Times in ms, sizes in bytes, None = unlimited."""

    partitions: int = 1
    retention: int | None = 7 * DAY_MS
    """Age at which a record may go, by append time. Kafka: log.retention.hours, 7 days."""
    retention_bytes: int | None = None
    """Of the whole topic: what is more may go, oldest first. Kafka counts per partition."""
    cleanup: str = DELETE
    """What bounds it: deletes what is too old or too much, compacts to the last record per key, or both."""
    tombstone_retention: int = DAY_MS
    """How long compaction keeps a tombstone. Kafka: delete.retention.ms, 1 day."""
    durability: str | None = None
    """None: the node's."""

    @property
    def age_max(self) -> int | None:
        """Records that are older (ms) may go; None: however old."""
        return None if self.cleanup == COMPACT else self.retention

    @property
    def size_max(self) -> int | None:
        """Above so many bytes of the whole topic the oldest records may go; None: however many."""
        return None if self.cleanup == COMPACT else self.retention_bytes

    @property
    def compacts(self) -> bool:
        """Older records of a key give way to the last."""
        return self.cleanup != DELETE

    def as_map(self) -> dict[str, Any]:
        """Every setting by name, as on the wire."""
        return asdict(self)


def policy_for(settings: Mapping[str, Any], before: Policy | None = None) -> Policy:
    """The policy with `settings` over `before` or the defaults. Raises `Invalid`."""
    given = checked("topic", SETTINGS, settings)
    return Policy(**{**(before or Policy()).as_map(), **given})
