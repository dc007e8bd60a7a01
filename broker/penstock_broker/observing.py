"""Gathers what can be observed of a node, when somebody asks."""

from collections import Counter
from typing import TYPE_CHECKING

from penstock_broker.clock import Now
from penstock_broker.facts import NodeFacts, PartitionFacts, QueueFacts, StorageFacts
from penstock_broker.lag import standings
from penstock_broker.queues.looking import oldest_times, throttled
from penstock_broker.queues.outcomes import Settled
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import State
from penstock_broker.storage.compactor import dirty_ratio
from penstock_broker.storage.entries import Kind
from penstock_broker.topics.partition import Partition

if TYPE_CHECKING:
    from penstock_broker.core import Core


def observe(core: "Core", now: Now) -> NodeFacts:
    """All facts of a node."""
    registry, engine = core.registry, core.engine
    partitions = [
        _partition(partition) for topic in registry.topics.values() for partition in topic.partitions
    ]
    groups = [each for group in registry.groups.values() for each in standings(core, group, now)]
    return NodeFacts(
        [_queue(queue, now) for queue in registry.queues.values()],
        partitions,
        groups,
        core.membership.counts(),
        len(core.presence.connections),
        len(core.presence.sessions),
        core.publishing.payload_bytes,
        _storage(core),
        engine.disk_full,
        core.recovery_seconds,
        engine.journal.boot,
        core.deliveries.waits,
        core.deliveries.services,
        core.settings.durability,
    )


def _storage(core: "Core") -> StorageFacts:
    engine = core.engine
    alive = sum(core.registry.use.total().values())
    size = sum(segment.size for segment in engine.node.segments.values())
    moved = engine.archiver.bytes_moved
    return StorageFacts(
        engine.disk_written,
        engine.journal.bytes,
        engine.space.free,
        len(engine.node.segments),
        {"alive": alive, "dead": size - alive},
        {"archived": moved[Kind.ARCHIVED], "evacuated": moved[Kind.MOVED]},
        engine.reads.indexes_rebuilt,
    )


def _partition(partition: Partition) -> PartitionFacts:
    log = partition.log
    return PartitionFacts(
        partition.topic,
        partition.number,
        log.start,
        log.end,
        log.size_bytes,
        partition.records_dropped,
        partition.bytes_dropped,
        partition.records_filtered,
        partition.cleaned.removed,
        dirty_ratio(log, partition.cleaned) if partition.compacts else None,
        partition.cleaned.at,
    )


def _queue(queue: Queue, now: Now) -> QueueFacts:
    lanes = queue.lanes
    counters = sum((lane.counters for lane in lanes), Counter[str]())
    oldest: dict[str, int] = {}
    for lane in lanes:
        oldest |= {state: min(time, oldest.get(state, time)) for state, time in oldest_times(lane).items()}

    def count(state: State) -> int:
        return sum(lane.count(state) for lane in lanes)

    return QueueFacts(
        queue.name,
        count(State.READY),
        count(State.HELD),
        count(State.DELAYED),
        count(State.IN_FLIGHT),
        count(State.WAITING),
        sum(lane.log.size_bytes for lane in lanes),
        count(State.SETTLED),
        {state: max(0, now.wall - time) / 1000 for state, time in oldest.items()},
        len(queue.handout),
        counters["enqueued"],
        counters["delivered"],
        counters["redelivered"],
        counters[Settled.ACKED.name],
        counters["nacked"],
        counters["lease_expired"],
        counters["expired"],
        counters["dropped"],
        counters[Settled.DUPLICATE.name],
        dict(sum((lane.dead_reasons for lane in lanes), Counter[str]())),
        dict(queue.refused),
        queue.indexes.groups.blocked,
        throttled(queue),
    )
