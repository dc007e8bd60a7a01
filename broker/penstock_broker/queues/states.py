"""Where every message of a queue is in its life, by page; pure.

    state                    READY  IN_FLIGHT  DELAYED  SPECIAL  WAITING  SETTLED  HELD
    before `head`            all settled, nothing is kept
    `head` … `cursor`        a page of 4,096 offsets: one value if uniform, else one byte per offset
    from `cursor` on         all ready and never handed out, nothing is kept

So an ordered queue costs nothing per message, and one random settle costs one byte. SPECIAL is ready too,
but has a history, a priority or a message group (see order.py), and HELD is behind another message of its
group, so that the search for plain ready messages never meets either.
"""

from collections.abc import Iterable, Iterator
from enum import Enum, IntEnum
from struct import Struct
from typing import NamedTuple

from penstock_broker.queues.order import OFFSET, PRUNE_MIN, Order

PAGE = 4096
Woke = tuple[int, int]
"""When messages were due (wall ms), and the offset before which that was."""
SNAPSHOT = Struct("<QQI")  # head, cursor, pages
SNAPSHOT_PAGE = Struct("<QB")  # page number, uniform state or BYTES
BYTES = 0xFF


class State(IntEnum):
    """Numbers are part of the snapshot format."""

    READY = 0
    IN_FLIGHT = 1
    DELAYED = 2
    SPECIAL = 3
    WAITING = 4
    SETTLED = 5
    HELD = 6


class Event(Enum):
    """What happens to a message."""

    HAND_OUT = "hand out"
    UNDO = "hand-out never left the broker"
    RELEASE = "release"
    DELAY = "delay"
    DUE = "due"
    RECALL = "it is known not to be a plain one"
    HOLD = "another of its message group comes first"
    SEIZE = "the broker takes it for itself"
    PARK = "no room for the dead letter"
    SETTLE = "settle"


_R, _I, _D, _S, _W = State.READY, State.IN_FLIGHT, State.DELAYED, State.SPECIAL, State.WAITING
_H = State.HELD

TRANSITIONS: dict[Event, tuple[State, frozenset[State]]] = {
    #  event           to              from
    Event.HAND_OUT: (State.IN_FLIGHT, frozenset({_R, _S})),
    Event.UNDO: (State.READY, frozenset({_I})),
    Event.RELEASE: (State.SPECIAL, frozenset({_I})),
    Event.DELAY: (State.DELAYED, frozenset({_I, _R, _S, _D, _W, _H})),  # a fresh one; or recovery
    Event.DUE: (State.SPECIAL, frozenset({_D, _W})),
    Event.RECALL: (State.SPECIAL, frozenset({_R, _H})),
    Event.HOLD: (State.HELD, frozenset({_R, _D})),
    Event.SEIZE: (State.IN_FLIGHT, frozenset({_R, _S, _D, _W, _H})),
    Event.PARK: (State.WAITING, frozenset({_I, _R, _S, _D, _W, _H})),
    Event.SETTLE: (State.SETTLED, frozenset({_I, _R, _S, _D, _W, _H})),
}
"""Event → the state after it, and the states it may come from. An absent pair is an error of ours."""

READY_BYTE = bytes([State.READY])
SETTLED_BYTE = bytes([State.SETTLED])
_AFTER_RESTART = bytes([State.READY if s in (_I, _S) else s for s in range(256)])
"""Leases are memory only: what was in flight is ready again, and so is what had a memory of hand-outs."""


class Special(NamedTuple):
    """Who goes first of what is SPECIAL, and by which key."""

    key: int
    first: int
    messages: int
    """How many go together since they were due together; 0: nobody has looked."""


class States:
    """The states of one queue's messages."""

    __slots__ = ("_hint", "_in_pages", "_pages", "counts", "cursor", "head", "order")

    def __init__(self) -> None:
        self.head = 0
        self.cursor = 0
        self.counts = [0] * len(State)
        """Messages per state; READY without those from `cursor` on, SETTLED since the queue exists."""
        self._pages: dict[int, int | bytearray] = {}
        self._hint = 0
        """No READY message lies between head and here."""
        self.order = Order()
        """Of what is SPECIAL."""

    # ---- Changing

    def move(self, first: int, messages: int, event: Event, woke: Woke | None = None) -> None:
        """Let `event` happen to a range. The one function that changes a state. `woke`: of plain messages
        that were delayed and become SPECIAL."""
        to, allowed = TRANSITIONS[event]
        end = first + messages
        if end > self.cursor:
            self._reach(end)
        offset = first
        while offset < end:
            page, low = divmod(offset, PAGE)
            high = min(PAGE, low + end - offset)
            self._move_in_page(page, low, high, to, allowed)
            offset += high - low
        if to is State.READY:
            self._hint = min(self._hint, first)
        elif to is State.SPECIAL:
            self._line_up(first, end, woke)
        elif event is Event.HAND_OUT:
            self.order.passed(first, end)
        elif to is State.SETTLED and first <= self.head:
            self._advance()

    def _line_up(self, first: int, end: int, woke: Woke | None) -> None:
        """That range is SPECIAL now."""
        order, most = self.order, 2 * self.counts[State.SPECIAL] + PRUNE_MIN
        if woke is not None:
            order.woken.add((*woke, first, end - first))
            if len(order.woken) > most:
                order.woken.prune(self._has_special)
            return
        for special in range(first, end):
            order.push(special)
        if len(order) > most:
            self.reorder()

    def _has_special(self, first: int, messages: int) -> bool:
        return any(state == State.SPECIAL for state, _, _ in self.spans(first, messages))

    def _move_in_page(self, page: int, low: int, high: int, to: State, allowed: frozenset[State]) -> None:
        counts = self.counts
        size = high - low
        held = self._pages[page]
        if isinstance(held, int):
            assert held in allowed, f"{State(held).name} → {to.name} is not in the table"
            counts[held] -= size
            if size < PAGE:
                held = self._pages[page] = bytearray([held]) * PAGE
        else:
            run = held[low:high]
            left = size
            for state in allowed:
                found = run.count(state)
                counts[state] -= found
                left -= found
            assert not left, f"a message at or behind {page * PAGE + low} may not become {to.name}"
        counts[to] += size
        if size == PAGE:
            self._pages[page] = int(to)
        else:
            assert isinstance(held, bytearray)
            held[low:high] = bytes([to]) * size

    def _reach(self, end: int) -> None:
        """Move the cursor to `end`: what it passes is READY within pages until somebody moves it on."""
        counts, pages = self.counts, self._pages
        counts[State.READY] += end - self.cursor
        for page in range(self.cursor // PAGE, -(-end // PAGE)):
            if page not in pages:
                pages[page] = int(State.READY)
        self.cursor = end

    def _advance(self) -> None:
        """Move the head over everything settled, and forget pages behind it."""
        pages, cursor = self._pages, self.cursor
        head = self.head
        while head < cursor:
            page, low = divmod(head, PAGE)
            held = pages[page]
            if isinstance(held, int):
                if held != State.SETTLED:
                    break
                head = (page + 1) * PAGE
            else:
                tail = held[low:]
                settled = len(tail) - len(tail.lstrip(SETTLED_BYTE))
                head += settled
                if settled < len(tail):
                    break
            if head < cursor:
                del pages[page]
        self.head = min(head, cursor)
        if self.head == cursor:
            pages.clear()
            self.order.clear()
        self._hint = max(self._hint, self.head)

    # ---- Looking

    def next_ready(self, end: int, limit: int) -> tuple[int, int]:
        """First and length of the next run of READY messages before `end`, at most `limit` long; a
        SPECIAL message before it comes first, see `next_special`. (end, 0) if there is none."""
        if self.counts[State.READY]:
            found = self._search()
            if found < self.cursor:
                return found, self._run_length(found, min(limit, self.cursor - found))
        return self.cursor, min(limit, end - self.cursor)

    def next_special(self, limit: int = 1) -> Special | None:
        """The SPECIAL message that goes first; None if there is none. `limit`: how many are wanted."""
        order = self.order
        found = None
        while (key := order.peek()) is not None:
            if self.state(key & OFFSET) == State.SPECIAL:
                found = Special(key, key & OFFSET, 0)
                break
            order.pop()
        woken = self._next_woken(limit) if order.woken else None
        if woken is not None and (found is None or woken.key < found.key):
            return woken
        return found

    def _next_woken(self, limit: int) -> Special | None:
        """The first that were delayed and are still to be handed out."""
        order = self.order
        while (row := order.peek_woken()) is not None:
            key, first, messages = row
            state, _, length = next(self.spans(first, min(messages, limit)))
            if order.late:  # was given another time since
                length = next((n for n in range(length) if first + n in order.late), length)
            if state == State.SPECIAL and length:
                return Special(key, first, length)
            order.woken.drop(max(1, length))
        return None

    def reorder(self) -> None:
        """What decides on the order of SPECIAL messages has changed, or the heap holds too much."""
        ready = [each for each in self.order.offsets() if self.state(each) == State.SPECIAL]
        self.order.rebuild(ready)

    def spans(self, first: int, messages: int) -> Iterator[tuple[int, int, int]]:
        """(state, first, messages) of each stretch of a range, which may reach beyond the cursor."""
        offset, end = max(first, self.head), first + messages
        if first < min(self.head, end):
            yield State.SETTLED, first, min(self.head, end) - first
        while offset < min(end, self.cursor):
            page, low = divmod(offset, PAGE)
            high = min(PAGE, low + min(end, self.cursor) - offset)
            held = self._pages[page]
            if isinstance(held, int):
                yield held, offset, high - low
            else:
                base = page * PAGE
                while low < high:
                    run = held[low:high]
                    length = len(run) - len(run.lstrip(run[:1]))
                    yield run[0], base + low, length
                    low += length
            offset = page * PAGE + high
        if offset < end:
            yield State.READY, offset, end - offset

    def state(self, offset: int) -> int:
        """The state of one message; READY behind the cursor, SETTLED before the head."""
        if offset < self.head:
            return State.SETTLED
        if offset >= self.cursor:
            return State.READY
        held = self._pages[offset // PAGE]
        return held if isinstance(held, int) else held[offset % PAGE]

    def ranges(self, state: State, limit: int) -> Iterator[tuple[int, int]]:
        """Runs (first, messages) in a state between head and cursor, up to `limit` messages in all."""
        want = bytes([state])
        offset, left = self.head, limit
        while offset < self.cursor and left > 0:
            page, low = divmod(offset, PAGE)
            end = min((page + 1) * PAGE, self.cursor)
            held = self._pages[page]
            if isinstance(held, int):
                if held == state:
                    yield offset, min(left, end - offset)
                    left -= min(left, end - offset)
                offset = end
                continue
            high = low + end - offset
            while left > 0 and (found := held.find(want, low, high)) >= 0:
                run = held[found : min(high, found + left)]
                length = len(run) - len(run.lstrip(want))
                yield page * PAGE + found, length
                left -= length
                low = found + length
            offset = end

    def has_alive(self, first: int, messages: int) -> bool:
        """Something in the range is not settled."""
        end = first + messages
        if end > self.cursor:
            return True
        offset = max(first, self.head)
        while offset < end:
            page, low = divmod(offset, PAGE)
            high = min(PAGE, low + end - offset)
            held = self._pages[page]
            if isinstance(held, int):
                if held != State.SETTLED:
                    return True
            elif held[low:high].strip(SETTLED_BYTE):
                return True
            offset += high - low
        return False

    def count_alive(self, first: int, messages: int) -> int:
        """How many messages in the range are not settled."""
        end = first + messages
        alive = end - max(first, self.cursor) if end > self.cursor else 0
        offset, end = max(first, self.head), min(end, self.cursor)
        while offset < end:
            page, low = divmod(offset, PAGE)
            high = min(PAGE, low + end - offset)
            held = self._pages[page]
            if isinstance(held, int):
                alive += (high - low) * (held != State.SETTLED)
            else:
                alive += high - low - held.count(State.SETTLED, low, high)
            offset += high - low
        return alive

    def _search(self) -> int:
        """First READY offset between hint and cursor; the cursor if the count is of none."""
        offset = max(self._hint, self.head)
        while offset < self.cursor:
            page, low = divmod(offset, PAGE)
            held = self._pages[page]
            if isinstance(held, int):
                if held == State.READY:
                    break
            else:
                found = held.find(READY_BYTE, low)
                if found >= 0:
                    offset = page * PAGE + found
                    break
            offset = (page + 1) * PAGE
        self._hint = min(offset, self.cursor)
        return self._hint

    def _run_length(self, first: int, limit: int) -> int:
        length = 0
        while length < limit:
            page, low = divmod(first + length, PAGE)
            held = self._pages[page]
            room = min(PAGE - low, limit - length)
            if isinstance(held, int):
                if held != State.READY:
                    break
                length += room
                continue
            run = held[low : low + room]
            found = len(run) - len(run.lstrip(READY_BYTE))
            length += found
            if found < room:
                break
        return length

    # ---- Snapshot

    def snapshot(self, aside: Iterable[int] = ()) -> bytes:
        """What a restart needs: leases forgotten, so IN_FLIGHT and SPECIAL become READY, and so do the
        offsets `aside`."""
        ready: dict[int, list[int]] = {}
        for offset in aside:
            ready.setdefault(offset // PAGE, []).append(offset % PAGE)
        pages = []
        for page, held in self._pages.items():
            if isinstance(held, int) and page not in ready:
                pages.append(SNAPSHOT_PAGE.pack(page, _AFTER_RESTART[held]))
                continue
            states = bytearray([held]) * PAGE if isinstance(held, int) else held.translate(_AFTER_RESTART)
            for low in ready.get(page, ()):
                states[low] = State.READY
            pages.append(SNAPSHOT_PAGE.pack(page, BYTES) + states)
        settled = self.counts[State.SETTLED].to_bytes(8, "little")
        return SNAPSHOT.pack(self.head, self.cursor, len(pages)) + settled + b"".join(pages)

    def restore(self, data: memoryview) -> int:
        """The inverse of `snapshot`; how many bytes were used."""
        self.head, self.cursor, count = SNAPSHOT.unpack_from(data)
        at: int = SNAPSHOT.size
        settled = int.from_bytes(data[at : at + 8], "little")
        at += 8
        for _ in range(count):
            page, held = SNAPSHOT_PAGE.unpack_from(data, at)
            at += SNAPSHOT_PAGE.size
            if held == BYTES:
                self._pages[page] = bytearray(data[at : at + PAGE])
                at += PAGE
            else:
                self._pages[page] = held
        for offset_state in (State.READY, State.DELAYED, State.WAITING, State.HELD):
            self.counts[offset_state] = sum(
                messages for _, messages in self.ranges(offset_state, self.cursor - self.head)
            )
        self.counts[State.SETTLED] = settled
        self._hint = self.head
        return at
