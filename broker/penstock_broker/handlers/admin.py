"""Creating, changing, describing and deleting queues and topics."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from penstock_broker.catalogue import Item, check_name, part_for
from penstock_broker.handlers.queues import check_between
from penstock_broker.queues.looking import oldest_times, throttled
from penstock_broker.queues.outcomes import Settled
from penstock_broker.queues.policy import DEAD_SUFFIX, Policy, check_cycle, check_over_topic, policy_for
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import State
from penstock_broker.storage.entries import Kind, Part
from penstock_broker.topics.policy import policy_for as topic_policy_for
from penstock_broker.topics.topic import Topic
from penstock_protocol import limits
from penstock_protocol.errors import Conflict, Invalid
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document, Done

if TYPE_CHECKING:
    from penstock_broker.answers import Call
    from penstock_broker.clock import Now
    from penstock_broker.core import Core

IF_EXISTS = ("check", "alter", "keep")


def check_if_exists(value: str) -> None:
    """Raises `Invalid` for what `if_exists` cannot be."""
    if value not in IF_EXISTS:
        raise Invalid(f"if_exists={value!r} is not allowed", hint=f"allowed: {', '.join(IF_EXISTS)}")


def _check_dead_letter(core: "Core", name: str, policy: Policy, before: str | None = None) -> None:
    """It is created on first need, so its name must be one; its own dead letters may not come back; and it
    takes messages, so it is over no topic. `before`: where dead letters go so far."""
    if policy.dead_letter is None:
        return
    check_name(policy.dead_letter, derived=True)
    check_cycle(name, policy, lambda other: _dead_letter_of(core, other))
    target = core.registry.queues.get(policy.dead_letter)
    if target is not None and target.borrowed and policy.dead_letter != before:
        raise Invalid(
            f"dead_letter={policy.dead_letter!r} is not allowed: that queue has the records of topic"
            f" {target.policy.source!r}, and takes no others",
            hint="name another queue with dead_letter=, without a source; it need not be there yet",
        )


def _check_source(core: "Core", name: str, source: str) -> None:
    """Raises `Invalid` for a queue over a topic if dead letters go to that name."""
    other = core.registry.sends_dead_letters(name)
    if other is not None:
        raise Invalid(
            f"source={source!r} is not allowed: dead letters of queue {other!r} go to queue {name!r}, and one"
            " over a topic takes no messages",
            hint=f"choose another name, or alter dead_letter of {other!r} first",
        )


def _dead_letter_of(core: "Core", name: str) -> str | None:
    queue = core.registry.queues.get(name)
    return queue.policy.dead_letter if queue is not None else None


def check_same(what: str, has: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises `Conflict` naming each setting that was passed and differs."""
    other = {name: value for name, value in wanted.items() if has[name] != value}
    if other:
        text = ", ".join(f"{name} is {has[name]!r}, not {value!r}" for name, value in other.items())
        raise Conflict(f"{what} exists with other settings: {text}")


# ---- Queues


def create_queue(core: "Core", call: "Call", request: q.CreateQueue) -> None:
    """Create a queue, or find it with the settings that were passed."""
    check_if_exists(request.if_exists)
    name = request.name if request.name is not None else f"queue-{core.new_uuid().hex()[:16]}"
    check_name(name, derived=name.endswith(DEAD_SUFFIX))
    existing = core.registry.catalogue.get("queue", name)
    if existing is None:
        policy = policy_for(name, request.settings)
        check_over_topic(policy, request.settings)
        _check_dead_letter(core, name, policy)
        core.engine.append(_creation(core, name, policy), wall=call.now.wall)
        core.lifetimes.claim(core.registry.queues[name], call.connection.session)
    elif request.if_exists == "alter":
        _alter_queue(core, name, request.settings, call.now)
    elif request.if_exists == "check":
        has = core.registry.queue(name).policy
        wanted = policy_for(name, request.settings, has).as_map()
        check_same(f"queue {name!r}", has.as_map(), {each: wanted[each] for each in request.settings})
    _answer_queue(core, call, name, created=existing is None)


def _creation(core: "Core", name: str, policy: Policy) -> list[Part]:
    """The parts that create a queue. Over a topic: a machine per partition, and what lies before its start is
    settled. Raises `NotFound` or `Invalid` for a topic it cannot be over."""
    if policy.source is None:
        return [part_for(Kind.CREATE, Item("queue", name, core.new_uuid(), policy.as_map(), ()))]
    topic = core.registry.topic(policy.source)
    _check_source(core, name, topic.name)
    if topic.policy.compacts:
        raise Invalid(
            f"topic {topic.name!r} is compacted: a queue over it would lose messages",
            hint='alter the topic to cleanup="delete", or read it with a consumer group',
        )
    logs = tuple(core.new_uuid() for _ in topic.partitions)
    parts = [part_for(Kind.CREATE, Item("queue", name, logs[0], policy.as_map(), logs))]
    for uuid, partition in zip(logs, topic.partitions, strict=True):
        log = partition.log
        start = log.start if policy.source_start == "earliest" else log.end
        if start:
            parts.append(Part(uuid, Kind.SETTLE, 0, start, Settled.PURGED))
    return parts


def alter_queue(core: "Core", call: "Call", request: q.AlterQueue) -> None:
    """Change settings of a queue; they count from now on."""
    core.queue(request.name)
    _alter_queue(core, request.name, request.settings, call.now)
    _answer_queue(core, call, request.name)


def _alter_queue(core: "Core", name: str, settings: Mapping[str, Any], now: "Now") -> None:
    queue = core.registry.queue(name)
    policy = policy_for(name, settings, queue.policy)
    _check_dead_letter(core, name, policy, queue.policy.dead_letter)
    _check_alterable(queue, policy)
    check_over_topic(policy, settings)
    if policy != queue.policy:
        item = core.registry.catalogue.items("queue")[name]._replace(settings=policy.as_map())
        core.engine.append([part_for(Kind.ALTER, item)], wall=now.wall)
    core.deliveries.touch(queue)


def _check_alterable(queue: Queue, policy: Policy) -> None:
    """Raises `Invalid` for a setting that cannot change, or not with messages inside."""
    if policy.exclusive != queue.policy.exclusive:
        raise Invalid("exclusive is decided when a queue is created", hint="create another queue")
    if (policy.source, policy.source_start) != (queue.policy.source, queue.policy.source_start):
        raise Invalid("the topic of a queue is decided when it is created", hint="create another queue")
    if policy.fair != queue.policy.fair and queue.messages:
        raise Invalid(
            f"fair cannot be changed while queue {queue.name!r} holds {queue.messages:,} messages",
            hint="drain or purge it first, or create another queue",
        )


def delete_queue(core: "Core", call: "Call", request: q.DeleteQueue) -> None:
    """Delete a queue with its messages, whole or corrupt; who waits there is told."""
    queue = core.registry.queue(request.name, whole=False)
    core.delete_queue(queue, call.now)
    core.answer(call, Done())


def list_queues(core: "Core", call: "Call", request: q.ListQueues) -> None:
    """Descriptions of queues, a page at a time."""
    check_between("limit", request.limit, 1, limits.LISTING_MAX)
    items, more = core.registry.catalogue.page("queue", request.prefix, request.after, request.limit)
    found = [_queue(core, core.registry.queues[item.name], call.now) for item in items]
    core.answer(call, Document(pack_document({"items": found, "more": more})))


def describe_queue(core: "Core", call: "Call", request: q.DescribeQueue) -> None:
    """Settings, uuid and counts of a queue, whole or corrupt."""
    core.queue(request.name, whole=False)
    _answer_queue(core, call, request.name)


def _answer_queue(core: "Core", call: "Call", name: str, *, created: bool = False) -> None:
    core.answer(
        call, Document(pack_document(_queue(core, core.registry.queues[name], call.now, created=created)))
    )


def _queue(core: "Core", queue: Queue, now: "Now", *, created: bool = False) -> dict[str, Any]:
    lanes = queue.lanes
    oldest = min((time for lane in lanes for time in oldest_times(lane).values()), default=None)
    stats = {
        "ready": sum(lane.ready for lane in lanes),
        "held": queue.count(State.HELD),
        "delayed": sum(lane.count(State.DELAYED) for lane in lanes),
        "in_flight": sum(lane.count(State.IN_FLIGHT) for lane in lanes),
        "waiting": sum(lane.count(State.WAITING) for lane in lanes),
        "settled_total": sum(lane.count(State.SETTLED) for lane in lanes),
        "oldest_age": None if oldest is None else max(0, now.wall - oldest) / 1000,
        "bytes": sum(lane.log.size_bytes for lane in lanes),
        "blocked_groups": queue.indexes.groups.blocked,
        "throttled_tenants": throttled(queue),
    }
    return {
        "name": queue.name,
        "uuid": queue.uuid,
        "created": created,
        "corrupt": queue.uuid in core.registry.corrupt,
        "settings": queue.policy.as_map(),
        "stats": stats,
    }


# ---- Topics


def create_topic(core: "Core", call: "Call", request: t.CreateTopic) -> None:
    """Create a topic, or find it with the settings that were passed."""
    check_if_exists(request.if_exists)
    check_name(request.name)
    policy = topic_policy_for(request.settings)
    existing = core.registry.catalogue.get("topic", request.name)
    if existing is None:
        logs = tuple(core.new_uuid() for _ in range(policy.partitions))
        item = Item("topic", request.name, core.new_uuid(), policy.as_map(), logs)
        core.engine.append([part_for(Kind.CREATE, item)], wall=call.now.wall)
    elif request.if_exists == "alter":
        _alter_topic(core, request.name, request.settings, call.now)
    elif request.if_exists == "check":
        check_same(f"topic {request.name!r}", existing.settings, request.settings)
    _answer_topic(core, call, request.name, created=existing is None)


def alter_topic(core: "Core", call: "Call", request: t.AlterTopic) -> None:
    """Change settings of a topic; they count from now on."""
    _alter_topic(core, request.name, request.settings, call.now)
    _answer_topic(core, call, request.name)


def _alter_topic(core: "Core", name: str, settings: Mapping[str, Any], now: "Now") -> None:
    topic = core.registry.topic(name)
    policy = topic_policy_for(settings, topic.policy)
    if policy.partitions < len(topic.partitions):
        raise Invalid(
            f"topic {name!r} has {len(topic.partitions)} partitions, and the records in them: it cannot have"
            f" only {policy.partitions}",
            hint=f"leave it, or create another topic of {policy.partitions} and produce to that",
        )
    if policy.compacts and (reader := _reader(topic)) is not None:
        raise Invalid(
            f"topic {name!r} cannot be compacted: queue {reader!r} is over it",
            hint="delete that queue first",
        )
    if policy != topic.policy:
        more = range(len(topic.partitions), policy.partitions)
        fresh = [core.new_uuid() for _ in more]
        logs = (*(partition.uuid for partition in topic.partitions), *fresh)
        items = [Item("topic", name, topic.uuid, policy.as_map(), logs)]
        if more:  # queues over it read the new ones, too, from the first record on
            queues = core.registry.catalogue.items("queue")
            readers = [queues[reader] for reader in _readers(topic)]
            items += [each._replace(logs=(*each.logs, *(core.new_uuid() for _ in more))) for each in readers]
        parts = [part_for(Kind.ALTER, each) for each in items]
        core.engine.append([*parts, *_from_the_first(core, topic, fresh)], wall=now.wall)


def _from_the_first(core: "Core", topic: Topic, fresh: list[bytes]) -> list[Part]:
    """Whoever reads a topic reads its new partitions from the first record on, wherever it began in the
    others: what is produced before it has heard of them is not passed over."""
    if not fresh:
        return []
    rows = [(log, 0, "") for log in fresh]
    reading = [
        group
        for group in core.registry.groups.values()
        if any(partition.uuid in group.offsets for partition in topic.partitions)
    ]
    return [group.commit_part(rows) for group in reading]


def _reader(topic: Topic) -> str | None:
    """The name of a queue over the topic."""
    return next(iter(_readers(topic)), None)


def _readers(topic: Topic) -> list[str]:
    """The names of the queues over it."""
    return sorted({each.name for each in topic.partitions[0].readers})


def delete_topic(core: "Core", call: "Call", request: t.DeleteTopic) -> None:
    """Delete a topic with its records. In the same entry groups forget their offsets on it, and a group
    that has no other ends."""
    topic = core.registry.topic(request.name)
    item = core.registry.catalogue.get("topic", request.name)
    assert item is not None
    if (reader := _reader(topic)) is not None:
        raise Conflict(f"queue {reader!r} is over topic {topic.name!r}", hint="delete that queue first")
    parts: list[Part] = []
    for group in core.registry.groups.values():
        logs = [partition.uuid for partition in topic.partitions if partition.uuid in group.offsets]
        if logs and len(logs) == len(group.offsets):
            parts.append(part_for(Kind.DELETE, Item("group", group.name, group.uuid, {}, ())))
        elif logs:
            parts.append(group.forget_part(logs))
    core.engine.append([*parts, part_for(Kind.DELETE, item)], wall=call.now.wall)
    core.gone(topic)
    core.answer(call, Done())


def list_topics(core: "Core", call: "Call", request: t.ListTopics) -> None:
    """Descriptions of topics, a page at a time."""
    check_between("limit", request.limit, 1, limits.LISTING_MAX)
    items, more = core.registry.catalogue.page("topic", request.prefix, request.after, request.limit)
    found = [_topic(core, core.registry.topics[item.name]) for item in items]
    core.answer(call, Document(pack_document({"items": found, "more": more})))


def describe_topic(core: "Core", call: "Call", request: t.DescribeTopic) -> None:
    """Settings, uuid, and start, end and bytes per partition."""
    core.registry.topic(request.name)
    _answer_topic(core, call, request.name)


def _answer_topic(core: "Core", call: "Call", name: str, *, created: bool = False) -> None:
    core.answer(call, Document(pack_document(_topic(core, core.registry.topics[name], created=created))))


def _topic(core: "Core", topic: Topic, *, created: bool = False) -> dict[str, Any]:
    partitions = [
        {
            "partition": partition.number,
            "uuid": partition.uuid,
            "corrupt": partition.uuid in core.registry.corrupt,
            "start": partition.log.start,
            "end": partition.log.end,
            "bytes": partition.log.size_bytes,
        }
        for partition in topic.partitions
    ]
    return {
        "name": topic.name,
        "uuid": topic.uuid,
        "created": created,
        "settings": topic.policy.as_map(),
        "partitions": partitions,
    }
