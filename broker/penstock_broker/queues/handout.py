"""Who waits for messages, with how much credit, and who gets the next ones.

One round gives each waiting consumer at most ceil(ready / waiting) messages, in turn: with equal credit
two consumers never differ by more than one such chunk.
"""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from operator import attrgetter
from typing import Any, Protocol

from penstock_broker.alarms import Alarms


class Peer(Protocol):
    """What a taker must know of its connection."""

    blocked: bool


class Taker:
    """Somebody who takes messages: a parked RECEIVE (once) or a subscription (while it has credit)."""

    __slots__ = ("connection", "credit", "ended", "priority", "settle", "visibility")

    def __init__(
        self, connection: Peer | None, credit: int, visibility: int | None, priority: int, *, settle: bool
    ) -> None:
        self.connection = connection
        self.credit = credit
        self.visibility = visibility
        """ms; None: the queue's."""
        self.priority = priority
        self.settle = settle
        """What it gets is settled when it gets it: at most once."""
        self.ended = False

    @property
    def ready(self) -> bool:
        """Can be given something now."""
        connection = self.connection
        return not self.ended and self.credit > 0 and connection is not None and not connection.blocked


class Waiter(Taker):
    """A parked RECEIVE."""

    __slots__ = ("call", "deadline")

    def __init__(
        self,
        call: Any,
        connection: Peer,
        messages: int,
        visibility: int | None,
        deadline: int,
        *,
        settle: bool = False,
    ) -> None:
        super().__init__(connection, messages, visibility, 0, settle=settle)
        self.call = call
        self.deadline = deadline
        """Mono ms at which it is answered with nothing."""


class Subscription(Taker):
    """A push consumer of a session."""

    __slots__ = ("number", "queue", "session")

    def __init__(
        self,
        session: Any,
        number: int,
        queue: Any,
        credit: int,
        visibility: int | None,
        priority: int = 0,
        *,
        settle: bool = False,
    ) -> None:
        super().__init__(session.connection, credit, visibility, priority, settle=settle)
        self.session = session
        self.number = number
        self.queue = queue


class Handout:
    """The waiting consumers of one queue, in turn. Those of the highest priority that have credit get all."""

    __slots__ = ("_active", "_ends", "_ranked", "_waiting", "single")

    def __init__(self) -> None:
        self._waiting: deque[Taker] = deque()
        self._ends: Alarms[Waiter] = Alarms()
        """When parked RECEIVEs are answered with nothing, mono ms."""
        self._active: Taker | None = None
        self.single = False
        """One subscription gets everything, as long as it is there: then the one that came after it."""
        self._ranked = False
        """Some taker has a priority of its own."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Taker]:
        return iter(self._waiting)

    def add(self, taker: Taker) -> None:
        """Wait for messages, behind those who wait already."""
        if taker not in self._waiting:
            self._waiting.append(taker)
            self._ranked = self._ranked or taker.priority != 0
            if isinstance(taker, Waiter):
                self._ends.set(taker, taker.deadline)

    def remove(self, taker: Taker) -> None:
        """Wait no more."""
        taker.ended = True
        if taker in self._waiting:
            self._waiting.remove(taker)
        if isinstance(taker, Waiter):
            self._ends.set(taker, None)
        if taker is self._active:
            self._active = None

    def overdue(self, mono: int) -> list[Waiter]:
        """Parked RECEIVEs whose wait is over; they wait no more."""
        end = self._ends.next()
        if end is None or end > mono:
            return []
        due = [waiter for waiter in self._ends.due(mono) if not waiter.ended]
        for waiter in due:
            self.remove(waiter)
        return due

    def next_end(self) -> int | None:
        """When a parked RECEIVE ends next, mono ms."""
        return self._ends.next()

    @property
    def wanted(self) -> int:
        """How much credit there is."""
        return sum(taker.credit for taker in self._waiting if taker.ready)

    @property
    def active(self) -> Taker | None:
        """Who gets everything, if one does."""
        if self._active is None and self.single and self._waiting:
            self._active = max(self._waiting, key=attrgetter("priority"))
        return self._active

    def _takers(self, ready: int) -> list[Taker]:
        """Who may get something now, in turn."""
        if self.single:
            active = self.active
            return [active] if active is not None and active.ready else []
        takers = (taker for taker in self._waiting if taker.ready)
        if self._ranked:
            able = list(takers)
            top = max((taker.priority for taker in able), default=0)
            self._ranked = any(taker.priority for taker in self._waiting)
            takers = (taker for taker in able if taker.priority == top)
        return list(islice(takers, ready))

    def round(self, ready: int) -> list[tuple[Taker, int]]:
        """Who gets how many of `ready` messages in this round: even shares, the odd ones to those in front.
        A RECEIVE that got something waits no more; a subscription goes on behind those that got less."""
        takers = self._takers(ready)
        chunk = -(-ready // max(1, len(takers)))
        out = []
        for index, taker in enumerate(takers):
            share = min(chunk, -(-ready // (len(takers) - index)), taker.credit)
            if not share:
                break
            ready -= share
            self._waiting.remove(taker)
            out.append((taker, share))
        for taker, _ in sorted(out, key=lambda given: given[1]):
            if isinstance(taker, Waiter):
                taker.ended = True
            else:
                self._waiting.append(taker)
        return out
