"""Offsets of consumer groups: commit, read back, describe."""

from typing import TYPE_CHECKING, Any

from penstock_broker.catalogue import Item, check_name, part_for
from penstock_broker.durability import FSYNC, OS_MS
from penstock_broker.groups.offsets import Group
from penstock_broker.handlers.queues import check_between
from penstock_broker.storage.entries import Kind
from penstock_protocol import limits
from penstock_protocol.errors import Invalid, OffsetOutOfRange, Stale
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document, Done

if TYPE_CHECKING:
    from penstock_broker.answers import Call
    from penstock_broker.clock import Now
    from penstock_broker.core import Core


def commit(core: "Core", call: "Call", request: t.Commit) -> None:
    """Store offsets, never beyond the end, in the topic's mode. The group exists from its first commit on."""
    check_name(request.group)
    if request.member is not None or request.generation:
        raise Stale("this group has no members", hint="commit without member and generation")
    rows = []
    within = OS_MS
    for number, offset, metadata in request.offsets:
        partition = core.registry.partition(request.topic, number)
        if offset > partition.log.end:
            raise OffsetOutOfRange(
                f"offset {offset} is beyond {partition.log.end}, the end of {request.topic}/{number}",
                detail={"start": partition.log.start, "end": partition.log.end},
            )
        if len(metadata.encode()) > limits.METADATA_BYTES_MAX:
            raise Invalid(f"metadata takes at most {limits.METADATA_BYTES_MAX:,} bytes")
        rows.append((partition.uuid, offset, metadata))
        within = min(within, partition.within)
    if not rows:
        raise Invalid("a commit names at least one partition")
    parts = []
    if request.group in core.registry.groups:
        group = core.registry.group(request.group)
    else:
        uuid = core.new_uuid()
        parts.append(part_for(Kind.CREATE, Item("group", request.group, uuid, {}, ())))
        within = FSYNC
        group = Group(uuid, request.group)
    core.engine.append([*parts, group.commit_part(rows)], wall=call.now.wall, within=within)
    core.answer(call, Done())


def offsets(core: "Core", call: "Call", request: t.Offsets) -> None:
    """What a group committed on a topic; nothing for a group that never did."""
    topic = core.registry.topic(request.topic)
    rows: list[Any] = []
    if request.group in core.registry.groups:
        group = core.registry.group(request.group)
        for partition in topic.partitions:
            found = group.offsets.get(partition.uuid)
            if found is not None:
                rows.append([partition.number, *found])
    core.answer(call, Document(pack_document(rows)))


def list_groups(core: "Core", call: "Call", request: t.ListGroups) -> None:
    """Names of groups, a page at a time."""
    check_between("limit", request.limit, 1, limits.LISTING_MAX)
    items, more = core.registry.catalogue.page("group", request.prefix, request.after, request.limit)
    core.answer(
        call, Document(pack_document({"items": [{"name": item.name} for item in items], "more": more}))
    )


def describe_group(core: "Core", call: "Call", request: t.DescribeGroup) -> None:
    """How far a group is on each partition it committed on."""
    group = core.registry.group(request.name)
    core.answer(call, Document(pack_document({"name": group.name, "partitions": lag(core, group, call.now)})))


def lag(core: "Core", group: Group, now: "Now") -> list[dict[str, Any]]:
    """Per partition current, end, lag in records and in seconds (age of the first record not read)."""
    rows = []
    for topic in core.registry.topics.values():
        for partition in topic.partitions:
            found = group.offsets.get(partition.uuid)
            if found is None:
                continue
            log = partition.log
            next_kept = max(found.offset, log.start)
            behind = log.end - next_kept
            seconds = max(0, now.wall - log.time(next_kept)) / 1000 if behind else 0.0
            rows.append(
                {
                    "topic": topic.name,
                    "partition": partition.number,
                    "current": found.offset,
                    "end": log.end,
                    "lag": behind,
                    "lag_seconds": seconds,
                    "member": None,
                }
            )
    return sorted(rows, key=lambda row: (row["topic"], row["partition"]))
