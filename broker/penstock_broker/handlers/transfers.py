"""Going through messages: what somebody looks for, and what is moved or copied to another queue."""

from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import msgpack

from penstock_broker import carried, searching
from penstock_broker.burial import copy_part
from penstock_broker.explaining import NAMES
from penstock_broker.handlers.queues import check_between
from penstock_broker.past import cells_of
from penstock_broker.queues.histories import History
from penstock_broker.queues.looking import flags_of, plain_history
from penstock_broker.queues.outcomes import Settled
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import State
from penstock_broker.searching import Match, Step
from penstock_broker.storage import entries
from penstock_broker.storage.entries import Body, Part
from penstock_broker.storage.reads import Cut, crc_of
from penstock_protocol import limits
from penstock_protocol.batch import BatchView
from penstock_protocol.cuts import cut
from penstock_protocol.errors import Error, Invalid, NotFound, QueueFull
from penstock_protocol.messages import queues as q
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document
from penstock_protocol.slices import Slice, encode_slice

if TYPE_CHECKING:
    from penstock_broker.answers import Call
    from penstock_broker.core import Core

SOURCES = {
    "ready": searching.READY,
    "delayed": frozenset({State.DELAYED}),
    "waiting": frozenset({State.WAITING}),
    "settled": frozenset({State.SETTLED}),
}
EVERYWHERE = frozenset(State)


class Stretch(NamedTuple):
    """Neighbours that go to the same queue, as one batch."""

    first: int
    messages: int
    cut: Cut
    body: Body


def transfer(core: "Core", call: "Call", request: q.Transfer) -> None:
    """Move messages to another queue, or copy settled ones, each step one entry."""
    check_between("limit", request.limit, 1, limits.RECEIVE_MESSAGES_MAX)
    if request.state not in SOURCES:
        raise Invalid(f"state={request.state!r} is not allowed", hint=f"allowed: {', '.join(SOURCES)}")
    source = core.queue(request.queue)
    copies = request.state == "settled"
    if copies and source.policy.keep_settled is None and not source.borrowed:
        raise Invalid(
            f"queue {source.name!r} keeps no settled messages",
            hint=f"from now on it would by `penstock queue alter {source.name} --keep-settled 1d`",
        )
    if request.to is not None:
        core.queue(request.to)
        if request.to == request.queue and not copies:
            raise Invalid("messages cannot be moved to the queue they are in", hint="name another queue")
    elif copies:
        request = request._replace(to=request.queue)
    where = searching.where_of(request.where)
    source, cursor = place(source, request.cursor)

    def found(step: Step) -> None:
        try:
            if source not in core.queue(request.queue).lanes:
                raise NotFound(f"queue {request.queue!r} was deleted meanwhile")
            _transfer(core, call, request, source, step)
        except Error as error:
            core.answer(call, error)

    searching.step(core.engine, source, SOURCES[request.state], where, cursor, request.limit, found)


def place(queue: Queue, cursor: int) -> tuple[Queue, int]:
    """The machine of a queue, and the offset there, that a cursor stands for."""
    number, offset = divmod(cursor, q.PARTITION)
    if not 0 <= number < len(queue.lanes):
        raise Invalid(f"cursor={cursor} is beyond the queue", hint="begin with 0, go on as answered")
    return queue.lanes[number], offset


def _cursor(lane: Queue, offset: int | None) -> int | None:
    """The inverse; where to go on behind the end of a machine, too."""
    if offset is not None:
        return lane.partition * q.PARTITION + offset
    return (lane.partition + 1) * q.PARTITION if lane.partition + 1 < len(lane.lanes) else None


def _transfer(core: "Core", call: "Call", request: q.Transfer, source: Queue, step: Step) -> None:
    step = _noted_part(source, step)
    if not request.dry:
        step = _part_with_room(core, request, source, step)
    stretches = _by_target(core, request, source, step.found)
    moved = len(step.found)
    if moved and not request.dry:
        _append(core, call, source, stretches, request.state)
    size = sum(len(each.body.data) for some in stretches.values() for each in some)
    document = {"messages": moved, "bytes": size, "next": _cursor(source, step.next)}
    core.answer(call, Document(pack_document(document)))


def _by_target(
    core: "Core", request: q.Transfer, source: Queue, found: list[Match]
) -> dict[str, list[Stretch]]:
    """Which go to which queue. Raises `Invalid` for those that can go nowhere, `NotFound`."""
    by_target: dict[str, list[Match]] = defaultdict(list)
    for match in found:
        by_target[request.to or _origin(match, source)].append(match)
    if source.name in by_target and request.state != "settled":
        raise Invalid("messages cannot be moved to the queue they are in", hint="say where to move them")
    for name in by_target:
        if core.queue(name).borrowed:
            raise Invalid(
                f"queue {name!r} has the records of a topic and takes no others",
                hint="say to which queue: its records are in the topic already",
            )
    return {name: _stretches(matches) for name, matches in by_target.items()}


def _part_with_room(core: "Core", request: q.Transfer, source: Queue, step: Step) -> Step:
    """As many messages, from the first on, as there is room for where they go. Raises `QueueFull` if there is
    none for a single one."""

    def full(messages: int) -> QueueFull | None:
        try:
            for name, some in _by_target(core, request, source, step.found[:messages]).items():
                size = sum(len(each.body.data) for each in some)
                core.queue(name).check_room(sum(each.messages for each in some), size)
        except QueueFull as error:
            return error
        return None

    if full(len(step.found)) is None:
        return step
    error = full(1)
    if error is not None:
        ((first,),) = _by_target(core, request, source, step.found[:1]).values()
        size = f"the next message of {source.name!r} has {len(first.body.data):,} bytes"
        raise QueueFull(f"{error.message}, and {size}", hint=error.hint)
    fits = bisect_left(range(1, len(step.found)), 1, key=lambda messages: full(messages) is not None)
    return Step(step.found[:fits], step.found[fits].offset)


def _origin(match: Match, source: Queue) -> str:
    """The queue a dead letter comes from. Raises `Invalid` for a message that did not die."""
    history = cells_of(match.batch)[match.number]
    if not history:
        raise Invalid(
            f"the message at offset {match.offset} of {source.name!r} is no dead letter",
            hint="say where to move it",
        )
    name: str = msgpack.unpackb(history)["queue"]
    return name


def _stretches(matches: list[Match]) -> list[Stretch]:
    """Matches as batches of their own: no holes, no copy of what is whole."""
    found: list[Stretch] = []
    begin = 0
    for at in range(1, len(matches) + 1):
        last = matches[at - 1]
        if at < len(matches) and matches[at].cut is last.cut and matches[at].offset == last.offset + 1:
            continue
        first, messages = matches[begin], at - begin
        data = cut(first.batch, first.number, messages)
        skipped = first.offset - first.cut.first
        origin = first.cut._replace(messages=messages, origin_first=first.cut.origin_first + skipped)
        found.append(Stretch(first.offset, messages, origin, Body(bytes(data), crc_of(data))))
        begin = at
    return found


def _noted_part(source: Queue, step: Step) -> Step:
    """As many messages as an entry bears with what is noted of them."""
    size = 0
    for number, match in enumerate(step.found):
        size += carried.size(source, match.offset)
        if number and size > searching.BYTES_PER_STEP:
            return Step(step.found[:number], match.offset)
    return step


def _append(
    core: "Core", call: "Call", source: Queue, stretches: dict[str, list[Stretch]], state: str
) -> None:
    copies = state == "settled"
    afresh = state == "waiting" or core.registry.takes_dead_letters(source.name)
    parts: list[Part] = []
    bodies: list[Body] = []
    histories: dict[str, dict[int, History]] = {}
    within = source.within
    offsets = [each.first + i for some in stretches.values() for each in some for i in range(each.messages)]
    due = {} if copies else source.indexes.dues(offsets)
    for name, some in stretches.items():
        target = core.queue(name)
        within = min(within, target.within)
        offset = target.log.end
        flags = entries.REPLAYED_FLAG if copies else 0
        places: list[tuple[int, int]] = []
        for each in some:
            number = len(bodies)
            times = [due.get(each.first + i, 0) for i in range(each.messages)] if due else None
            part = copy_part(
                target.uuid,
                offset,
                each.cut,
                each.body,
                number,
                target.policy,
                call.now,
                flags,
                times,
                is_job=True,
            )
            parts.append(part)
            bodies.append(each.body)
            places += [(each.first + i, offset + i) for i in range(each.messages)]
            offset += each.messages
        if not copies:
            parts += carried.parts(source, target, places, due, afresh)
            histories[name] = {} if afresh else carried.counts(source, target, places)
    if not copies:
        gone = [(each.first, each.messages) for some in stretches.values() for each in some]
        parts.append(source.settle_part(sorted(gone), Settled.MOVED))
    core.engine.append(parts, bodies, wall=call.now.wall, publish=True, within=within)
    for name in stretches:
        target = core.registry.queues[name]
        carried.counted(target, histories.get(name, {}))
        target.wake(call.now.wall)
        core.deliveries.touch(target)
    core.deliveries.touch(source)


def find(core: "Core", call: "Call", request: q.Find) -> None:
    """Look for messages in any state."""
    check_between("limit", request.limit, 1, limits.FIND_MESSAGES_MAX)
    queue, cursor = place(core.queue(request.queue), request.cursor)

    def found(step: Step) -> None:
        heads = [_slice(queue, match) for match in step.found]
        payload = (b"".join(head for head, _ in heads), *(data for _, data in heads))
        states = tuple(NAMES[State(queue.states.state(match.offset))] for match in step.found)
        core.answer(call, q.Found(len(heads), states, _cursor(queue, step.next), payload))

    where = searching.where_of(request.where)
    searching.step(core.engine, queue, EVERYWHERE, where, cursor, request.limit, found)


def _slice(queue: Queue, match: Match) -> tuple[bytes, bytes]:
    state = State(queue.states.state(match.offset))
    history = queue.histories.get(match.offset, plain_history(state))
    data = bytes(cut(match.batch, match.number, 1))
    place = match.cut
    stamps = Slice(
        token=0,
        first=match.offset,
        origin_first=place.origin_first + match.offset - place.first,
        time=place.time,
        origin_log=place.origin_log,
        lease=0,
        partition=queue.partition,
        messages=1,
        attempt=history.failures + 1,
        delivery=history.deliveries,
        flags=flags_of(queue, match.offset),
        batch_length=len(data),
    )
    return encode_slice(stamps, crc_of(BatchView(data, verify=False).view)), data
