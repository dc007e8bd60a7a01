"""Messages that were in a queue before and are in it again: they went to another one and came back, or were
replayed. Their id says where they were first; here it leads to where they are.

Ranges in one flat array, 24 bytes each. A range is not taken back: who asks for a message looks whether it is
settled.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence

ROW = 3
PRUNE_MIN = 256
"""Ranges that are not worth to be looked through for those of which everything is settled."""

IsAlive = Callable[[int, int], bool]
"""Something in a range (first, messages) is not settled."""


class Copies:
    """Of one queue."""

    __slots__ = ("_prune_at", "_rows")

    def __init__(self) -> None:
        self._rows = array("Q")
        """Offset where it was first, offset where it is, messages: in the order they came."""
        self._prune_at = PRUNE_MIN

    def __len__(self) -> int:
        return len(self._rows) // ROW

    def add(self, before: Sequence[int], first: int, is_alive: IsAlive) -> None:
        """A batch was appended at `first`, of messages that were at those offsets before."""
        rows = self._rows
        begin = len(rows)
        for here, there in enumerate(before, first):
            if len(rows) > begin and rows[-ROW] + rows[-1] == there:
                rows[-1] += 1
            else:
                rows.extend((there, here, 1))
        if len(self) > self._prune_at:
            self._rows = array("Q")
            for row in _rows(rows):
                if is_alive(*row[1:]):
                    self._rows.extend(row)
            self._prune_at = max(PRUNE_MIN, 2 * len(self))

    def newest(self, offset: int, is_alive: IsAlive) -> int | None:
        """Where the message is that was at `offset` first; None if it is not again, or settled there, too.
        Looks through all of them."""
        found = (here + offset - there for there, here, n in _rows(self._rows) if there <= offset < there + n)
        return max((each for each in found if is_alive(each, 1)), default=None)

    # ---- Snapshot

    def snapshot(self) -> bytes:
        """Every range, as bytes."""
        return self._rows.tobytes()

    def restore(self, data: bytes) -> None:
        """The inverse of `snapshot`."""
        self._rows.frombytes(data)


def _rows(rows: "array[int]") -> Iterator[tuple[int, int, int]]:
    values = iter(rows)
    return zip(values, values, values, strict=True)
