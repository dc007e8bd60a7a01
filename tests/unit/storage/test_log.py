"""A log's indexes against a plain list of batches."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock_broker.storage import entries
from penstock_broker.storage.entries import At, Kind, Part
from penstock_broker.storage.log import Log, Stretch, Use, Young

LOG, OTHER = b"L" * 16, b"O" * 16


@pytest.fixture(autouse=True, scope="module")
def few_trimmed_rows_are_kept() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock_broker.storage.log.TRIM_ROWS_MIN", 2)
        yield


@dataclass(frozen=True)
class Batch:
    """A batch in the journal, or a stretch of batches in a segment."""

    first: int
    messages: int
    length: int
    time: int
    place: tuple[int, ...]
    """Young: (position, checksum, its first offset where it came from or -1). Old: (segment, place in it)."""
    old: bool = False

    @property
    def end(self) -> int:
        return self.first + self.messages

    def found(self) -> Young | Stretch:
        """What a look-up must answer."""
        if self.old:
            segment, at = self.place
            times = self.time, self.time
            return Stretch(self.first, self.messages, self.messages, segment, 1, self.length, at, *times)
        position, crc, origin = self.place
        came_from = (LOG, self.first) if origin < 0 else (OTHER, origin)
        return Young(self.first, self.messages, position, self.length, self.time, crc, *came_from)


def packed(stretches: list[Batch]) -> bytes:
    """The detail of the part that says where they lie."""
    return b"".join(entries.STRETCH.pack(*stretch.found()) for stretch in stretches)


class AgainstList(RuleBasedStateMachine):
    """The list holds what is not gone, in offset order: stretches, then young batches."""

    def __init__(self) -> None:
        super().__init__()
        self.use = Use()
        self.log = Log(LOG, self.use)
        self.batches: list[Batch] = []
        self.start = self.end = self.position = self.segment = 0
        self.time = 1_000

    @rule(
        messages=st.integers(1, 5),
        length=st.integers(1, 900),
        ms=st.integers(0, 3),
        origin=st.integers(-3, 9),
    )
    def append(self, messages: int, length: int, ms: int, origin: int) -> None:
        self.time += ms
        crc = self.position % 1_000
        flags, detail = (entries.ORIGIN_FLAG, entries.ORIGIN.pack(OTHER, origin)) if origin >= 0 else (0, b"")
        part = Part(LOG, Kind.APPEND, self.end, messages, flags, detail, 0)
        self.log.appended(part, At(self.position + length, self.time, self.position, length, crc))
        place = (self.position, crc, max(origin, -1))
        self.batches.append(Batch(self.end, messages, length, self.time, place))
        self.end += messages
        self.position += length + 24

    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        self.start = data.draw(st.integers(self.start, self.end))
        self.log.trim(self.start)
        self.forget()

    def forget(self) -> None:
        self.batches = [batch for batch in self.batches if batch.end > self.start]

    @precondition(lambda self: any(not batch.old for batch in self.batches))
    @rule(data=st.data(), trimmed_meanwhile=st.booleans())
    def archive(self, data: st.DataObject, trimmed_meanwhile: bool) -> None:
        """Some of the oldest young batches move to a segment; some of them are settled, and not copied; the
        log may be trimmed between."""
        young = [batch for batch in self.batches if not batch.old]
        moved = young[: data.draw(st.integers(1, len(young)), "batches")]
        first, end = moved[0].first, moved[-1].end
        stretches = self.laid_out(moved, data)
        if trimmed_meanwhile:
            self.trim(data)
        self.log.archived(Part(LOG, Kind.ARCHIVED, first, end - first, 0, packed(stretches)))
        self.batches = (
            [batch for batch in self.batches if batch.old]
            + stretches
            + [batch for batch in self.batches if not batch.old and batch.first >= end]
        )
        self.forget()

    @precondition(lambda self: any(batch.old for batch in self.batches))
    @rule(data=st.data(), trimmed_meanwhile=st.booleans())
    def move(self, data: st.DataObject, trimmed_meanwhile: bool) -> None:
        """Some stretches move to another segment, become fewer, or are given up."""
        old = [batch for batch in self.batches if batch.old]
        low = data.draw(st.integers(0, len(old) - 1), "from")
        moved = old[low : data.draw(st.integers(low + 1, len(old)), "to")]
        first, end = moved[0].first, moved[-1].end
        stretches = self.laid_out(moved, data)
        if trimmed_meanwhile:
            self.trim(data)
        self.log.moved(Part(LOG, Kind.MOVED, first, end - first, 0, packed(stretches)))
        before = [batch for batch in self.batches if batch.first < first]
        self.batches = before + stretches + [batch for batch in self.batches if batch.first >= end]
        self.forget()

    def laid_out(self, moved: list[Batch], data: st.DataObject) -> list[Batch]:
        """Stretches in a new segment for what is left of `moved`."""
        self.segment += 1
        left = [batch for batch in moved if data.draw(st.integers(0, 4), "kept")]
        stretches, at = [], 0
        while left:
            size = data.draw(st.integers(1, len(left)), "in a stretch")
            members, left = left[:size], left[size:]
            first, end = members[0].first, members[-1].end
            length = data.draw(st.integers(1, 500), "length")
            stretches.append(Batch(first, end - first, length, members[0].time, (self.segment, at), old=True))
            at += length
        return stretches

    @rule()
    def restart_from_a_snapshot(self) -> None:
        data = self.log.snapshot()
        self.use = Use()
        self.log = Log(LOG, self.use)
        assert self.log.restore(memoryview(data + b"of the next")) == len(data)

    @invariant()
    def every_message_lies_where_it_was_put(self) -> None:
        for batch in self.batches:
            for offset in {max(batch.first, self.start), batch.end - 1}:
                assert self.log.at(offset) == batch.found()
                assert self.log.time(offset) == batch.time
                assert self.log.position(offset) == (0 if batch.old else batch.place[0] + batch.length)

    @invariant()
    def start_end_and_size_are_those_of_the_list(self) -> None:
        assert (self.log.start, self.log.end) == (self.start, self.end)
        assert self.log.size_bytes == sum(batch.length for batch in self.batches)

    @invariant()
    def offset_in_a_hole_leads_to_what_is_behind(self) -> None:
        for offset in range(self.start, self.end + 1):
            behind = next((batch for batch in self.batches if batch.end > offset), None)
            assert self.log.at(offset) == (behind.found() if behind is not None else None)

    @invariant()
    def segments_are_used_by_the_stretches_that_are_left(self) -> None:
        held: dict[int, int] = {}
        for batch in self.batches:
            if batch.old:
                held[batch.place[0]] = held.get(batch.place[0], 0) + batch.length
        assert self.use.total() == held
        for segment in held:
            found = [batch.found() for batch in self.batches if batch.old and batch.place[0] == segment]
            assert list(self.log.stretches_in(segment)) == found
            assert self.use.logs(segment) == [LOG]

    @invariant()
    def stretches_are_those_that_end_behind_an_offset(self) -> None:
        old = [batch for batch in self.batches if batch.old]
        for offset in {0, self.start, self.end, *(batch.end for batch in old)}:
            assert list(self.log.stretches(offset)) == [batch.found() for batch in old if batch.end > offset]

    @invariant()
    def young_batches_are_those_in_the_journal(self) -> None:
        young = [batch.found() for batch in self.batches if not batch.old]
        assert list(self.log.young_rows(self.position)) == young
        assert self.log.young_position == (young[0].position if young else None)
        if young:
            assert list(self.log.young_rows(young[-1].position)) == young[:-1]

    @invariant()
    def time_finds_the_first_batch_that_is_not_older(self) -> None:
        times = [batch.time for batch in self.batches]
        for time in {self.time + 1, *times[:3], *(each + 1 for each in times[-3:])}:
            index = bisect_right(times, time - 1)
            offset = max(self.start, self.batches[index].first) if index < len(times) else self.end
            before = self.batches[index - 1] if index else None
            stretch = before.found() if before is not None and before.old else None
            assert self.log.offset_at(time) == (offset, stretch)

    @invariant()
    def fit_takes_one_message_at_least_and_no_more_than_the_size(self) -> None:
        messages = self.end - self.start
        if not messages:
            return
        for size in (1, 300, 1_000_000):
            taken, used = self.log.fit(self.start, messages, size)
            assert 1 <= taken <= messages
            nearest = self.log.at(self.start)
            one = -(-nearest.length // nearest.messages) if nearest is not None else 0
            assert used <= max(size, one)
        assert self.log.fit(self.start, messages, 1_000_000)[0] == messages

    @invariant()
    def reach_is_one_message_at_least_and_about_the_size(self) -> None:
        for start in {self.start, *(batch.first for batch in self.batches if batch.first > self.start)}:
            behind = [batch for batch in self.batches if batch.end > start]
            for messages, size in ((1, 1), (3, 300), (1_000, 1_000_000)):
                end = self.log.reach(start, messages, size)
                there = [(b, min(end, b.end) - max(start, b.first)) for b in behind if b.first < end]
                taken = sum(count for _, count in there)
                assert bool(taken) == bool(behind)
                assert taken <= messages
                assert taken == 1 or sum(b.length * count // b.messages for b, count in there) <= size
            assert end == self.log.end or not behind

    @invariant()
    def places_are_what_is_kept_or_given_up_as_one(self) -> None:
        assert list(self.log.places()) == [
            (each.end, each.length, each.time, each.time) for each in self.batches
        ]


TestAgainstList = AgainstList.TestCase
