"""What a queue keeps of messages that are more than plain, by offset. Of a plain message it keeps nothing.

Every index is filled from an APPEND's traits, and emptied when the message is settled. The state of a message
(see states.py) says which of them matters now; a deadline that does not fit the state is passed over.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import msgpack

from penstock_broker.queues.copies import Copies
from penstock_broker.queues.deadlines import Deadlines, Due
from penstock_broker.queues.dedup import Dedup
from penstock_broker.queues.message_groups import JOB_PREFIX, MessageGroups
from penstock_broker.queues.notes import Notes
from penstock_broker.queues.order import DUE, DUE_SHIFT, PLAIN_RANK
from penstock_broker.queues.runs import runs
from penstock_broker.queues.states import Event, State, States, Woke
from penstock_broker.queues.traits import Traits
from penstock_broker.queues.woken import Woken

WAITING_TO_GO = frozenset({State.READY, State.SPECIAL, State.HELD, State.DELAYED})
"""States in which a message can expire."""
EXPIRED_AT_ONCE_MAX = 8_000
"""Messages that expire in one turn, each run counting for some more."""
RUN_COST = 20


class Indexes:
    """Of one queue."""

    __slots__ = (
        *("_overdue", "_until", "copies", "decided_at", "dedup", "delays", "expiries", "groups"),
        *("notes", "replayed", "states", "suspect_below", "used"),
    )

    def __init__(self, states: States) -> None:
        self.states = states
        self.used = False
        """There was a message that was more than plain."""
        self.delays = Deadlines()
        self._until: dict[int, int] = {}
        """Offset → wall ms, where a later word than that of the deadlines counts."""
        self.expiries = Deadlines()
        self._overdue: set[int] = set()
        """Messages that expired while somebody had them: they are gone when they come back."""
        self.groups = MessageGroups(states)
        self.dedup = Dedup()
        self.notes = Notes()
        self.copies = Copies()
        self.decided_at = 0
        """Journal position of the last change, but for appends, that may have let a message go which is not a
        plain one."""
        self.suspect_below = 0
        """Offsets below may have been delivered, of plain messages that were delayed. A clean stop leaves no
        doubt about them, if its checkpoint can be read: what was handed out is not in `woken` any more."""
        self.replayed: set[int] = set()
        """Copies of messages that were settled before."""

    # ---- Coming

    def taken_in(self, first: int, traits: Traits, time: int) -> None:
        """A batch was appended at `first`."""
        self.used = True
        for due, begin, messages in runs(traits.due or (), first):
            self.states.move(begin, messages, Event.DELAY)
            self.delays.add(due, begin, messages)
        for expires, begin, messages in runs(traits.expires or (), first):
            self.expiries.add(expires, begin, messages)
        for offset, dedup_id in enumerate(traits.dedup_ids or (), first):
            if dedup_id is not None:
                self.dedup.add(dedup_id, offset, time)
        if traits.before:
            self.copies.add(traits.before, first, self.states.has_alive)
        for offset, rank in enumerate(traits.ranks or (), first):
            if rank != PLAIN_RANK:
                self.states.order.ranks[offset] = rank
        self.groups.join_all(first, traits.groups or ())
        self.groups.join_all(first, traits.job_keys or (), JOB_PREFIX)
        if traits.ranks:
            ranks = self.states.order.ranks
            self.recall(each for each in range(first, first + len(traits.ranks)) if each in ranks)

    def recall(self, offsets: Iterable[int]) -> None:
        """Messages that are ready, but not plain ones: the search for these shall not meet them."""
        for offset in offsets:
            if self.states.state(offset) == State.READY:
                self.states.move(offset, 1, Event.RECALL)

    def is_plain(self, offset: int) -> bool:
        """It goes by its offset alone."""
        if not self.used:
            return True
        special = (
            self.states.order.ranks,
            self.states.order.late,
            self.groups.of,
            self.notes.checkpoints,
            self.notes.attempts,
            self.replayed,
        )
        return not any(offset in each for each in special)

    # ---- Going

    def handed_out(self, below: int, *, live: bool) -> None:
        """A clean stop: messages before that may have been handed out. Which of those that were delayed is in
        the checkpoint that follows; who reads this back has none, and takes them all for handed out."""
        if not live:
            self.suspect_below = max(self.suspect_below, below)

    def forget(self, first: int, messages: int) -> None:
        """Messages were settled."""
        ranks, of, notes, late = self.states.order.ranks, self.groups.of, self.notes, self.states.order.late
        if late:
            for offset in range(first, first + messages):
                late.pop(offset, None)
        if not (ranks or of or notes or self._until or self._overdue or self.replayed):
            return
        for offset in range(first, first + messages):
            ranks.pop(offset, None)
            if offset in of:
                self.groups.leave(offset)
            if notes:
                notes.forget(offset)
            self._until.pop(offset, None)
            self._overdue.discard(offset)
            self.replayed.discard(offset)

    # ---- Delays

    def delay(self, offset: int, due: int, late: int | None = None) -> None:
        """That message is ready at `due`, whatever was said before. `late`: the time it goes by then, if it
        did not fail but somebody gave it another one; what failed goes by its offset."""
        self.used = True
        self.states.order.late.pop(offset, None)
        if late is not None and offset not in self.groups.of:
            self.states.order.late[offset] = late
        self._until[offset] = due
        self.delays.add(due, offset, 1)
        self.delays.prune(self.states.counts[State.DELAYED], self._is_delay)
        self.groups.failed(offset)
        self.came_back(offset, 1)

    def due_of(self, offset: int) -> int | None:
        """When a message that failed or was rescheduled is ready."""
        return self._until.get(offset)

    def delay_of(self, offset: int) -> int | None:
        """When a message that was delayed from the beginning is ready; looks through all of them."""
        rows = (row for row in self.delays.rows() if row[1] <= offset < row[1] + row[2])
        return next((when for when, _, _ in rows), None)

    def dues(self, offsets: Iterable[int]) -> dict[int, int]:
        """When those of some messages that are delayed are ready; looks through all that are."""
        delayed = sorted(each for each in offsets if self.states.state(each) == State.DELAYED)
        found = {each: self._until[each] for each in delayed if each in self._until}
        rest = [each for each in delayed if each not in found]
        for when, first, messages in self.delays.rows() if rest else ():
            begin, end = bisect_left(rest, first), bisect_left(rest, first + messages)
            found.update((each, when) for each in rest[begin:end])
        return found

    def wake(self, wall: int) -> bool:
        """Messages whose delay is over are ready, or held by their group; True if there were any."""
        woken = False
        offset_at = self.states.order.offset_at
        for due, first, messages in self.delays.due(wall):
            woke = due, offset_at(due)
            for state, begin, length in list(self.states.spans(first, messages)):
                if state != State.DELAYED:
                    continue
                if not (self._until or self.groups.of or self.states.order.ranks):
                    self.states.move(begin, length, Event.DUE, woke)
                else:
                    for offset in range(begin, begin + length):
                        self._wake_one(offset, woke)
                woken = True
        self.delays.prune(self.states.counts[State.DELAYED], self._is_delay)
        return woken

    def _wake_one(self, offset: int, woke: Woke) -> None:
        due = woke[0]
        if self._until.get(offset, due) != due:
            return
        order = self.states.order
        again = self._until.pop(offset, None) is not None
        grouped = offset in self.groups.of
        if self.groups.held(offset):
            self.states.move(offset, 1, Event.HOLD)
        elif again or grouped or offset in order.ranks:
            late = order.late.get(offset) if again or grouped else due
            if late is not None:
                order.late[offset] = order.place(late)
            self.states.move(offset, 1, Event.DUE)
        else:
            self.states.move(offset, 1, Event.DUE, woke)

    def _is_delay(self, row: Due) -> bool:
        due, first, messages = row
        return any(state == State.DELAYED for state, _, _ in self.states.spans(first, messages)) and (
            messages > 1 or self._until.get(first, due) == due
        )

    # ---- Expiry

    def expired(self, wall: int) -> list[tuple[int, int]]:
        """Runs that are to expire now: as many messages as fit a turn, in the order of their time. What is in
        flight expires when it comes back."""
        found: list[tuple[int, int]] = []
        left = EXPIRED_AT_ONCE_MAX
        when = self.expiries.next()
        while left > 0 and when is not None and when <= wall:
            row = next(self.expiries.due(wall), None)
            if row is None:
                break
            for state, first, messages in self.states.spans(*row[1:]):
                if state in WAITING_TO_GO:
                    found.append((first, messages))
                    left -= messages
                elif state != State.SETTLED:  # one that waits may be ready again after a restart
                    self._overdue.update(range(first, first + messages))
            left -= RUN_COST
            when = self.expiries.next()
        self.expiries.prune(self.states.cursor - self.states.head, self._is_expiry)
        return found

    def dying(self, spans: Iterable[tuple[int, int]]) -> None:
        """Messages that expired are about to be buried, which may take a load: a checkpoint before that has
        to know that their time is over."""
        for first, messages in spans:
            self._overdue.update(range(first, first + messages))

    def gone(self, start: int) -> list[tuple[int, int]]:
        """Runs below `start`, of which there is nothing any more: as if they had expired."""
        found: list[tuple[int, int]] = []
        for state, first, messages in self.states.spans(self.states.head, start - self.states.head):
            if state in WAITING_TO_GO or state == State.WAITING:
                found.append((first, messages))
            elif state == State.IN_FLIGHT:
                self._overdue.update(range(first, first + messages))
        return found

    def split_overdue(
        self, spans: Iterable[tuple[int, int]]
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Messages that came back: those that may go on, and those that expired meanwhile."""
        good: list[tuple[int, int]] = []
        over: list[tuple[int, int]] = []
        for first, messages in spans:
            for offset in range(first, first + messages):
                into = over if offset in self._overdue else good
                if into and sum(into[-1]) == offset:
                    into[-1] = into[-1][0], into[-1][1] + 1
                else:
                    into.append((offset, 1))
        return good, over

    def came_back(self, first: int, messages: int) -> None:
        """Messages that nobody had after all wait again: what expired meanwhile does so at once."""
        for offset in self._overdue.intersection(range(first, first + messages)) if self._overdue else ():
            self._overdue.discard(offset)
            self.expiries.add(0, offset, 1)

    def is_overdue(self, first: int, messages: int) -> bool:
        """Some of these expired while somebody had them."""
        return not self._overdue.isdisjoint(range(first, first + messages)) if self._overdue else False

    @property
    def overdue(self) -> bool:
        """Something expired while somebody had it."""
        return bool(self._overdue)

    def _is_expiry(self, row: Due) -> bool:
        return any(state != State.SETTLED for state, _, _ in self.states.spans(*row[1:]))

    # ---- Snapshot

    def snapshot(self) -> bytes:
        """Everything, as one msgpack map; nothing at all if nothing is kept."""
        order = self.states.order
        ranks = {} if self.groups.rules.fair else order.ranks
        sections: dict[str, Any] = {
            "delays": self.delays.snapshot(),
            "until": list(self._until.items()),
            "expiries": self.expiries.snapshot(),
            "overdue": list(self._overdue),
            "ranks": list(ranks.items()),
            "woken": order.woken.snapshot(),
            "late": [(offset, place >> DUE_SHIFT, place & DUE) for offset, place in order.late.items()],
            "groups": self.groups.snapshot() if self.groups.of or self.groups.parked else b"",
            "dedup": self.dedup.snapshot() if len(self.dedup) else b"",
            "notes": self.notes.snapshot() if self.notes else b"",
            "copies": self.copies.snapshot(),
            "replayed": list(self.replayed),
            "suspect": self.suspect_below,
        }
        kept = {name: value for name, value in sections.items() if value}
        return msgpack.packb(kept) if kept else b""

    def restore(self, data: bytes) -> None:
        """The inverse of `snapshot`. The states were restored before."""
        sections = msgpack.unpackb(data, strict_map_key=False)
        self.used = True
        self.delays.restore(sections.get("delays", b""))
        self._until = dict(sections.get("until", ()))
        self.expiries.restore(sections.get("expiries", b""))
        for offset in sections.get("overdue", ()):
            self.expiries.add(0, offset, 1)
        order = self.states.order
        order.ranks = dict(sections.get("ranks", ()))
        if "groups" in sections:
            self.groups.restore(sections["groups"], self._is_settled)
        order.late = {offset: behind << DUE_SHIFT | due for offset, behind, due in sections.get("late", ())}
        self.recall([*order.ranks, *order.late])  # a row of `woken` may name some of them still
        for row in Woken.rows_of(sections.get("woken", b"")):
            for state, first, messages in list(self.states.spans(*row[2:])):
                if state == State.READY:
                    self.states.move(first, messages, Event.RECALL, row[:2])
        if "dedup" in sections:
            self.dedup.restore(sections["dedup"])
        if "notes" in sections:
            self.notes.restore(sections["notes"])
            self.recall([*self.notes.checkpoints, *self.notes.attempts])
        self.copies.restore(sections.get("copies", b""))
        self.suspect_below = sections.get("suspect", 0)
        self.replayed = set(sections.get("replayed", ()))
        self.recall(self.replayed)

    def _is_settled(self, offset: int) -> bool:
        return self.states.state(offset) == State.SETTLED

    def next_deadline(self) -> int | None:
        """Wall ms of the next delay or expiry."""
        times = [when for when in (self.delays.next(), self.expiries.next()) if when is not None]
        return min(times, default=None)
