"""What the core is told at its start; `config.py` makes one of these from flags, environment and files."""

from dataclasses import dataclass

from penstock_protocol.limits import MESSAGE_BYTES_MAX_DEFAULT, MIB, REQUESTS_IN_FLIGHT_MAX


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """Sizes in bytes, times in ms."""

    durability: str = "fsync"
    journal_budget_bytes: int | None = None
    """None: 1 GiB, at most an eighth of the file system."""
    journal_file_bytes_min: int = 1 * MIB
    journal_file_bytes_max: int = 64 * MIB
    compaction_dirty_ratio: float = 0.5
    """Kafka: min.cleanable.dirty.ratio."""
    session_grace_ms: int = 10_000
    group_session_ms: int = 45_000
    """A member that is not heard of for so long is gone. Kafka: session.timeout.ms."""
    group_heartbeat_ms: int = 3_000
    """Kafka: heartbeat.interval.ms."""
    group_rebalance_ms: int = 300_000
    """How long a member may take to give a partition up. Kafka: max.poll.interval.ms."""
    group_offsets_ms: int = 30 * 86_400_000
    """How long the offsets of a group without members are kept. Kafka: 7 days."""
    message_bytes_max: int = MESSAGE_BYTES_MAX_DEFAULT
    publish_pool_bytes: int = 64 * MIB
    """Publishes of all connections that are not confirmed yet."""
    credit_bytes: int = 4 * MIB
    """Publishes of one connection that are not confirmed yet."""
    requests_max: int = REQUESTS_IN_FLIGHT_MAX
    ping_ms: int = 30_000
    server_name: str = "penstock"
