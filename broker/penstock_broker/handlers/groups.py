"""Consumer groups: membership, offsets, and how far they are."""

from typing import TYPE_CHECKING, Any

from penstock_broker.catalogue import Item, check_name, part_for
from penstock_broker.durability import FSYNC, OS_MS
from penstock_broker.facts import GroupFacts
from penstock_broker.groups.assignors import ASSIGNORS, Place
from penstock_broker.groups.coordinator import Member
from penstock_broker.groups.offsets import Group
from penstock_broker.handlers.queues import check_between
from penstock_broker.lag import name_of, standings
from penstock_broker.storage.entries import Kind
from penstock_protocol import limits
from penstock_protocol.errors import Conflict, Invalid, OffsetOutOfRange, Stale
from penstock_protocol.messages import groups as g
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import pack_document, unpack_document
from penstock_protocol.messages.session import Document, Done
from penstock_protocol.patterns import check_pattern, is_pattern

MEMBER_BYTES = 16

if TYPE_CHECKING:
    from penstock_broker.answers import Call
    from penstock_broker.core import Core


def commit(core: "Core", call: "Call", request: t.Commit) -> None:
    """Store offsets, never beyond the end, in the topic's mode. The group exists from its first commit on."""
    check_name(request.group)
    rows = []
    within = OS_MS
    for number, offset, metadata in request.offsets:
        partition = core.registry.partition(request.topic, number)
        _check_may(core, request, number)
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
    """Who is in a group, and how far it is on each partition it committed on."""
    coordinator = core.membership.get(request.name)
    durable = request.name in core.registry.groups or coordinator is None
    rows = list(standings(core, core.registry.group(request.name), call.now)) if durable else []
    members = list(coordinator.members.values()) if coordinator is not None else []
    state = "empty" if coordinator is None else "balancing" if coordinator.balancing else "stable"
    document = {
        "name": request.name,
        "state": state,
        "generation": 0 if coordinator is None else coordinator.generation,
        "assignor": None if coordinator is None else coordinator.assignor,
        "members": [_member(member) for member in sorted(members, key=lambda each: each.rank)],
        "partitions": [_progress(row) for row in sorted(rows, key=lambda row: (row.topic, row.partition))],
    }
    core.answer(call, Document(pack_document(document)))


def _progress(row: GroupFacts) -> dict[str, Any]:
    """What is said of one partition; the group is named above."""
    return {name: value for name, value in row._asdict().items() if name != "group"}


def _member(member: Member) -> dict[str, Any]:
    return {
        "member": name_of(member),
        "id": member.id,
        "client": member.client,
        "instance": member.instance,
        "state": str(member.state),
        "topics": list(member.topics),
        "partitions": [list(place) for place in member.assigned],
    }


def delete_group(core: "Core", call: "Call", request: g.DeleteGroup) -> None:
    """Delete a group with its offsets."""
    group = core.registry.group(request.name)
    if core.membership.get(request.name) is not None:
        raise Conflict(f"group {request.name!r} has members", hint="stop them first")
    item = Item("group", group.name, group.uuid, {}, ())
    core.engine.append([part_for(Kind.DELETE, item)], wall=call.now.wall)
    core.answer(call, Done())


# ---- Membership


def join(core: "Core", call: "Call", request: g.Join) -> None:
    """Become a member of a group."""
    check_name(request.group)
    _check_label("member", len(request.member) == MEMBER_BYTES, f"{MEMBER_BYTES} bytes")
    if request.instance is not None:
        size = len(request.instance.encode())
        _check_label("instance", 1 <= size <= limits.LABEL_BYTES_MAX, f"1 to {limits.LABEL_BYTES_MAX} bytes")
    if request.assignor not in ASSIGNORS:
        raise Invalid(f"there is no assignor {request.assignor!r}", hint=f"known: {', '.join(ASSIGNORS)}")
    if not request.topics or len(request.topics) > limits.GROUP_TOPICS_MAX:
        raise Invalid(f"a member subscribes to 1 to {limits.GROUP_TOPICS_MAX} topics or patterns")
    for topic in request.topics:
        if is_pattern(topic):
            check_pattern(topic)
        else:
            core.registry.topic(topic)
    core.membership.join(call, request, _claims(request))


def _check_label(what: str, holds: bool, allowed: str) -> None:
    if not holds:
        raise Invalid(f"{what} of a group takes {allowed}")


def _claims(request: g.Join) -> list[Place]:
    """What a member says it has in hand."""
    document = unpack_document(request.payload) if request.payload else {}
    malformed = Invalid("what a member has in hand is a map of topics to lists of partition numbers")
    if type(document) is not dict:
        raise malformed
    for topic, numbers in document.items():
        if type(topic) is not str or type(numbers) is not list or len(numbers) > limits.PARTITIONS_MAX:
            raise malformed
        if not all(type(number) is int and 0 <= number < limits.PARTITIONS_MAX for number in numbers):
            raise malformed
    return [Place(topic, number) for topic, numbers in document.items() for number in numbers]


def heartbeat(core: "Core", call: "Call", request: g.Heartbeat) -> None:
    """A sign of life; waits for what is new."""
    core.membership.heartbeat(call, request)


def leave(core: "Core", call: "Call", request: g.Leave) -> None:
    """Give everything up."""
    core.membership.leave(call, request.group, request.member)
    core.answer(call, Done())


def _check_may(core: "Core", request: t.Commit, number: int) -> None:
    """Raises `Stale` unless the one who commits may do so for that partition. A group with members takes no
    commits from others."""
    coordinator = core.membership.get(request.group)
    if request.member is not None:
        if coordinator is None:
            raise Stale(f"group {request.group[:300]!r} has no members", hint="join again")
        coordinator.check_commit(request.member, request.generation, Place(request.topic, number))
    elif request.generation:
        raise Stale("a generation is that of a member", hint="commit with both, or with neither")
    elif coordinator is not None:
        raise Stale(
            f"group {request.group!r} has members, which alone may commit for it",
            hint="stop them first, or commit through one of them",
        )
