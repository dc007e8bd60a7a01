"""Messages whose delay is over, in the order of their time: ranges in one flat array, 32 bytes each.

A range is not taken back: who asks for the first one looks whether it is ready still.
"""

from array import array
from collections.abc import Callable

ROW = 4
TRIM_ROWS_MIN = 256
"""Rows given up at the front before the array is shifted."""

Row = tuple[int, int, int, int]
"""Wall ms at which it was due, the offset before which that was, first offset, messages."""


class Woken:
    """Of one queue."""

    __slots__ = ("_at", "_rows")

    def __init__(self) -> None:
        self._rows = array("Q")
        self._at = 0
        """Where the first row begins."""

    def __len__(self) -> int:
        return (len(self._rows) - self._at) // ROW

    def __bool__(self) -> bool:
        return self._at < len(self._rows)

    def add(self, row: Row) -> None:
        """One range more; nearly always it is the latest one."""
        rows, at = self._rows, len(self._rows)
        due, _, first, messages = row
        if self and rows[-ROW] == due and rows[-2] + rows[-1] == first:
            rows[-1] += messages
            return
        while at > self._at and rows[at - ROW] > due:
            at -= ROW
        rows[at:at] = array("Q", row)

    def peek(self) -> Row | None:
        """The first range."""
        at, rows = self._at, self._rows
        return (rows[at], rows[at + 1], rows[at + 2], rows[at + 3]) if at < len(rows) else None

    def drop(self, messages: int) -> None:
        """Forget so many messages, at the front of the first range."""
        at, rows = self._at, self._rows
        if messages < rows[at + 3]:
            rows[at + 2] += messages
            rows[at + 3] -= messages
            return
        at += ROW
        if at >= TRIM_ROWS_MIN * ROW and at * 2 >= len(rows):
            del rows[:at]
            at = 0
        self._at = at

    def prune(self, holds: Callable[[int, int], bool]) -> None:
        """Forget ranges (first, messages) that hold no more."""
        rows = [row for row in self.rows_of(self.snapshot()) if holds(*row[2:])]
        self._rows = array("Q", [value for row in rows for value in row])
        self._at = 0

    def clear(self) -> None:
        """There are none."""
        del self._rows[:]
        self._at = 0

    # ---- Snapshot

    def snapshot(self) -> bytes:
        """Every range, as bytes."""
        return self._rows[self._at :].tobytes()

    @staticmethod
    def rows_of(data: bytes) -> list[Row]:
        """Those of a snapshot."""
        values = array("Q")
        values.frombytes(data)
        each = iter(values)
        return list(zip(each, each, each, each, strict=True))
