"""What no producer with a name, no stream of publishes and no filtered reader may show. Each rule yields what
it saw; a rule that cannot tell says nothing."""

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from tests.sim.evidence import Log, Place, Producer, peak_before
from tests.sim.history import NEVER, Op

# of producers with a name


def fenced_append(producer: Producer) -> Iterator[str]:
    """Something of an opening was appended after the name was opened anew, or deleted: it began after
    somebody had been told so, or stands behind what a newer opening wrote."""
    opens = [op for op in producer.opens if op.ok]
    gone = peak_before((op.end, op.start) for op in [*opens, *producer.deletes] if op.ok)
    epochs: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for op in opens:
        epochs[number_of(op)].append((op.end, op.answer["epoch"]))
    newest = {number: peak_before(known) for number, known in epochs.items()}
    for opened in opens:
        for place, op in producer.published[opened.answer["producer"]]:
            late = gone(op.start) > opened.end
            if op.ok and (late or newest[number_of(opened)](op.start) > opened.answer["epoch"]):
                yield f"{op.asked['values'][0]} in {place.name} by {opened.process}, which was fenced"
    yield from _behind_a_newer_one(producer, opens)


def _behind_a_newer_one(producer: Producer, opens: list[Op]) -> Iterator[str]:
    """What lies behind something of a newer opening, place by place in the order of offsets."""
    written: dict[Place, list[tuple[str, Op]]] = defaultdict(list)
    for opened in opens:
        for place, op in producer.published[opened.answer["producer"]]:
            written[place] += [(value, opened) for value in op.asked["values"]]
    for place, rows in written.items():
        at = offsets_of(place)
        begun, epochs = -NEVER, defaultdict[int, int](int)
        known = [(at[value], value, opened) for value, opened in rows if value in at]
        for offset, value, opened in sorted(known, key=lambda row: row[0]):
            number, epoch = number_of(opened), opened.answer["epoch"]
            if opened.end < begun or epoch < epochs[number]:
                yield f"{value} at {offset} in {place.name} lies behind what a newer opening wrote"
            begun, epochs[number] = max(begun, opened.start), max(epochs[number], epoch)


def offsets_of(place: Place) -> dict[str, int]:
    """Where values stand: as their confirms say, and in a partition as readers saw."""
    seen = place.seen if isinstance(place, Log) else ()
    return {value: offset for offset, value in seen if value is not None} | place.confirmed


def number_of(opened: Op) -> int:
    """What all openings of a name have in common, until it is deleted."""
    number: int = opened.answer["producer"] - opened.answer["epoch"]
    return number


def shared_id(producer: Producer) -> Iterator[str]:
    """Two were given one id: neither fences the other."""
    ids = sorted((op.answer["producer"], op.process) for op in producer.opens if op.ok)
    for (id, process), (same, other) in pairwise(ids):
        if id == same:
            yield f"{process} and {other} are both {id}"


def fenced_for_nothing(producer: Producer) -> Iterator[str]:
    """It was told that another one had taken over, and nobody can have."""
    others = [op for op in [*producer.opens, *producer.deletes] if op.possible]
    starts, ends = sorted(op.start for op in others), sorted(op.end for op in others)
    for opened in (op for op in producer.opens if op.ok):
        over = bisect_right(ends, opened.start)
        for place, op in producer.published[opened.answer["producer"]]:
            fenced = op.answer.get("error") == "Stale"
            if fenced and bisect_left(starts, op.end) - over == 1:  # nobody but itself
                yield f"{op.asked['values'][0]} in {place.name} by {opened.process}"


# of streams


def sequence(log: Log) -> Iterator[str]:
    """Batches of one producer in another order than it sent them, or one without one before it."""
    at = offsets_of(log)
    streams: dict[int, list[Op]] = defaultdict(list)
    for op in log.ops["produce"]:
        if "producer" in op.asked and op.possible:
            streams[op.asked["producer"]].append(op)
    for ops in streams.values():
        reached, missing = -1, ""
        for value in (op.asked["values"][0] for op in ops):
            offset = at.get(value)
            if offset is None:
                missing = missing or value
                continue
            if offset < reached:
                yield f"{value} at {offset} was sent after what stands at {reached}"
            elif missing and log.drained and reached >= log.start - 1:
                yield f"{value} at {offset} is there, and {missing}, which was sent before it, is not"
            reached, missing = offset, ""


# of filtered readers


def unfit(log: Log) -> Iterator[str]:
    """A reader got what does not fit its filter."""
    for op, offset, value in selected(log):
        append = log.attempted.get(value or "")
        if append is not None and not fits(op.asked["where"], append.traits):
            yield f"{op.process} asked for {op.asked['where']} and got {value} at {offset}"


def out_of_place(log: Log) -> Iterator[str]:
    """A record came twice, out of order, or from where the reader did not look."""
    for op in log.ops["select"]:
        if op.ok:
            offsets = [op.asked["offset"] - 1, *(offset for offset, _ in op.answer["records"])]
            offsets.append(op.answer["next"])
            if any(before >= after for before, after in pairwise(offsets)):
                yield f"{op.process} got {offsets[1:-1]} from {op.asked['offset']} to {offsets[-1]}"


def selected(log: Log) -> Iterator[tuple[Op, int, str | None]]:
    """(operation, offset, value) of everything that came through a filter."""
    for op in log.ops["select"]:
        for offset, value in op.answer.get("records", ()):
            yield op, offset, value


def filtered_out(log: Log) -> Iterator[str]:
    """A reader was sent on behind a record that fits, or behind the end, without it."""
    fitting: dict[str, list[tuple[int, str]]] = {}
    for op in (op for op in log.ops["select"] if op.ok):
        since, upto = max(op.asked["offset"], op.answer["start"]), op.answer["next"]
        if upto > op.answer["end"]:
            yield f"{op.process} was sent on to {upto}; the end is {op.answer['end']}"
        where = str(op.asked["where"])
        if where not in fitting:
            fitting[where] = all_fitting(log, op.asked["where"])
        there = fitting[where]
        got = {offset for offset, _ in op.answer["records"]}
        for offset, value in there[bisect_left(there, (since, "")) : bisect_left(there, (upto, ""))]:
            if offset not in got:
                yield f"{op.process} was sent on to {upto} without {value} at {offset}"


def all_fitting(log: Log, where: dict[str, Any]) -> list[tuple[int, str]]:
    """What a partition has of records that fit, as far as is known."""
    known = ((offset, value, log.attempted.get(value)) for offset, value in log.pairs)
    return sorted((offset, value) for offset, value, append in known if append and fits(where, append.traits))


def fits(where: dict[str, Any], traits: Any) -> bool:
    """A record with these traits is one that the conditions want: the slow and simple way."""
    headers = traits.get("headers", {})
    return all(
        like(wanted, traits.get("key") if name == "key" else headers.get(name.removeprefix("header:")))
        for name, wanted in where.items()
    )


def like(wanted: Any, value: Any) -> bool:
    """A text with stars stands for any text like it, anything else for itself."""
    if value is None or not isinstance(wanted, str):
        return bool(value is not None and value == wanted)
    return re.fullmatch(".*".join(map(re.escape, wanted.split("*"))), str(value)) is not None
