"""Who waits for messages, with how much credit, and who gets the next ones.

One round gives each waiting consumer at most ceil(ready / waiting) messages, in turn: with equal credit
two consumers never differ by more than one such chunk.
"""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol


class Peer(Protocol):
    """What a taker must know of its connection."""

    blocked: bool


class Taker:
    """Somebody who takes messages: a parked RECEIVE (once) or a subscription (while it has credit)."""

    __slots__ = ("connection", "credit", "ended", "visibility")

    def __init__(self, connection: Peer | None, credit: int, visibility: int | None) -> None:
        self.connection = connection
        self.credit = credit
        self.visibility = visibility
        """ms; None: the queue's."""
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
        self, call: Any, connection: Peer, messages: int, visibility: int | None, deadline: int
    ) -> None:
        super().__init__(connection, messages, visibility)
        self.call = call
        self.deadline = deadline
        """Mono ms at which it is answered with nothing."""


class Subscription(Taker):
    """A push consumer of a session."""

    __slots__ = ("number", "queue", "session")

    def __init__(self, session: Any, number: int, queue: Any, credit: int, visibility: int | None) -> None:
        super().__init__(session.connection, credit, visibility)
        self.session = session
        self.number = number
        self.queue = queue


class Handout:
    """The waiting consumers of one queue, in turn."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[Taker] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Taker]:
        return iter(self._waiting)

    def add(self, taker: Taker) -> None:
        """Wait for messages, behind those who wait already."""
        if taker not in self._waiting:
            self._waiting.append(taker)

    def remove(self, taker: Taker) -> None:
        """Wait no more."""
        taker.ended = True
        if taker in self._waiting:
            self._waiting.remove(taker)

    def round(self, ready: int) -> list[tuple[Taker, int]]:
        """Who gets how many of `ready` messages in this round: even shares, the odd ones to those in front.
        A RECEIVE that got something waits no more; a subscription goes on behind those that got less."""
        takers = list(islice((taker for taker in self._waiting if taker.ready), ready))
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
