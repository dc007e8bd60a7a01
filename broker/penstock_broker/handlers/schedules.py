"""Creating, changing, listing and deleting recurring schedules."""

from itertools import islice
from typing import TYPE_CHECKING, Any

from penstock_broker.catalogue import Item, check_name, part_for
from penstock_broker.handlers.admin import check_if_exists, check_same
from penstock_broker.handlers.queues import check_between
from penstock_broker.queues import traits
from penstock_broker.queues.schedules import Rhythm, Schedule, rhythm_of
from penstock_broker.storage.entries import Kind
from penstock_protocol import limits
from penstock_protocol.batch import BatchView
from penstock_protocol.errors import Busy, Invalid, TooLarge
from penstock_protocol.messages import schedules as c
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document, Done

if TYPE_CHECKING:
    from penstock_broker.answers import Call
    from penstock_broker.clock import Now
    from penstock_broker.core import Core


def create_schedule(core: "Core", call: "Call", request: c.CreateSchedule) -> None:
    """Create a schedule, or find it with the settings that were passed."""
    check_if_exists(request.if_exists)
    check_name(request.name)
    queue = core.queue(request.queue)
    if queue.borrowed:
        raise Invalid(
            f"queue {queue.name!r} has the records of topic {queue.policy.source!r}: no schedule runs there",
            hint="schedule into another queue, whose worker produces to the topic if need be",
        )
    batch = BatchView(request.payload)
    batch.check(core.settings.message_bytes_max)
    if batch.count != 1 or batch.producer_id or batch.codec:
        raise Invalid("a schedule has one message, without a producer id, and not compressed")
    if batch.length > limits.SCHEDULE_BYTES_MAX:
        raise TooLarge(
            f"message of {batch.length:,} bytes; that of a schedule takes {limits.SCHEDULE_BYTES_MAX:,}",
            hint="enqueue a reference to where the data is",
        )
    traits.read(batch, queue.policy, call.now.wall)
    existing = core.registry.schedules.get(request.name)
    if existing is None:
        if len(core.registry.schedules) >= limits.SCHEDULES_MAX:
            raise Busy(f"there are {limits.SCHEDULES_MAX:,} schedules already")
        _put(core, call, Kind.CREATE, request, rhythm_of(request.settings), core.new_uuid())
    elif request.if_exists == "alter":
        rhythm = rhythm_of(request.settings, existing.rhythm)
        _put(core, call, Kind.ALTER, request, rhythm, existing.uuid)
    elif request.if_exists == "check":
        rhythm_of(request.settings, existing.rhythm)
        wanted = {**request.settings, "queue": request.queue, "message": bytes(batch.view)}
        has = {**existing.rhythm.as_map(), "queue": existing.queue, "message": existing.batch}
        check_same(f"schedule {request.name!r}", has, wanted)
    _answer(core, call, request.name, created=existing is None)


def _put(
    core: "Core", call: "Call", kind: Kind, request: c.CreateSchedule, rhythm: Rhythm, uuid: bytes
) -> None:
    settings = {
        "queue": request.queue,
        "rhythm": rhythm.as_map(),
        "batch": bytes(request.payload),
        "next_at": rhythm.after(call.now.wall),
    }
    parts = [part_for(kind, Item("schedule", request.name, uuid, settings, ()))]
    if kind is Kind.ALTER:
        parts.append(core.registry.schedule(request.name).fired_part(rhythm.after(call.now.wall)))
    core.engine.append(parts, wall=call.now.wall)
    core.arm_schedule(core.registry.schedule(request.name), call.now)


def alter_schedule(core: "Core", call: "Call", request: c.AlterSchedule) -> None:
    """Change settings of a schedule; its next run is worked out anew."""
    existing = core.registry.schedule(request.name)
    rhythm = rhythm_of(request.settings, existing.rhythm)
    same = c.CreateSchedule(request.name, existing.queue, {}, "alter", existing.batch)
    _put(core, call, Kind.ALTER, same, rhythm, existing.uuid)
    _answer(core, call, request.name)


def delete_schedule(core: "Core", call: "Call", request: c.DeleteSchedule) -> None:
    """Delete a schedule; what it enqueued stays."""
    schedule = core.registry.schedule(request.name)
    item = core.registry.catalogue.get("schedule", request.name)
    assert item is not None
    core.engine.append([part_for(Kind.DELETE, item)], wall=call.now.wall)
    core.disarm(schedule)
    core.answer(call, Done())


def list_schedules(core: "Core", call: "Call", request: c.ListSchedules) -> None:
    """Schedules, a page at a time, with their next runs."""
    check_between("limit", request.limit, 1, limits.LISTING_MAX)
    check_between("runs", request.runs, 0, limits.SCHEDULE_RUNS_MAX)
    items, more = core.registry.catalogue.page("schedule", request.prefix, request.after, request.limit)
    found = [_document(core.registry.schedules[item.name], call.now, request.runs) for item in items]
    core.answer(call, Document(pack_document({"items": found, "more": more})))


def _answer(core: "Core", call: "Call", name: str, *, created: bool = False) -> None:
    document = _document(core.registry.schedule(name), call.now, 1) | {"created": created}
    core.answer(call, Document(pack_document(document)))


def _document(schedule: Schedule, now: "Now", runs: int) -> dict[str, Any]:
    rhythm = schedule.rhythm
    following = [] if rhythm.paused else [schedule.next_at, *islice(rhythm.runs(schedule.next_at), runs)]
    return {
        "name": schedule.name,
        "queue": schedule.queue,
        "settings": rhythm.as_map(),
        "next": following[:runs],
        "runs": schedule.runs,
        "missed": schedule.missed,
        "latest": schedule.latest if schedule.latest >= 0 else None,
    }
