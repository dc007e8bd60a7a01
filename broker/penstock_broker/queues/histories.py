"""What is known of messages that did not go the plain way: how often they failed and were handed out.

Of a message that was never handed out, or only once and is in flight, nothing is kept.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class History(NamedTuple):
    """What is known of a message that did not go the plain way."""

    failures: int
    deliveries: int


FRESH = History(0, 0)  # of a message that is ready, and of which nothing is kept
FIRST_TRY = History(0, 1)  # of one in flight


class Histories(dict[int, History]):
    """Of one queue, by offset."""

    __slots__ = ()

    def forget(self, first: int, messages: int) -> None:
        """Those were settled."""
        offsets: Iterable[int] = range(first, first + messages)
        if len(self) < messages:
            offsets = [offset for offset in self if first <= offset < first + messages]
        for offset in offsets:
            self.pop(offset, None)

    def runs(
        self, spans: Sequence[tuple[int, int]], plain: History = FIRST_TRY
    ) -> Iterator[tuple[int, int, History]]:
        """Spans cut where the history of neighbours differs; `plain`: of those of which nothing is kept."""
        for first, messages in spans:
            if not self:
                yield first, messages, plain
                continue
            begin, before = first, self.get(first, plain)
            for offset in range(first + 1, first + messages):
                history = self.get(offset, plain)
                if history != before:
                    yield begin, offset - begin, before
                    begin, before = offset, history
            yield begin, first + messages - begin, before
