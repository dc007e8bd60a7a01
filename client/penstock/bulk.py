"""One call of `enqueue_many` or `produce_many`: its input as batches in order, and what became of them.

The input is taken as it can be sent: at most `SEQUENCES_IN_FLIGHT_MAX` batches of a call are unconfirmed.
The first failure stops the call: nothing more is taken from the input, and its batches that are not appended
are withdrawn, so that no later message is durable in the place of an earlier one of the same address. A
message whose job key is taken is refused alone: it stops nothing, and is told at the end.
"""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeGuard, TypeVar

from penstock.confirms import accepted, conflict, conflicts
from penstock.errors import BatchError, Error, Invalid, OutcomeUnknown, TooLarge
from penstock.lanes import END_BYTES, Address, Batch, Outcome
from penstock.values import Cells
from penstock_protocol.batch import HEADER_BYTES
from penstock_protocol.errors import Cancelled
from penstock_protocol.limits import BATCH_BYTES_MAX, BATCH_COUNT_MAX, MIB, SEQUENCES_IN_FLIGHT_MAX
from penstock_protocol.messages.queues import Confirm

if TYPE_CHECKING:
    from penstock.batching import Publisher, Route

T = TypeVar("T")
V = TypeVar("V", bound=Sequence[Any])

DRAFTED_BYTES_MAX = 32 * MIB
"""Batches of one call that still gather, all partitions together; beyond it they are sent as they are."""


class Stretch(NamedTuple):
    """Messages of the input, one behind the other, that stand one behind the other in one batch: message i
    of them is number `first + i` of it."""

    confirm: Confirm
    first: int
    messages: int


class Piece:
    """A stretch whose batch has no outcome yet."""

    __slots__ = ("batch", "first", "messages")

    def __init__(self, batch: Batch, first: int, messages: int) -> None:
        self.batch = batch
        self.first = first
        self.messages = messages


class Bulk(Generic[T, V]):
    """See `Publisher.many`."""

    def __init__(
        self,
        publisher: "Publisher",
        encode: Callable[[T], tuple["Address | Route", bytes, Cells]],
        view: Callable[[list[Stretch]], V],
        *,
        plain: "Address | Route | None",
        atomic: bool,
        timeout: float | None,
        expected_offset: int | None = None,
    ) -> None:
        self._publisher = publisher
        self._encode = encode
        self._view = view
        self._plain = plain
        self._atomic = atomic
        self._timeout = timeout
        self._expected_offset = expected_offset
        self._drafts: dict[Address, Batch] = {}
        self._turns: dict[Route, Address] = {}
        """Whose turn it is, until the draft for it is full: what a partition gets is one batch, in order."""
        self._pieces: list[Piece] = []
        self._drafted = 0
        """Bytes of the drafts."""
        self._items: dict[Batch, Sequence[Any]] = {}
        """What was given, of every batch that is not confirmed."""
        self._sent: dict[Batch, asyncio.TimerHandle | None] = {}
        """Without an outcome yet; when this call waits for them no longer."""
        self._outcomes: dict[Batch, Outcome] = {}
        self._failure: Error | None = None
        self._input_error: Error | None = None
        self._bad: list[Any] = []
        """The item that could not be encoded; the input ends before it."""
        self._taken: list[Any] = []
        """Items whose job key is taken."""
        self._conflict: Error | None = None
        self._changed: asyncio.Future[None] | None = None

    async def run(self, items: Iterable[T] | AsyncIterable[T]) -> V:
        """Publish it all."""
        try:
            await self._publish(items)
            while self._sent:
                await self._change()
        except asyncio.CancelledError:
            self._withdraw(batch for batch in self._sent if batch.data is None)
            raise
        failure = self._failure or self._input_error or self._conflict
        if failure is not None:
            raise self._error(failure)
        return self._view([Stretch(*row) for row in self._confirmed()])

    async def _publish(self, items: Iterable[T] | AsyncIterable[T]) -> None:
        if self._plain is not None and is_plain(items):
            bodies = items if isinstance(items, list) else list(items)
            for batch in self._slices(self._plain, bodies):
                if not await self._submitted(batch):
                    return
            return
        async with aclosing(self._batches(items)) as batches:
            async for batch in batches:
                if not await self._submitted(batch):
                    return

    async def _submitted(self, batch: Batch) -> bool:
        """Send it when it is its turn; False when nothing more is to be sent."""
        if self._publisher.is_full:
            await self._publisher.room()
        while len(self._sent) >= SEQUENCES_IN_FLIGHT_MAX and self._failure is None:
            await self._change()
        if self._failure is None:
            self._submit(batch)
        return self._failure is None

    def _submit(self, batch: Batch) -> None:
        late = None
        if self._timeout is not None:
            late = asyncio.get_running_loop().call_later(self._timeout, self._time_is_up, batch)
        self._sent[batch] = late
        self._publisher.submit(batch, self._timeout)

    # Cutting the input

    async def _batches(self, items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[Batch, None]:
        """Full batches as the input fills them, then the rest."""
        try:
            if isinstance(items, AsyncIterable):
                async for item in items:
                    for batch in self._take(item):
                        yield batch
            else:
                for item in items:
                    for batch in self._take(item):
                        yield batch
        except Error as error:
            self._end_input(error)
        for batch in list(self._drafts.values()):
            yield batch

    def _end_input(self, error: Error) -> None:
        """It goes no further. Raises the error if that is all there is to say."""
        if not self._sent and not self._outcomes:
            raise error
        self._input_error = error

    def _take(self, item: T) -> Sequence[Batch]:
        """Add one item; the batches that have to be sent because of it."""
        try:
            to, body, cells = self._encode(item)
            self._publisher.check(body)
        except Error:
            self._bad.append(item)
            raise
        full: list[Batch] = []
        cost = 0
        if self._drafted > DRAFTED_BYTES_MAX:
            full = self._cut(list(self._drafts))
        while (draft := self._drafts.get(address := self._address(to))) is not None:
            cost = draft.cost(body, cells)
            if draft.fits(cost):
                break
            full += self._cut([address])
        if draft is None:
            draft = self._drafts[address] = self._begin(address, [])
            self._drafted += draft.size
            cost = draft.cost(body, cells)
        self._note(draft, item)
        draft.add(body, cells, cost)
        self._drafted += cost
        return full

    def _address(self, to: "Address | Route") -> Address:
        if isinstance(to, Address):
            return to
        address = self._turns.get(to)
        if address is None:
            address = self._turns[to] = to()
        return address

    def _cut(self, addresses: Sequence[Address]) -> list[Batch]:
        """Drafts that get nothing more, and have to be sent."""
        self._refuse_more()
        full = [self._drafts.pop(address) for address in addresses]
        self._drafted -= sum(each.size for each in full)
        self._turns = {route: address for route, address in self._turns.items() if address in self._drafts}
        return full

    def _slices(self, to: "Address | Route", bodies: list[bytes]) -> Iterator[Batch]:
        """The same for plain bodies: slices instead of single messages."""
        for first, end, ends in cuts(bodies):
            some = bodies[first:end]
            try:
                if len(some) < len(bodies):
                    self._refuse_more()
                self._publisher.check_all(some, ends[-1])
                batch = self._begin(to, some)
            except Error as error:
                self._end_input(error)
                return
            batch.fill(some, ends)
            self._pieces.append(Piece(batch, 0, len(some)))
            yield batch

    def _begin(self, to: "Address | Route", items: Sequence[Any]) -> Batch:
        if self._expected_offset is not None and self._items:
            raise Invalid(
                "expected_offset is an offset of one partition, and these records go to several",
                hint="pass records with one key, or partition=… in each Outgoing",
            )
        batch = self._publisher.batch(to, self._ended)
        batch.expected_offset = self._expected_offset
        self._items[batch] = items
        return batch

    def _note(self, batch: Batch, item: T) -> None:
        """Remember that `item` is the next message of `batch`."""
        items = self._items[batch]
        assert isinstance(items, list)
        items.append(item)
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.batch is batch:
            last.messages += 1
        else:
            self._pieces.append(Piece(batch, batch.count, 1))

    def _refuse_more(self) -> None:
        if self._atomic:
            raise TooLarge(
                f"atomic=True takes one batch: {BATCH_COUNT_MAX:,} messages, {BATCH_BYTES_MAX:,} bytes",
                hint="send less at once, or leave atomic=False",
            )

    # Outcomes

    def _ended(self, batch: Batch, outcome: Outcome) -> None:
        if batch not in self._sent:  # this call's time was up before
            return
        late = self._sent.pop(batch)
        if late is not None:
            late.cancel()
        self._outcomes[batch] = outcome
        if isinstance(outcome, Confirm):
            items = self._items.pop(batch)
            for each in conflicts(outcome, 0, len(items)):
                self._conflict = self._conflict or conflict(each)
                self._taken.append(items[each.number])
        elif self._failure is None and not isinstance(outcome, Cancelled):
            self._stop(outcome)
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def _stop(self, why: Error) -> None:
        self._failure = why
        self._withdraw(self._sent)

    def _withdraw(self, batches: Iterable[Batch]) -> None:
        for batch in list(batches):
            self._publisher.withdraw(batch, Cancelled("the call ended before it was sent"))

    def _time_is_up(self, batch: Batch) -> None:
        """This call waits no longer; the batch goes on if it was sent."""
        if batch.data is None:
            self._publisher.withdraw(batch, self._publisher.not_sent())
        else:
            self._ended(batch, self._publisher.inquiries.unknown(batch))

    async def _change(self) -> None:
        self._changed = asyncio.get_running_loop().create_future()
        await self._changed

    def _confirmed(self) -> Iterator[tuple[Confirm, int, int]]:
        """From the start of the input up to the first message that is not confirmed; without those that were
        refused for their job key."""
        for piece in self._pieces:
            confirm = self._outcomes.get(piece.batch)
            if not isinstance(confirm, Confirm):
                return
            yield from accepted(confirm, piece.first, piece.messages)

    def _given(self, *, unknown: bool) -> list[Any]:
        """The items whose outcome is unknown; or those that were refused or never sent."""
        return [
            item
            for piece in self._pieces
            if piece.batch in self._items
            and isinstance(self._outcomes.get(piece.batch), OutcomeUnknown) is unknown
            for item in self._items[piece.batch][piece.first : piece.first + piece.messages]
        ]

    def _error(self, failure: Error) -> Error:
        """What to raise: a `BatchError`, unless one batch was all there was."""
        if isinstance(failure, OutcomeUnknown):
            failure = OutcomeUnknown(failure.message, repeat=self._ask_again)
        if len(self._items) == len(self._outcomes) == 1 and not self._bad:
            return failure
        error = BatchError(
            failure,
            receipts=self._view([Stretch(*row) for row in self._confirmed()]),
            refused=[*self._taken, *self._given(unknown=False), *self._bad],
            unknown=self._given(unknown=True),
        )
        error.__cause__ = failure
        return error

    async def _ask_again(self) -> V:
        """Where the messages are whose outcome was unknown."""
        stretches: list[Stretch] = []
        taken: list[Any] = []
        why: Error | None = None
        try:
            for piece in self._pieces:
                if isinstance(self._outcomes.get(piece.batch), OutcomeUnknown):
                    confirm = await self._publisher.inquiries.ask(piece.batch)
                    stretches += [Stretch(*row) for row in accepted(confirm, piece.first, piece.messages)]
                    for each in conflicts(confirm, piece.first, piece.messages):
                        why = why or conflict(each)
                        taken.append(self._items[piece.batch][each.number])
        except OutcomeUnknown as error:
            raise OutcomeUnknown(error.message, repeat=self._ask_again) from None
        if why is not None:
            raise BatchError(why, receipts=self._view(stretches), refused=taken, unknown=[]) from why
        return self._view(stretches)


def is_plain(items: object) -> TypeGuard[Sequence[bytes]]:
    """Whether it is a list of nothing but bytes."""
    return isinstance(items, list | tuple) and set(map(type, items)) <= {bytes}


def cuts(bodies: Sequence[bytes]) -> Iterator[tuple[int, int, list[int]]]:
    """(first, end, cumulative ends of its bodies) of each batch that plain bodies make."""
    for start in range(0, len(bodies), BATCH_COUNT_MAX):
        ends = list(accumulate(map(len, bodies[start : start + BATCH_COUNT_MAX])))
        count = len(ends)
        room = BATCH_BYTES_MAX - HEADER_BYTES - END_BYTES * count
        if ends[-1] <= room:
            yield start, start + count, ends
            continue
        first = before = 0
        while first < count:
            end = max(bisect_right(ends, before + room), first + 1)
            yield start + first, start + end, [each - before for each in ends[first:end]]
            first, before = end, ends[end - 1]
