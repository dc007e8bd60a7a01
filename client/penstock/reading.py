"""Reading one partition: one fetch on its way, one waiting, and one of which records are taken.

    position    what the next fetch asks for
    finished    what a commit stores: behind the last record the application was done with

Far from the end, and with few partitions, two are on their way, or broker and client would wait for each
other: each asks for a number of records that surely fits, so that the one behind it can be sent without its
answer. An answer that ends elsewhere makes that one useless: it is asked for anew. Where offsets are missing
nobody can tell, and nothing is sent ahead. At the end one fetch is answered in parts, as records come.

A reader knows neither groups nor what the application has in hand: it is told what was finished.
"""

import asyncio
import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from penstock.errors import Disconnected, NotFound, Timeout
from penstock.record import Record, RecordRun
from penstock.values import TopicPartition
from penstock.views import Records, Taken
from penstock_protocol.limits import INT_MAX, RECEIVE_MESSAGES_MAX

if TYPE_CHECKING:
    from penstock.topic import Topic
    from penstock.turn import Turn

T = TypeVar("T")

log = logging.getLogger("penstock")

FETCH_RECORDS = RECEIVE_MESSAGES_MAX
WAIT_MS = 20_000
"""Of the long poll at the end of a partition."""


class Sent(NamedTuple):
    """A fetch on its way: from `first` on what lies before `behind`."""

    first: int
    behind: int
    answer: "asyncio.Task[Records[Any] | None]"


class Reader(Generic[T]):
    """One partition: a task that keeps one fetch ahead of the application, or two, and what came of it.

    It reads from `begin` on, up to `until` if that is given; with `where` (as on the wire) what fits.
    `finished` is what a commit stores, `committed` what one stored. `lost`: the partition is somebody else's
    by now.
    """

    def __init__(
        self,
        topic: "Topic[T]",
        partition: int,
        position: int,
        turn: "Turn[T]",
        *,
        until: int | None = None,
        where: dict[str, Any] | None = None,
    ) -> None:
        self.place = TopicPartition(topic.name, partition)
        self.topic = topic
        self.first = position
        """What lies below was read before this partition was received."""
        self.finished = position
        self.committed = position
        self.until = until
        self._where = where
        self.paused = False
        """By the application, which resumes it."""
        self.leaving = False
        """It hands out nothing any more."""
        self.doubtful = False
        """It hands out nothing until it is known whether somebody else has read on meanwhile."""
        self.full = False
        """It hands out nothing until the application has finished some of what it has in hand."""
        self.lost = False
        self.optional = False
        """That its topic is deleted is no failure: it was found by a pattern."""
        self.heard = False
        """The broker has answered, be it that there is nothing yet."""
        self._turn = turn
        self._task: asyncio.Task[None] | None = None
        self._reset(position)

    def _reset(self, position: int) -> None:
        self._position = position
        self._last = -1
        self._behind_last = position
        self._reading: deque[tuple[RecordRun[T], int]] = deque()
        """Runs, and up to which index of each."""
        self._index = 0
        """In the first of these runs, of the next record to take."""
        self._ahead: deque[tuple[RecordRun[T], int]] | None = None
        self._ahead_behind = position
        self._failure: Exception | None = None
        self._end = INT_MAX
        """Of the partition, as far as is known."""
        self._stride = 0
        """How many records surely fit a fetch; 0: nobody can tell."""
        self._sent: Sent | None = None
        """The fetch behind the one that is waited for."""
        self._wanted = asyncio.Event()
        self._wanted.set()

    # Life

    @property
    def begun(self) -> bool:
        """Whether it reads."""
        return self._task is not None

    def begin(self) -> None:
        """Start to read."""
        self._task = asyncio.ensure_future(self._read())

    def seek(self, offset: int) -> None:
        """Go on at `offset`; what was fetched is dropped."""
        begun = self._task is not None
        self.stop()
        self.finished = offset
        self.first = min(self.first, offset)
        self._reset(offset)
        if begun:
            self.begin()

    def stop(self) -> None:
        """End the fetch."""
        if self._task is not None:
            self._task.cancel()
        self._forget_sent()

    async def close(self) -> None:
        """End what is on its way, and return when it has ended."""
        under_way = [] if self._task is None else [self._task]
        ahead = [] if self._sent is None else [self._sent.answer]
        self.stop()
        if under_way or ahead:
            await asyncio.wait([*under_way, *ahead])

    # Taking

    @property
    def held_back(self) -> bool:
        """It hands out nothing, whatever it has."""
        return self.paused or self.leaving or self.doubtful or self.full or self.lost

    @property
    def is_ready(self) -> bool:
        """Whether there is a record to take. Raises what ended the reading."""
        return not self.held_back and (bool(self._reading) or self._turn_to_what_is_ahead())

    @property
    def has_nothing(self) -> bool:
        """Neither a record that was fetched, nor a failure to tell of."""
        return not self._reading and self._ahead is None and self._failure is None

    @property
    def is_at_its_end(self) -> bool:
        """All records up to `until` were taken."""
        has_all = self.until is not None and self._position >= self.until
        return has_all and not self._reading and self._ahead is None

    @property
    def is_between_fetches(self) -> bool:
        """Everything fetched so far was taken, but for what waits: time for another partition."""
        return not self._reading

    @property
    def head_ms(self) -> int:
        """When the next record was appended. Only while it is ready."""
        return self._reading[0][0].stamps.time

    def stretch(self) -> tuple[RecordRun[T], int, int]:
        """The next records that lie in one run: the run, first index, end index. Only while it is ready."""
        run, end = self._reading[0]
        return run, self._index, end

    def advance(self, count: int) -> None:
        """That many records of the stretch were taken."""
        self._index += count
        if self._index == self._reading[0][1]:
            self._reading.popleft()
            self._index = 0

    def take(self, most: int) -> Sequence[Record[T]]:
        """Up to `most` records, in order, made when they are touched. Only while it is ready."""
        pieces = []
        while most and self._reading:
            run, first, end = self.stretch()
            pieces.append((run, first, min(most, end - first)))
            most -= pieces[-1][2]
            self.advance(pieces[-1][2])
        return Taken(pieces)

    def _turn_to_what_is_ahead(self) -> bool:
        if self._ahead is None:
            if self._failure is not None:
                raise self._failure
            return False
        self._reading, self._ahead = self._ahead, None
        run, end = self._reading[-1]
        self._last, self._behind_last = run.stamps.first + run.deltas[end - 1], self._ahead_behind
        self._wanted.set()
        return True

    def behind(self, offset: int) -> int:
        """Where to go on when that record is finished: behind the last of a fetch there may be a hole."""
        return self._behind_last if offset == self._last else offset + 1

    def _pass_hole(self, upto: int) -> None:
        """There is nothing between all that was fetched and `upto`."""
        if self.finished == self._position:
            self.finished = upto
        self._behind_last = upto

    # Fetching

    async def _read(self) -> None:
        try:
            while self.until is None or self._position < self.until:
                await self._wanted.wait()
                records = await self._next()
                if records is not None:
                    self._arrived(records)
            self.heard = True
        except NotFound as error:
            self.leaving = self.optional
            self._failure = error
        except Exception as error:
            self._failure = error  # raised where the application asks for the next record
        self._turn.arrived(self)

    def _arrived(self, records: Records[T]) -> None:
        """A fetch has brought this, or a part of one; what came before is behind the position."""
        self.heard = True
        behind = records.next_offset if self.until is None else min(records.next_offset, self.until)
        pieces = deque(self._pieces(records.runs))
        if self._ahead is not None:
            self._ahead += pieces
        elif pieces:
            self._wanted.clear()
            self._ahead = pieces
        else:
            self._pass_hole(behind)
        self._position = self._ahead_behind = behind
        self._turn.arrived(self)

    def _pieces(self, runs: Sequence[RecordRun[T]]) -> Iterator[tuple[RecordRun[T], int]]:
        """What of these runs lies before `until`."""
        for run in runs:
            end = run.stamps.messages
            if self.until is not None:
                end = bisect_left(run.deltas, self.until - run.stamps.first)
            if end:
                yield run, end

    async def _next(self) -> Records[T] | None:
        """What is at the position; while that is on its way, what lies behind it is asked for."""
        sent, self._sent = self._sent or self._send(self._position), None
        if sent is None:
            records = await self._fetch(self._position, FETCH_RECORDS)
        else:
            self._sent = self._send(sent.behind)
            records = await sent.answer
        if records is not None:
            self._learn(records)
        if self._sent is not None and (records is None or records.next_offset != self._sent.first):
            self._forget_sent()
        return records

    def _send(self, first: int) -> Sent | None:
        """Ask for as much as surely fits; None if it is not known how much that is, or not all is there."""
        behind = first + self._stride
        end = self._end if self.until is None else min(self._end, self.until)
        if not self._stride or behind > end or not self._turn.sends_ahead:
            return None
        answer = asyncio.ensure_future(self._fetch(first, self._stride))
        answer.add_done_callback(_look_at)
        return Sent(first, behind, answer)

    def _learn(self, records: Records[T]) -> None:
        """From a fetch, or what came of one last, how much fits."""
        self._end = records.end
        whole = records.next_offset - self._position
        if not records or whole != len(records):
            self._stride = 0
            return
        size = sum(run.batch.length for run in records.runs)
        fit = min(self._turn.fetch_bytes * whole * 3 // 4 // size, FETCH_RECORDS)
        batch = max(run.stamps.messages for run in records.runs)
        self._stride = fit - fit % batch if fit > batch else batch  # whole batches need no cut

    def _forget_sent(self) -> None:
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.answer.cancel()

    async def _fetch(self, offset: int, most: int) -> Records[T] | None:
        """None when the broker could not be reached in time: the task asks again."""
        left = most if self.until is None else self.until - offset
        waits = self.heard and offset >= self._end
        try:
            return await self.topic.fetch_once(
                self.place.partition,
                offset,
                min(left, most),
                self._turn.fetch_bytes,
                WAIT_MS if self.heard else 0,
                None,
                where=self._where,
                on_part=self._arrived if waits else None,
            )
        except (Timeout, Disconnected) as error:
            log.debug("fetching from %r again: %s", self.topic, error)
            return None


def _look_at(answer: "asyncio.Task[Any]") -> None:
    """What failed and nobody waits for is no news: whoever asks there again is told."""
    if not answer.cancelled():
        answer.exception()
