"""What neither a queue nor a partition may show. Each rule yields what it saw."""

from collections.abc import Container, Iterator
from itertools import pairwise

from tests.sim.evidence import Place, peak_before


def phantom(place: Place) -> Iterator[str]:
    """Nobody sent it."""
    for offset, value in place.seen:
        if value is not None and value not in place.attempted:
            yield f"{value} at {offset} was never sent"


def corrupt(place: Place) -> Iterator[str]:
    """Its bytes are not those that were sent."""
    for offset, value in place.seen:
        if value is None:
            yield f"wrong bytes at {offset}"


def aborted_read(place: Place) -> Iterator[str]:
    """Its publish was refused."""
    for offset, value in place.seen:
        append = place.attempted.get(value or "")
        if append is not None and not append.op.possible:
            yield f"{value} at {offset} was refused"


def inconsistent_offset(place: Place) -> Iterator[str]:
    """Two values at one offset."""
    for (offset, value), (same, other) in pairwise(sorted(place.pairs)):
        if offset == same:
            yield f"{value} and {other} at {offset}"


def double_effect(place: Place, but_for: Container[str] = ()) -> Iterator[str]:
    """One value at two offsets."""
    for (value, offset), (same, other) in pairwise(sorted((value, offset) for offset, value in place.pairs)):
        if value == same and value not in but_for:
            yield f"{value} at {offset} and at {other}"


def nonmonotonic_send(place: Place) -> Iterator[str]:
    """A publish that began after another was confirmed got an offset before it."""
    sends = [op for op in [*place.ops["enqueue"], *place.ops["produce"]] if op.ok]
    reached = peak_before((op.end, op.answer["first"] + len(op.asked["values"])) for op in sends)
    for op in sends:
        if op.answer["first"] < reached(op.start):
            yield f"{op.asked['values'][0]} got {op.answer['first']} when {reached(op.start):g} was reached"
