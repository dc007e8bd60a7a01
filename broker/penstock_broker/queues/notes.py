"""What is kept of a few messages in words: every try that failed, and how far the last one got.

A NOTED part carries rows, one msgpack array: ["attempt", first, messages, consumer, start, end, outcome,
error] (times: wall ms), ["checkpoint", first, 1, bytes] or ["dead", first, messages, reason, text] of those
that wait for room. Bounded: a message keeps its last tries, a queue so many bytes, and beyond them tries are
kept without their error, and deaths without their text.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgpack

from penstock_broker.queues.leases import Lease
from penstock_broker.storage.entries import Kind, Part

ATTEMPTS_MAX = 50
"""Per message; of more, the oldest are forgotten."""
CONSUMER_CHARACTERS_MAX = 100
"""Of the name of who tried."""
Row = tuple[Any, ...]
NOTES_BYTES_MAX = 64 << 20
"""Checkpoints and errors of one queue."""


class Attempt(NamedTuple):
    """A try that failed. `outcome`: nacked, expired (the lease) or what killed it. `start` 0: not known."""

    consumer: str
    start: int
    end: int
    outcome: str
    error: str | None


class Notes:
    """Of one queue, by offset."""

    __slots__ = ("attempts", "checkpoints", "deaths", "size")

    def __init__(self) -> None:
        self.attempts: dict[int, list[Attempt]] = {}
        self.checkpoints: dict[int, bytes] = {}
        self.deaths: dict[int, tuple[str, str | None]] = {}
        """Why it died, and what was said of it."""
        self.size = 0
        """Bytes of checkpoints, errors and texts."""

    def __bool__(self) -> bool:
        return bool(self.attempts) or bool(self.checkpoints) or bool(self.deaths)

    def apply(self, detail: bytes) -> list[int]:
        """A NOTED part; the offsets of the messages it is about."""
        rows = msgpack.unpackb(detail)
        for what, first, messages, *fields in rows:
            if what == "attempt":
                self._tried(first, messages, Attempt(*fields))
            elif what == "dead":
                self._died(first, messages, *fields)
            else:
                assert what == "checkpoint", f"a note about {what!r}"
                self._drop_checkpoint(first)
                self.checkpoints[first] = fields[0]
                self.size += len(fields[0])
        return [offset for _, first, messages, *_ in rows for offset in range(first, first + messages)]

    def _tried(self, first: int, messages: int, attempt: Attempt) -> None:
        size = len(attempt.error or "")
        if self.size + size * messages > NOTES_BYTES_MAX:
            attempt, size = attempt._replace(error=None), 0
        for offset in range(first, first + messages):
            tries = self.attempts.setdefault(offset, [])
            tries.append(attempt)
            self.size += size
            if len(tries) > ATTEMPTS_MAX:
                self.size -= len(tries.pop(0).error or "")

    def _died(self, first: int, messages: int, reason: str, text: str | None) -> None:
        for offset in range(first, first + messages):
            self._drop_death(offset)
            size = len(text or "")
            kept = text if self.size + size <= NOTES_BYTES_MAX else None
            self.deaths[offset] = reason, kept
            self.size += len(kept or "")

    def forget(self, offset: int) -> None:
        """The message is settled."""
        self._drop_death(offset)
        for attempt in self.attempts.pop(offset, ()):
            self.size -= len(attempt.error or "")
        self._drop_checkpoint(offset)

    def _drop_checkpoint(self, offset: int) -> None:
        self.size -= len(self.checkpoints.pop(offset, b""))

    def _drop_death(self, offset: int) -> None:
        _, text = self.deaths.pop(offset, (None, None))
        self.size -= len(text or "")

    # ---- Snapshot

    def snapshot(self) -> bytes:
        """Everything, as one msgpack array."""
        noted = (self.attempts, self.checkpoints, self.deaths)
        packed: bytes = msgpack.packb([list(each.items()) for each in noted])
        return packed

    def restore(self, data: bytes) -> None:
        """The inverse of `snapshot`."""
        attempts, checkpoints, deaths = msgpack.unpackb(data)
        self.attempts = {offset: [Attempt(*fields) for fields in tries] for offset, tries in attempts}
        self.checkpoints = dict(checkpoints)
        self.deaths = {offset: (reason, text) for offset, (reason, text) in deaths}
        self.size = sum(len(text or "") for _, text in self.deaths.values())
        self.size += sum(map(len, self.checkpoints.values()))
        self.size += sum(len(each.error or "") for tries in self.attempts.values() for each in tries)


def tries(
    runs: Iterable[tuple[int, int, Lease]], end: int, outcome: str, error: str | None = None
) -> list[Row]:
    """The rows of messages that a try failed for, each run with its lease."""
    rows: list[Row] = []
    for first, messages, lease in runs:
        who = lease.consumer[:CONSUMER_CHARACTERS_MAX]
        rows.append(("attempt", first, messages, who, lease.since, end, outcome, error))
    return rows


def within(rows: Iterable[Row], first: int, messages: int) -> list[Row]:
    """What rows say of some messages."""
    found: list[Row] = []
    for what, begin, count, *fields in rows:
        low, high = max(first, begin), min(first + messages, begin + count)
        if low < high:
            found.append((what, low, high - low, *fields))
    return found


def noted(queue: bytes, rows: Sequence[Row]) -> list[Part]:
    """The NOTED of those rows; none without any."""
    return [Part(queue, Kind.NOTED, detail=encode(rows))] if rows else []


def encode(rows: Sequence[Row]) -> bytes:
    """The detail of a NOTED part."""
    packed: bytes = msgpack.packb(rows)
    return packed
