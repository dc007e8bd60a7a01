"""Compaction against a list: of each key the last record stays, where it was."""

from typing import NamedTuple

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_broker.storage import compaction
from penstock_broker.storage.compaction import Cleaned, Latest, fates, remains
from penstock_protocol.batch import BatchBuilder, BatchView, Kind

DAY_MS = 86_400_000


class Record(NamedTuple):
    """`value` None is a tombstone."""

    offset: int
    key: bytes | None
    value: bytes | None


class Stored(NamedTuple):
    base: int
    view: BatchView


def stored(records: list[Record]) -> Stored:
    """Records with consecutive offsets as a batch."""
    builder = BatchBuilder()
    for _, key, value in records:
        cells: list[tuple[Kind, bytes | int]] = []
        if key is not None:
            cells.append((Kind.KEY, msgpack.packb(key)))
        if value is None:
            cells.append((Kind.ABSENT, 1))
        builder.add(value or b"", cells)
    return Stored(records[0].offset, BatchView(builder.encode()))


def records_in(log: list[Stored]) -> list[Record]:
    out = []
    for base, view in log:
        ends = [0, *view.ends()]
        keys = view.cells(Kind.KEY) or [memoryview(b"")] * view.count
        absent = view.integers(Kind.ABSENT) or [0] * view.count
        for index, delta in enumerate(view.deltas):
            key = msgpack.unpackb(keys[index]) if keys[index] else None
            value = None if absent[index] else bytes(view.bodies()[ends[index] : ends[index + 1]])
            out.append(Record(base + delta, key, value))
    return out


def latest_of(log: list[Stored]) -> tuple[Latest, int]:
    """The map of as much of a log as it can take, and the offset it reaches."""
    latest = Latest()
    for base, view in log:
        if not latest.has_room(view.count):
            return latest, base
        for _ in latest.add(view, base):
            pass
    return latest, log[-1].base + log[-1].view.deltas[-1] + 1


def compacted(log: list[Stored], latest: Latest, tombstones_below: int = 0) -> list[Stored]:
    out = []
    for base, view in log:
        stay = [fate.stays for fate in fates(view, base, latest, tombstones_below)]
        out += [Stored(base + delta, BatchView(data)) for delta, data in remains(view, stay)]
    return out


def naive(records: list[Record], upto: int, tombstones_below: int) -> list[Record]:
    last = {record.key: record.offset for record in records if record.offset < upto}
    return [
        record
        for record in records
        if record.key is None
        or (
            record.offset >= last.get(record.key, 0)
            and (record.value is not None or record.offset >= tombstones_below)
        )
    ]


batches_strategy = st.lists(
    st.lists(
        st.tuples(
            st.none() | st.sampled_from([b"", b"a", b"b", b"c", b"d" * 300]),
            st.none() | st.binary(max_size=3),
        ),
        min_size=1,
        max_size=9,
    ),
    min_size=1,
    max_size=8,
)


def log_of(batches: list[list[tuple[bytes | None, bytes | None]]]) -> list[Stored]:
    log, offset = [], 0
    for batch in batches:
        log.append(stored([Record(offset + i, *fields) for i, fields in enumerate(batch)]))
        offset += len(batch)
    return log


@given(batches_strategy, st.integers(0, 40), st.integers(2, 5))
def test_last_record_of_each_key_stays_at_its_offset(
    batches: list[list[tuple[bytes | None, bytes | None]]], tombstones_below: int, piece: int
) -> None:
    log = log_of(batches)
    before = records_in(log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "PIECE_RECORDS", piece)
        latest, upto = latest_of(log)
        after = compacted(log, latest, tombstones_below)
        assert records_in(after) == naive(before, upto, tombstones_below)
        assert records_in(compacted(after, latest, tombstones_below)) == records_in(after)


@given(batches_strategy, st.integers(9, 20))
def test_pass_cleans_as_far_as_its_map_reaches_and_the_next_goes_on(
    batches: list[list[tuple[bytes | None, bytes | None]]], keys_max: int
) -> None:
    log = log_of(batches)
    before = records_in(log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "KEYS_MAX", keys_max)
        upto = 0
        while dirty := [each for each in log if each.base + each.view.deltas[-1] >= upto]:
            latest, reached = latest_of(dirty)
            assert reached > upto
            log, upto = compacted(log, latest), reached
        assert records_in(log) == naive(before, len(before), 0)


def test_batch_that_loses_nothing_stays_the_same_bytes() -> None:
    ((base, view),) = log_of([[(b"a", b"1"), (b"b", b"2")]])
    latest, _ = latest_of([Stored(base, view)])
    ((_, same),) = compacted([Stored(base, view)], latest)
    assert same.view.obj is view.view.obj


def test_batch_that_loses_everything_is_gone() -> None:
    log = log_of([[(b"a", b"1"), (b"a", b"2")], [(b"a", b"3")]])
    assert records_in(compacted(log, latest_of(log)[0])) == [Record(2, b"a", b"3")]


def test_key_packed_in_another_way_is_the_same_key() -> None:
    builder = BatchBuilder()
    for packed in (b"\xc4\x01a", b"\xc5\x00\x01a", b"\xc6\x00\x00\x00\x01a"):
        builder.add(b"", [(Kind.KEY, packed)])
    view = BatchView(builder.encode())
    assert len(set(compaction.digests(view))) == 1


# Tombstones


def test_tombstone_stays_for_its_time_behind_the_pass_that_first_met_it() -> None:
    cleaned = Cleaned()
    assert cleaned.droppable(10 * DAY_MS, DAY_MS) == 0
    cleaned = cleaned.after(50, 10 * DAY_MS, 7, dropped=0, tombstones=True)
    assert cleaned == Cleaned(50, 50, 10 * DAY_MS, 10 * DAY_MS, 7)
    assert cleaned.droppable(11 * DAY_MS - 1, DAY_MS) == 0
    assert cleaned.droppable(11 * DAY_MS, DAY_MS) == 50


def test_passes_in_between_do_not_put_off_what_waits() -> None:
    cleaned = Cleaned().after(50, DAY_MS, 0, dropped=0, tombstones=True)
    for hours in range(1, 24):
        wall = DAY_MS + hours * 3_600_000
        cleaned = cleaned.after(50 + hours, wall, 1, dropped=cleaned.droppable(wall, DAY_MS), tombstones=True)
    assert cleaned.droppable(2 * DAY_MS, DAY_MS) == 50
    cleaned = cleaned.after(80, 2 * DAY_MS, 0, dropped=50, tombstones=True)
    assert (cleaned.horizon, cleaned.droppable(3 * DAY_MS, DAY_MS)) == (80, 80)
    assert (cleaned.upto, cleaned.removed) == (80, 23)


def test_nothing_waits_where_no_tombstone_is_left() -> None:
    cleaned = Cleaned().after(50, DAY_MS, 0, dropped=0, tombstones=False)
    assert cleaned.droppable(9 * DAY_MS, DAY_MS) == 0
