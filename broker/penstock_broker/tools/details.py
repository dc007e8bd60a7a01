"""What the details of parts and the snapshots of machines say, as plain values for people and for JSON."""

from base64 import b64encode
from collections.abc import Callable
from struct import error
from typing import Any
from uuid import UUID

import msgpack

from penstock_broker import catalogue
from penstock_broker.catalogue import Catalogue
from penstock_broker.groups.offsets import Group
from penstock_broker.queues import schedules, traits
from penstock_broker.queues.leases import Tokens
from penstock_broker.queues.notes import Attempt
from penstock_broker.queues.outcomes import Settled
from penstock_broker.queues.policy import policy_for
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import State
from penstock_broker.storage import entries
from penstock_broker.storage.compaction import Cleaned
from penstock_broker.storage.entries import Kind, Part
from penstock_broker.storage.log import Log, Stretch, Use
from penstock_broker.storage.node import COMMON, Node
from penstock_broker.tools.command import RANDOM
from penstock_broker.tools.names import KINDS, Names
from penstock_broker.topics.partition import Partition
from penstock_broker.topics.policy import policy_for as topic_policy_for
from penstock_protocol.batch import LZ4, ZSTD, BatchView, OnConflict
from penstock_protocol.batch import Kind as Column
from penstock_protocol.checksum import Buffer
from penstock_protocol.slices import Status, decode_exceptions

Values = dict[str, Any]
KIND_NAMES = {kind.value: kind.name for kind in Kind}


def kind_name(kind: int) -> str:
    """What a part's kind is called; its number if it has no name here."""
    return KIND_NAMES.get(kind, f"KIND {kind}")


def part_values(part: Part, names: Names) -> Values:
    """A part's flags and detail, by kind; in hex where nobody knows the kind."""
    describe = DETAILS.get(part.kind)
    if describe is None:
        return {"flags": part.flags, "detail": part.detail.hex()} if part.detail or part.flags else {}
    return describe(part, names)


def _append(part: Part, names: Names) -> Values:
    values: Values = {}
    if part.flags & entries.PRODUCER_FLAG:
        values["producer"], values["sequence"] = entries.PRODUCER.unpack_from(part.detail)
    if part.flags & entries.REPLAYED_FLAG:
        values["replayed"] = True
    if part.flags & entries.TRAITS_FLAG:
        at = entries.PRODUCER.size if part.flags & entries.PRODUCER_FLAG else 0
        values |= _traits(traits.decode(part.detail, at))
    if part.flags & entries.ORIGIN_FLAG:
        log, first = entries.ORIGIN.unpack(part.detail[-entries.ORIGIN.size :])
        values["from"] = f"{names.address(log)}:{first}"
    return values


def _traits(found: traits.Traits) -> Values:
    """Those that some message has, one value per message; and the messages that were not taken."""
    values = {name: list(held) for name, held in found._asdict().items() if held}
    if found.exceptions:
        values["exceptions"] = [
            {"number": number, "status": Status(status).name.lower(), "offset": offset}
            for number, status, offset in decode_exceptions(found.exceptions)
        ]
    return values


def _settle(part: Part, _: Names) -> Values:
    ranges = entries.settle_ranges(part)
    values: Values = {"outcome": Settled(part.flags & entries.OUTCOME_MASK).name.lower().replace("_", "-")}
    if part.flags & entries.PARK_FLAG:
        values["parks"] = True
    return values | ({"ranges": [[first, first + n - 1] for first, n in ranges]} if len(ranges) > 1 else {})


def _return(part: Part, _: Names) -> Values:
    rows = entries.RETURN.iter_unpack(part.detail)
    return {
        "returns": [
            {"first": first, "messages": messages, "failures": failures, "waiting": bool(waiting), "due": due}
            for first, messages, failures, waiting, due in rows
        ]
    }


def _noted(part: Part, _: Names) -> Values:
    notes = []
    for what, first, messages, *fields in msgpack.unpackb(part.detail):
        note: Values = {"what": what, "first": first, "messages": messages}
        if what == "attempt":
            note |= Attempt(*fields)._asdict()
        elif what == "dead":
            note |= {"reason": fields[0], "text": fields[1]}
        else:
            note |= text_or_base64("data", fields[0])
        notes.append(note)
    return {"notes": notes}


def _resumed(part: Part, _: Names) -> Values:
    return {"group": part.detail.decode()}


def _fired(part: Part, _: Names) -> Values:
    next_at, offset, missed = schedules.FIRED.unpack(part.detail)
    return {"next_at": next_at, "missed": missed} | ({"enqueued": offset} if offset >= 0 else {})


def _item(part: Part, _: Names) -> Values:
    item = catalogue.decode_item(part.detail)
    return {"item": f"{item.sort} {item.name}", "uuid": item.uuid.hex(), "settings": _plain(item.settings)}


def _offsets(part: Part, names: Names) -> Values:
    group = Group(part.target, "")
    group.apply(part, entries.At(0, 0, 0, 0, 0))
    return {"offsets": {names.address(log): committed.offset for log, committed in group.offsets.items()}}


def _forget(part: Part, names: Names) -> Values:
    return {"logs": [names.address(part.detail[at : at + 16]) for at in range(0, len(part.detail), 16)]}


def _stretches(part: Part, _: Names) -> Values:
    rows = [Stretch(*fields) for fields in entries.STRETCH.iter_unpack(part.detail)]
    return {"stretches": [row._asdict() for row in rows]}


def _segment(part: Part, names: Names) -> Values:
    return {"segment": part.base, "owner": "common" if part.detail == COMMON else names.label(part.detail)}


def _written(part: Part, _: Names) -> Values:
    return {"segment": part.base, "size": entries.SIZE.unpack(part.detail)[0]}


def _dropped(part: Part, _: Names) -> Values:
    return {"segment": part.base}


def _trimmed(part: Part, _: Names) -> Values:
    return {"start": part.base}


def _cleaned(part: Part, _: Names) -> Values:
    return Cleaned(part.base, *entries.CLEANED.unpack(part.detail))._asdict()


def _boot(part: Part, _: Names) -> Values:
    return {"boot": part.base, "clean": bool(part.flags)}


DETAILS: dict[int, Callable[[Part, Names], Values]] = {
    Kind.APPEND: _append,
    Kind.SETTLE: _settle,
    Kind.RETURN: _return,
    Kind.NOTED: _noted,
    Kind.RESUMED: _resumed,
    Kind.FIRED: _fired,
    Kind.CREATE: _item,
    Kind.ALTER: _item,
    Kind.DELETE: _item,
    Kind.OFFSETS: _offsets,
    Kind.FORGET: _forget,
    Kind.BOOT: _boot,
    Kind.ARCHIVED: _stretches,
    Kind.MOVED: _stretches,
    Kind.TRIMMED: _trimmed,
    Kind.CLEANED: _cleaned,
    Kind.SEGMENT: _segment,
    Kind.WRITTEN: _written,
    Kind.DROPPED: _dropped,
}


# Snapshots


def snapshot_values(kind: int, data: bytes, names: Names) -> Values:
    """What a machine's snapshot says, in short."""
    describe = SNAPSHOTS.get(KINDS.get(kind, ""))
    return describe(memoryview(data), names) if describe is not None else {}


def _node(data: memoryview, _: Names) -> Values:
    node = Node()
    node.restore(data)
    return {"id": str(UUID(bytes=node.id)), "segments": len(node.segments), "segment_next": node.segment_next}


def _catalogue(data: memoryview, _: Names) -> Values:
    known = Catalogue()
    known.restore(data)
    return {f"{sort}s": len(known.items(sort)) for sort in catalogue.SORTS}


def _queue(data: memoryview, _: Names) -> Values:
    try:
        queue, log = _restored(data, None)
    except error:  # over a topic: the log is a partition's
        queue, log = _restored(data, "a topic")
    counts = queue.states.counts
    settled = counts[State.SETTLED]
    values = log_values(log) | {"unsettled": log.end - settled} if log is not None else {}
    return values | {
        "settled": settled,
        "delayed": counts[State.DELAYED],
        "held": counts[State.HELD],
        "waiting": counts[State.WAITING],
    }


def _restored(data: memoryview, source: str | None) -> tuple[Queue, Log | None]:
    """The machine of a queue, and its log, if that is its own."""
    policy = policy_for("", {"source": source})
    queue = Queue(bytes(16), "", policy, Log(bytes(16), Use()), Tokens(), RANDOM)
    queue.restore(data)
    return queue, queue.log if source is None else None


def _partition(data: memoryview, _: Names) -> Values:
    partition = Partition(bytes(16), "", 0, topic_policy_for({}), Log(bytes(16), Use()))
    partition.restore(data)
    return log_values(partition.log)


def log_values(log: Log) -> Values:
    """How far a log reaches."""
    return {"start": log.start, "end": log.end, "bytes": log.size_bytes}


def _group(data: memoryview, names: Names) -> Values:
    group = Group(bytes(16), "")
    group.restore(data)
    return {"offsets": {names.address(log): committed.offset for log, committed in group.offsets.items()}}


def _schedule(data: memoryview, _: Names) -> Values:
    next_at, runs, latest, missed = schedules.SNAPSHOT.unpack(data)
    return {"next_at": next_at, "runs": runs, "latest": latest, "missed": missed}


SNAPSHOTS: dict[str, Callable[[memoryview, Names], Values]] = {
    "node": _node,
    "catalogue": _catalogue,
    "queue": _queue,
    "partition": _partition,
    "group": _group,
    "schedule": _schedule,
}


# Messages


TEXTS = (
    *(Column.MESSAGE_GROUP, Column.DEDUP_ID, Column.JOB_KEY, Column.REPLY_TO),
    *(Column.CORRELATION_ID, Column.CONTENT_TYPE, Column.HEADERS, Column.HISTORY),
)
CODEC_NAMES = {LZ4: "lz4", ZSTD: "zstd"}
NUMBERS = (Column.TIMESTAMP, Column.DELAY, Column.AT, Column.TTL, Column.PRIORITY)


def message_values(first: int, data: memoryview) -> list[Values]:
    """Every message of a whole batch: offset, key, what else its columns say, body. Raises `Invalid`."""
    batch = BatchView(data)
    ends = batch.ends()
    bodies = batch.bodies()
    texts = {column: cells for column in TEXTS if (cells := batch.cells(column)) is not None}
    numbers = {column: found for column in NUMBERS if (found := batch.integers(column)) is not None}
    keys, checkpoints = batch.cells(Column.KEY), batch.cells(Column.CHECKPOINT)
    absent, on_conflict = batch.integers(Column.ABSENT), batch.integers(Column.ON_CONFLICT)
    messages = []
    for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        values: Values = {"offset": first + batch.deltas[index]}
        if keys is not None and keys[index]:
            values |= _bytes("key", keys[index])
        for column, cells in texts.items():
            if cells[index]:
                values[column.name.lower()] = _cell(cells[index])
        for column, integers in numbers.items():
            if integers[index]:
                values[column.name.lower()] = integers[index]
        if on_conflict is not None and on_conflict[index]:
            values["on_conflict"] = _conflict(on_conflict[index])
        if checkpoints is not None and checkpoints[index]:
            values |= _bytes("checkpoint", checkpoints[index])
        if absent is not None and absent[index]:
            values["body"] = None
        elif batch.codec:
            values |= {"body_compressed": CODEC_NAMES[batch.codec], "body_bytes": end - start}
        else:
            values |= text_or_base64("body", bytes(bodies[start:end]))
        messages.append(values)
    return messages


def text_or_base64(name: str, data: bytes) -> Values:
    """`{name: text}`, or `{name_base64: …}` for bytes that are not UTF-8."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(data).decode()}


def _bytes(name: str, cell: Buffer) -> Values:
    """What a cell of bytes says; in hex where it is something else, for nobody looked when it came."""
    value = _unpacked(cell)
    return text_or_base64(name, value) if isinstance(value, bytes) else {f"{name}_malformed": _hex(cell)}


def _cell(cell: Buffer) -> object:
    """What a cell says, for JSON."""
    value = _unpacked(cell)
    return {"malformed": _hex(cell)} if value is None else _plain(value)


def _unpacked(cell: Buffer) -> object:
    try:
        return msgpack.unpackb(cell)
    except (ValueError, msgpack.UnpackException, RecursionError):
        return None


def _hex(cell: Buffer) -> str:
    return bytes(cell).hex()


def _conflict(number: int) -> object:
    return OnConflict(number).name.lower() if number <= max(OnConflict) else number


def _plain(value: object) -> object:
    """The value as JSON has it: bytes in hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, str | int | float | bool) else repr(value)
