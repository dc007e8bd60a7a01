"""`penstock topic …`: what there is, and how far each partition reaches."""

from dataclasses import asdict
from typing import Any

from penstock.cli.arguments import (
    COUNT,
    DURATION,
    NAME,
    SIZE,
    Setting,
    about_size,
    or_none,
    settings_given,
    settings_shown,
)
from penstock.cli.command import YES, Call, Command, Usage, confirm, deleted, note
from penstock.cli.queues import IF_EXISTS, PREFIX
from penstock.cli.records import TOPIC
from penstock.values import PartitionDescription, TopicDescription

SETTINGS = (
    Setting(
        "partitions", COUNT, "how many may be read side by side (1); may be raised later: keys move then"
    ),
    Setting("retention", or_none(DURATION), "records older than that may go (7d)"),
    Setting("retention_bytes", or_none(SIZE), "of the whole topic; above, the oldest may go (none)"),
    Setting("cleanup", NAME, "delete, compact (the last record of each key stays) or both (delete)"),
    Setting("tombstone_retention", DURATION, "how long compaction keeps a tombstone (1d)"),
    Setting("durability", or_none(NAME), "fsync, interval:50ms or os; none is the broker's (none)"),
)
"""Every setting of a topic; the options of `create` and `alter` are made of it."""

OPTIONS = tuple(setting.option for setting in SETTINGS)


def as_json(topic: TopicDescription) -> dict[str, Any]:
    """A topic as one JSON object."""
    return {
        "name": topic.name,
        "uuid": topic.uuid,
        "settings": dict(topic.settings),
        "partitions": [asdict(each) for each in topic.partitions],
    }


def _records(topic: TopicDescription) -> int:
    return sum(each.end - each.start for each in topic.partitions)


def _bytes(topic: TopicDescription) -> str:
    return about_size(sum(each.bytes for each in topic.partitions))


async def _create(call: Call) -> None:
    options = call.options
    settings = settings_given(options, SETTINGS)
    topic = await call.client.create_topic(options.topic, if_exists=options.if_exists, **settings)
    await _changed(call, await call.client.describe_topic(topic.name), "is ready")


async def _alter(call: Call) -> None:
    settings = settings_given(call.options, SETTINGS)
    if not settings:
        raise Usage("nothing to change: add a setting, for instance --retention 30d")
    await _changed(call, await call.client.alter_topic(call.options.topic, **settings), "is changed")


async def _changed(call: Call, topic: TopicDescription, done: str) -> None:
    note(f"topic {topic.name} {done}")
    if call.out.json:
        await call.out.objects([as_json(topic)])


async def _list(call: Call) -> None:
    topics = await call.client.list_topics(call.options.prefix)
    if call.out.json:
        await call.out.objects(map(as_json, topics))
    else:
        rows = [(each.name, len(each.partitions), _records(each), _bytes(each)) for each in topics]
        await call.out.rows(("TOPIC", "PARTITIONS", "RECORDS", "BYTES"), rows)


def _counts(partition: PartitionDescription) -> tuple[object, ...]:
    if partition.corrupt:
        return ("corrupt", None, None, None)
    start, end = partition.start, partition.end
    return (start, end, end - start, about_size(partition.bytes))


async def _describe(call: Call) -> None:
    topic = await call.client.describe_topic(call.options.topic)
    if call.out.json:
        await call.out.objects([as_json(topic)])
        return
    rows = [(topic.name, each.partition, *_counts(each)) for each in topic.partitions]
    await call.out.rows(("TOPIC", "PARTITION", "START", "END", "RECORDS", "BYTES"), rows)
    await call.out.write(b"\n")
    await call.out.rows(("NAME", "VALUE"), settings_shown(topic.settings, SETTINGS))


async def _delete(call: Call) -> None:
    topic = await call.client.describe_topic(call.options.topic)
    plan = f"delete topic {topic.name} with {_records(topic):,} records ({_bytes(topic)}) in"
    plan += f" {len(topic.partitions):,} partitions, and the offsets that groups committed on it"
    await confirm(plan, call.options)
    await call.client.delete_topic(topic.name)
    await deleted(call, "topic", topic.name)


COMMANDS = (
    Command("topic create", "TOPIC", "Create a topic.", _create, (TOPIC, *OPTIONS, IF_EXISTS)),
    Command("topic list", "", "List topics with their sizes.", _list, (PREFIX,)),
    Command("topic describe", "TOPIC", "Show the partitions and settings of a topic.", _describe, (TOPIC,)),
    Command("topic alter", "TOPIC", "Change settings of a topic.", _alter, (TOPIC, *OPTIONS)),
    Command("topic delete", "TOPIC", "Delete a topic with its records.", _delete, (TOPIC, YES)),
)
