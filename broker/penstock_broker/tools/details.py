"""What the details of parts and the snapshots of machines say, as plain values for people and for JSON."""

from base64 import b64encode
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgpack

from penstock_broker import catalogue
from penstock_broker.catalogue import Catalogue
from penstock_broker.groups.offsets import Group
from penstock_broker.queues.leases import Tokens
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
from penstock_protocol.batch import BatchView
from penstock_protocol.batch import Kind as Column

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
    if part.flags & entries.ORIGIN_FLAG:
        log, first = entries.ORIGIN.unpack(part.detail[-entries.ORIGIN.size :])
        values["from"] = f"{names.address(log)}:{first}"
    return values


def _settle(part: Part, _: Names) -> Values:
    ranges = entries.settle_ranges(part)
    values: Values = {"outcome": Settled(part.flags & ~entries.KEPT_FLAG).name.lower().replace("_", "-")}
    return values | ({"ranges": [[first, first + n - 1] for first, n in ranges]} if len(ranges) > 1 else {})


def _return(part: Part, _: Names) -> Values:
    rows = entries.RETURN.iter_unpack(part.detail)
    return {
        "returns": [
            {"first": first, "messages": messages, "failures": failures, "waiting": bool(waiting), "due": due}
            for first, messages, failures, waiting, due in rows
        ]
    }


def _item(part: Part, _: Names) -> Values:
    item = catalogue.decode_item(part.detail)
    return {"item": f"{item.sort} {item.name}", "uuid": item.uuid.hex(), "settings": item.settings}


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
    queue = Queue(bytes(16), "", policy_for("", {}), Log(bytes(16), Use()), Tokens(), RANDOM)
    queue.restore(data)
    counts = queue.states.counts
    settled = counts[State.SETTLED]
    return log_values(queue.log) | {
        "unsettled": queue.log.end - settled,
        "settled": settled,
        "delayed": counts[State.DELAYED],
        "waiting": counts[State.WAITING],
    }


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


SNAPSHOTS: dict[str, Callable[[memoryview, Names], Values]] = {
    "node": _node,
    "catalogue": _catalogue,
    "queue": _queue,
    "partition": _partition,
    "group": _group,
}


# Messages


def message_values(first: int, data: memoryview) -> list[Values]:
    """Every message of a whole batch: offset, key, headers, timestamp, body. Raises `Invalid`."""
    batch = BatchView(data)
    ends = batch.ends()
    bodies = batch.bodies()
    keys, headers = batch.cells(Column.KEY), batch.cells(Column.HEADERS)
    times, absent = batch.integers(Column.TIMESTAMP), batch.integers(Column.ABSENT)
    messages = []
    for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        values: Values = {"offset": first + batch.deltas[index]}
        if keys is not None and keys[index]:
            values |= text_or_base64("key", bytes(msgpack.unpackb(keys[index])))
        if headers is not None and headers[index]:
            values["headers"] = _plain(msgpack.unpackb(headers[index]))
        if times is not None and times[index]:
            values["timestamp"] = times[index]
        if absent is not None and absent[index]:
            values["body"] = None
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


def _plain(headers: dict[str, Any]) -> Values:
    return {k: v.hex() if isinstance(v, bytes) else v for k, v in headers.items()}
