"""What is asked of single messages: a checkpoint, an answer, another time, why it is where it is."""

from typing import TYPE_CHECKING, Any

from penstock_broker.explaining import explain as explained
from penstock_broker.handlers.queues import check_between
from penstock_broker.handlers.transfers import place
from penstock_broker.queues.looking import located
from penstock_broker.queues.notes import NOTES_BYTES_MAX
from penstock_broker.queues.outcomes import Settled
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import State
from penstock_broker.storage.entries import Body, Kind, Part
from penstock_broker.telling import Telling
from penstock_protocol import limits
from penstock_protocol.batch import BatchView
from penstock_protocol.errors import Invalid, NotFound, QueueFull, TooLarge
from penstock_protocol.messages import queues as q
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document
from penstock_protocol.slices import RANGE_BYTES, Range, decode_ranges, encode_ranges

if TYPE_CHECKING:
    from penstock_broker.answers import Call
    from penstock_broker.core import Core

MOVABLE = (State.READY, State.SPECIAL, State.HELD, State.DELAYED)


def _one(payload: memoryview) -> tuple[Range, memoryview]:
    """The range of one message in front of a payload, and what follows."""
    if len(payload) < RANGE_BYTES:
        raise Invalid("the payload begins with the range of a message")
    (item,) = decode_ranges(payload[:RANGE_BYTES])
    if item.messages != 1:
        raise Invalid("the range is of one message")
    return item, payload[RANGE_BYTES:]


def _lane(queue: Queue, item: Range) -> Queue:
    """The machine of the queue that a range is for."""
    return queue.lanes[item.partition] if item.partition < len(queue.lanes) else queue


def checkpoint(core: "Core", call: "Call", request: q.Checkpoint) -> None:
    """Keep how far work on a message has got, and let its lease go on."""
    check_between("extend", request.extend, 0, limits.VISIBILITY_MS_MAX)
    item, data = _one(request.payload)
    if len(data) > limits.CHECKPOINT_BYTES_MAX:
        raise TooLarge(f"checkpoint of {len(data):,} bytes; the limit is {limits.CHECKPOINT_BYTES_MAX:,}")
    queue = _lane(core.queue(request.queue), item)
    before = len(queue.indexes.notes.checkpoints.get(item.first, b""))
    if queue.indexes.notes.size - before + len(data) > NOTES_BYTES_MAX:
        raise QueueFull(
            f"queue {queue.name!r} keeps {queue.indexes.notes.size:,} bytes of checkpoints and errors",
            hint="ack messages, or make the checkpoints smaller",
        )
    leased = 0
    if item.partition == queue.partition and queue.leases.find(item.token, item.first, 1):
        core.deliveries.note(queue, [("checkpoint", item.first, 1, bytes(data))], call.now, publish=True)
        leased = queue.leases.extend(item.token, item.first, 1, call.now.mono + request.extend)
        core.deliveries.arm(queue, call.now)
    _answer(core, call, leased, item)


def _answer(core: "Core", call: "Call", messages: int, item: Range) -> None:
    core.stale_settles += not messages
    core.answer(call, q.Settled(messages, b"" if messages else encode_ranges([item])))


def reply(core: "Core", call: "Call", request: q.Reply) -> None:
    """Ack a message and enqueue the answer to it, in one entry."""
    item, data = _one(request.payload)
    queue, target = _lane(core.queue(request.queue), item), core.queue(request.to)
    if target.borrowed:
        raise Invalid(f"queue {target.name!r} is over a topic: produce there", hint="answer to another queue")
    batch = BatchView(data)
    batch.check(core.settings.message_bytes_max)
    if batch.producer_id:
        raise Invalid("an answer has no producer id: the lease of what it answers makes it unique")
    if item.partition != queue.partition or not queue.leases.find(item.token, item.first, 1):
        _answer(core, call, 0, item)
        return
    admission = core.publishing.admit(target, batch, call.now)
    flags, detail = admission.flags, admission.detail
    core.engine.append(
        [
            Part(target.uuid, Kind.APPEND, target.log.end, batch.count, flags, detail, 0),
            *admission.settles,
            queue.settle_part([(item.first, 1)], Settled.ACKED),
        ],
        [Body(batch.view, batch.crc)],
        wall=call.now.wall,
        publish=True,
        within=min(queue.within, target.within),
    )
    queue.claim([item])  # only now: whoever was refused still has the message
    core.deliveries.settled(queue, call.now)
    core.deliveries.touch(target)
    _answer(core, call, 1, item)


def resume(core: "Core", call: "Call", request: q.Resume) -> None:
    """Let a parked message group go on."""
    queue = core.queue(request.queue)
    parked = request.message_group in queue.indexes.groups.parked
    if parked:
        part = Part(queue.uuid, Kind.RESUMED, detail=request.message_group.encode())
        core.engine.append([part], wall=call.now.wall, within=queue.within)
        core.deliveries.touch(queue)
    core.answer(call, Document(pack_document({"resumed": parked})))


def _locate(queue: Queue, log: bytes, offset: int) -> tuple[Queue, int | None]:
    """The machine and the offset there of the message with that id; None if it never was there, or came from
    another queue and lies in a segment."""
    if log == q.HERE:
        lane, here = place(queue, offset)
        return lane, here if here < lane.log.end else None
    for lane in queue.lanes:
        found = located(lane, log, offset)
        if found is not None:
            return lane, found
    return queue, None


def _may_be_archived(queue: Queue, log: bytes) -> bool:
    """The id is another queue's: only the bytes of the message tell whether it is here."""
    return log != q.HERE and all(log != lane.log.uuid for lane in queue.lanes)


def reschedule(core: "Core", call: "Call", request: q.Reschedule) -> None:
    """Give a message that nobody has another time, or take it back."""
    queue = core.queue(request.queue)
    if request.at is not None:
        check_between("at", request.at, 0, call.now.wall + limits.DELAY_MS_MAX)
    queue, offset = _locate(queue, request.log, request.offset)
    if offset is None or queue.states.state(offset) not in MOVABLE:
        look = offset is None and _may_be_archived(queue, request.log)
        core.answer(call, Document(pack_document({"found": False, "find": look})))
        return
    if request.at is None:
        part = queue.settle_part([(offset, 1)], Settled.PURGED)
    else:
        known = queue.histories.get(offset)
        part = queue.return_part([(offset, 1, known.failures if known else 0, request.at)])
    core.engine.append([part], wall=call.now.wall, within=queue.within)
    queue.wake(call.now.wall)
    core.deliveries.touch(queue)
    core.answer(call, Document(pack_document({"found": True})))


def explain(core: "Core", call: "Call", request: q.Explain) -> None:
    """Why a message is where it is."""
    queue, offset = _locate(core.queue(request.queue), request.log, request.offset)
    if offset is None:
        raise NotFound(
            f"queue {queue.name!r} never held a message with that id, or knows nothing of it any more",
            hint="look for it with `penstock queue find`",
            detail={"find": _may_be_archived(queue, request.log)},
        )
    queue.available(call.now.mono)  # after a start nobody may have looked yet whose turn it is
    document: dict[str, Any] = explained(queue, offset, call.now)

    def told(document: dict[str, Any]) -> None:
        here = core.registry.get(queue.uuid) is queue
        gone = NotFound(f"queue {queue.name!r} was deleted meanwhile")
        core.answer(call, Document(pack_document(document)) if here else gone)

    if request.story:
        Telling(core.engine, core.registry, queue, offset, document, told).tell()
    else:
        told(document)
