"""Going through the messages of a queue, some at a time: those in a state for which a condition holds.

One step looks at so many messages and bytes as one turn of the loop bears, and says where to go on. Bytes
that are not in memory are loaded first; then everything is looked at anew, for states may have changed
meanwhile.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import msgpack

from penstock_broker.answers import Answer
from penstock_broker.past import cells_of
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import State
from penstock_broker.storage.engine import Engine
from penstock_broker.storage.files import Load
from penstock_broker.storage.log import Log
from penstock_broker.storage.reads import Cold, Cut, Loaded
from penstock_protocol.batch import BatchView, Kind
from penstock_protocol.errors import Corrupt, Invalid

MESSAGES_PER_STEP = 10_000
BYTES_PER_STEP = 1 << 20

READY = frozenset({State.READY, State.SPECIAL, State.HELD})


class Where(NamedTuple):
    """What is looked for; None: anything. `since`, `until`: append time, ms; `until` is not included."""

    reason: str | None = None
    since: int | None = None
    until: int | None = None
    header: str | None = None
    value: Any = None
    id_log: bytes | None = None
    id_offset: int = 0

    @property
    def looks_inside(self) -> bool:
        """It cannot be told without the bytes."""
        return self != Where(since=self.since, until=self.until)


def where_of(given: dict[str, Any]) -> Where:
    """The condition of a request. Raises `Invalid`."""
    kinds = {"reason": str, "since": int, "until": int, "header": str, "id_log": bytes, "id_offset": int}
    for name, value in given.items():
        if name not in Where._fields or (
            value is not None and not isinstance(value, kinds.get(name, object))
        ):
            raise Invalid(
                f"there is no condition {name}={value!r}", hint=f"known: {', '.join(Where._fields)}"
            )
    return Where(**given)


class Match(NamedTuple):
    """One message for which the condition holds. `number`: its place in the batch of `cut`."""

    offset: int
    number: int
    cut: Cut
    batch: BatchView


class Step(NamedTuple):
    """What one step found, and the offset to go on at (None: that was all)."""

    found: list[Match]
    next: int | None


def step(
    engine: Engine[Answer],
    queue: Queue,
    states: Collection[int],
    where: Where,
    cursor: int,
    limit: int,
    then: Callable[[Step], None],
    loaded: Loaded | None = None,
) -> None:
    """One step from offset `cursor` on; `then` is called with at most `limit` messages, now or when the bytes
    are there. What is damaged is passed over."""
    loaded = {} if loaded is None else loaded
    try:
        result = _step(engine, queue, states, where, cursor, limit, loaded)
    except Cold as cold:
        extent = cold.extent

        def got(data: object) -> None:
            loaded[extent] = data if isinstance(data, bytes) else b""
            step(engine, queue, states, where, cursor, limit, then, loaded)

        engine.load(Load(*extent[:3]), got)
        return
    then(result)


def _step(
    engine: Engine[Answer],
    queue: Queue,
    states: Collection[int],
    where: Where,
    cursor: int,
    limit: int,
    loaded: Loaded,
) -> Step:
    log = queue.log
    cursor = max(cursor, log.start)
    if where.since is not None:
        at, before = log.offset_at(where.since)
        cursor = max(cursor, before.first if before is not None else at)
    end = min(log.end, cursor + MESSAGES_PER_STEP)
    found: list[Match] = []
    size = 0
    for state, first, messages in queue.states.spans(cursor, end - cursor):
        if state not in states:
            continue
        for cut in _readable(engine, log, first, messages, loaded):
            if where.until is not None and cut.time >= where.until:
                return Step(found, None)
            size += len(cut.data)
            for match in _matches(cut, where):
                if match.offset in queue.kept.unseen:
                    continue
                found.append(match)
                if len(found) == limit:
                    return Step(found, _next(match.offset + 1, log.end))
            if size >= BYTES_PER_STEP:
                return Step(found, _next(cut.end, log.end))
    return Step(found, _next(end, log.end))


def _readable(engine: Engine[Answer], log: Log, first: int, messages: int, loaded: Loaded) -> Iterator[Cut]:
    """The batches of a range that are not damaged."""
    end = first + messages
    while first < end:
        try:
            for cut in engine.reads.cuts(log, first, end - first, loaded, unwritten=True):
                yield cut
                first = cut.end
            return
        except Corrupt as error:
            first = max(first, error.detail["first"]) + error.detail["messages"]


def _next(offset: int, end: int) -> int | None:
    return offset if offset < end else None


def _matches(cut: Cut, where: Where) -> Iterator[Match]:
    if where.since is not None and cut.time < where.since:
        return
    batch = BatchView(cut.data, verify=False)
    deltas = batch.deltas
    inside = where.looks_inside
    headers = batch.cells(Kind.HEADERS) if where.header is not None else None
    histories = cells_of(batch) if where.reason is not None else ()
    for number, delta in enumerate(deltas):
        if inside:
            if where.id_log is not None and (cut.origin_log, cut.origin_first + delta) != where[-2:]:
                continue
            if where.header is not None and not _has_header(headers and headers[number], where):
                continue
            if where.reason is not None:
                history = histories[number]
                if not history or msgpack.unpackb(history)["reason"] != where.reason:
                    continue
        yield Match(cut.first + delta, number, cut, batch)


def _has_header(cell: Any, where: Where) -> bool:
    """A cell that its sender made no map of has none."""
    try:
        headers = msgpack.unpackb(cell) if cell else None
    except (ValueError, TypeError, msgpack.UnpackException):
        return False
    if not isinstance(headers, dict) or where.header not in headers:
        return False
    return where.value in (None, headers[where.header])
