"""What can be observed of a running node, as plain values: the source of metrics, stats and health."""

from typing import NamedTuple

from penstock_broker.meters import Histogram


class QueueFacts(NamedTuple):
    """One queue. Counts are messages, ages are seconds, totals count since the node started."""

    name: str
    ready: int
    held: int
    """Behind another of their message group; part of the ready ones."""
    delayed: int
    in_flight: int
    waiting: int
    bytes: int
    settled_total: int
    oldest_age: dict[str, float]
    """State → age of its oldest message; a state without messages is absent."""
    consumers: int
    enqueued: int
    delivered: int
    redelivered: int
    acked: int
    nacked: int
    lease_expired: int
    expired: int
    dropped: int
    duplicates: int
    dead_lettered: dict[str, int]
    """Reason (rejected, max_attempts, max_deliveries, expired, overflow) → messages."""
    refused: dict[str, int]
    """Error name → messages of refused publishes."""
    blocked_groups: int
    throttled_tenants: int
    """Message groups over their rate, and tenants at their cap."""


class PartitionFacts(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int
    start: int
    end: int
    bytes: int
    records_dropped: int
    """By retention, since the node started; offsets, holes included."""
    bytes_dropped: int
    records_filtered: int
    """That readers came by and did not want, since the node started; each reader counts."""
    records_compacted: int
    """Removed by compaction, ever."""
    dirty_ratio: float | None
    """Share of its old bytes that compaction has not looked at; None if it is not compacted."""
    compacted_at: int
    """Wall ms of the last pass; 0 without one."""


class GroupFacts(NamedTuple):
    """One group on one partition. Rates are records a second, means of the last minute or of the time since
    the group's first commit; `catch_up_seconds` is None if it falls behind or stands still."""

    group: str
    topic: str
    partition: int
    current: int
    end: int
    lag: int
    lag_seconds: float
    """Age of the first record not read; 0 at the end."""
    rate_in: float
    rate_out: float
    catch_up_seconds: float | None
    member: str | None


class MemberFacts(NamedTuple):
    """One group that has members."""

    group: str
    members: int
    moving: int
    """Partitions on their way from one member to another."""


class StorageFacts(NamedTuple):
    """The data directory. Sizes in bytes, totals since the node started."""

    written: int
    journal: int
    free: int
    segments: int
    segment_bytes: dict[str, int]
    """What segments hold: alive (something points to it) or dead."""
    moved: dict[str, int]
    """Why batches were moved (archived, evacuated) → bytes."""
    indexes_rebuilt: int


class NodeFacts(NamedTuple):
    """The whole node."""

    queues: list[QueueFacts]
    partitions: list[PartitionFacts]
    groups: list[GroupFacts]
    members: list[MemberFacts]
    connections: int
    sessions: int
    payload_bytes: int
    storage: StorageFacts
    disk_full: bool
    recovery_seconds: float
    boot: int
    waits: Histogram
    services: Histogram
    durability: str
    """Mode of what does not choose its own: fsync, interval:…ms or os."""
