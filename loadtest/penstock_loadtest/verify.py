"""Was every message delivered, once, in order? A tally while it runs, one account at its end.

What arrived is kept as runs: consecutive messages of one lane. One consumer of a healthy broker has one run
per lane, several that share a queue have one per delivery. The account compares the runs of each reader with
what producers sent: pure arithmetic on three columns, so it is the same for a thousand and for 20 million.

    lost        confirmed, and not seen by the reader
    duplicates  seen again, by the same consumer or another one of the reader
    misordered  seen by a consumer for the first time behind a later one of its lane
    corrupt     not whole, or not of this run
    phantom     never sent
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from penstock_loadtest.payload import Read

Run: TypeAlias = list[int]
"""[lane, first, count]."""
Array = np.ndarray[Any, np.dtype[Any]]


class Tally:
    """What one consumer saw, in the order it saw it."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.corrupt = 0
        self.fresh = 0
        """Messages behind everything seen before in their lanes: without duplicates, all."""
        self._latest: dict[int, Run] = {}
        self._end: dict[int, int] = {}

    def add(self, read: Read) -> None:
        """Take what a delivery brought."""
        self.corrupt += read.corrupt
        lanes, sequences = read.lanes, read.sequences
        if not len(lanes):
            return
        breaks = np.flatnonzero((lanes[1:] != lanes[:-1]) | (sequences[1:] != sequences[:-1] + np.uint64(1)))
        if not len(breaks):
            self._add_run(int(lanes[0]), int(sequences[0]), len(lanes))
            return
        places = [0, *(breaks + 1).tolist(), len(lanes)]
        firsts = zip(lanes[places[:-1]].tolist(), sequences[places[:-1]].tolist(), strict=True)
        for (lane, first), (begin, end) in zip(firsts, pairwise(places), strict=True):
            self._add_run(lane, first, end - begin)

    def _add_run(self, lane: int, first: int, count: int) -> None:
        latest = self._latest.get(lane)
        end = first + count
        if latest is not None and latest[1] + latest[2] == first:
            latest[2] += count
        else:
            self._latest[lane] = latest = [lane, first, count]
            self.runs.append(latest)
        high = self._end.get(lane, 0)
        if end > high:
            self.fresh += end - max(first, high)
            self._end[lane] = end


@dataclass(frozen=True, slots=True)
class Account:
    """Messages of one reader of a flow."""

    sent: int
    failed: int
    received: int
    lost: int
    duplicates: int
    misordered: int
    corrupt: int
    phantom: int

    @property
    def is_clean(self) -> bool:
        """Nothing lost, mixed up or made up. A duplicate alone is within at-least-once."""
        return not (self.lost or self.misordered or self.corrupt or self.phantom)

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


def account(
    sent: dict[int, int], failed: Sequence[Run], seen: Sequence[Sequence[Run]], corrupt: int
) -> Account:
    """Settle up with one reader.

    `sent`: lane → messages tried. `failed`: those whose outcome was not a confirm; they may or may not turn
    up. `seen`: the runs of each consumer, in its own order.
    """
    by_lane = _by_lane([run for runs in seen for run in runs])
    missed_failed = duplicates = phantom = lost = 0
    for lane in sent.keys() | by_lane.keys():
        tried = sent.get(lane, 0)
        runs = by_lane.get(lane, np.empty((0, 2), dtype=np.int64))
        whole = _union(runs)
        duplicates += int((runs[:, 1] - runs[:, 0]).sum() - (whole[:, 1] - whole[:, 0]).sum())
        phantom += int(np.maximum(whole[:, 1] - np.maximum(whole[:, 0], tried), 0).sum())
        for begin, end in _gaps(whole, tried):
            excused = sum(
                max(0, min(end, first + count) - max(begin, first))
                for other, first, count in failed
                if other == lane
            )
            missed_failed += excused
            lost += end - begin - excused
    return Account(
        sent=sum(sent.values()),
        failed=sum(run[2] for run in failed),
        received=sum(run[2] for runs in seen for run in runs),
        lost=lost,
        duplicates=duplicates,
        misordered=sum(_misordered(runs) for runs in seen),
        corrupt=corrupt,
        phantom=phantom,
    )


def _by_lane(runs: Sequence[Run]) -> dict[int, Array]:
    """Lane → (first, end) of its runs, in the order given."""
    if not runs:
        return {}
    table = np.array(runs, dtype=np.int64)
    table = table[np.argsort(table[:, 0], kind="stable")]
    places = np.flatnonzero(np.diff(table[:, 0])) + 1
    return {
        int(part[0, 0]): np.column_stack((part[:, 1], part[:, 1] + part[:, 2]))
        for part in np.split(table, places)
    }


def _union(spans: Array) -> Array:
    """The same places, each once, in order."""
    if len(spans) < 2:
        return spans
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    reached = np.maximum.accumulate(spans[:, 1])
    begins = np.flatnonzero(np.append(True, spans[1:, 0] > reached[:-1]))
    return np.column_stack((spans[begins, 0], reached[np.append(begins[1:], len(spans)) - 1]))


def _gaps(whole: Array, end: int) -> list[tuple[int, int]]:
    """What a union leaves out of 0 … `end`."""
    begins = [0, *whole[:, 1].tolist()]
    ends = [*whole[:, 0].tolist(), end]
    return [
        (begin, min(stop, end)) for begin, stop in zip(begins, ends, strict=True) if begin < min(stop, end)
    ]


def _misordered(runs: Sequence[Run]) -> int:
    return sum(_late(spans) for spans in _by_lane(runs).values())


def _late(spans: Array) -> int:
    """Messages of one lane that came for the first time after a later one had come."""
    reached = np.maximum.accumulate(spans[:, 1])
    if not (spans[1:, 0] < reached[:-1]).any():
        return 0
    seen = np.zeros(int(reached[-1]), dtype=np.bool_)
    late = high = 0
    for first, end in spans.tolist():
        late += int(np.count_nonzero(~seen[first : min(end, high)])) if first < high else 0
        seen[first:end] = True
        high = max(high, end)
    return late
