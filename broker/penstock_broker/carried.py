"""What goes with a message to another queue beside its bytes: its tries, its checkpoint, how often it failed.

Parts of the entry that moves it. A dead letter starts afresh there, and its tries go with it all the same.
How often a message was handed out is memory here and there, as ever.
"""

from collections.abc import Iterable, Mapping

from penstock_broker.queues.histories import History
from penstock_broker.queues.notes import NOTES_BYTES_MAX, Row, noted
from penstock_broker.queues.queue import Queue
from penstock_broker.storage.entries import Part
from penstock_protocol.errors import QueueFull

ATTEMPT_BYTES = 150
"""Of a row about a try, but for its error."""

Places = Iterable[tuple[int, int]]
"""Offsets here, and there."""


def size(source: Queue, offset: int) -> int:
    """Bytes of what is noted of a message, about."""
    notes = source.indexes.notes
    if not notes:
        return 0
    tries = notes.attempts.get(offset, ())
    errors = sum(len(each.error or "") + ATTEMPT_BYTES for each in tries)
    return errors + len(notes.checkpoints.get(offset, b""))


def parts(source: Queue, target: Queue, places: Places, due: Mapping[int, int], afresh: bool) -> list[Part]:
    """What is kept of the messages in `target`. `due`: when those that are delayed are ready. Raises
    `QueueFull` where checkpoints have no room."""
    notes, histories = source.indexes.notes, source.histories
    rows: list[Row] = []
    returned: list[tuple[int, int, int, int]] = []
    checkpoints = 0
    for here, there in places if notes or histories else ():
        rows += [("attempt", there, 1, *each) for each in notes.attempts.get(here, ())]
        checkpoint = notes.checkpoints.get(here)
        if checkpoint is not None:
            rows.append(("checkpoint", there, 1, checkpoint))
            checkpoints += len(checkpoint)
        known = histories.get(here)
        if known is not None and not afresh and (failures := _within(target, known).failures):
            returned.append((there, 1, failures, due.get(here, 0)))
    if checkpoints and target.indexes.notes.size + checkpoints > NOTES_BYTES_MAX:
        raise QueueFull(
            f"queue {target.name!r} keeps {target.indexes.notes.size:,} bytes of checkpoints and errors",
            hint="ack messages there, or move fewer at a time",
        )
    return [*noted(target.uuid, rows), *([target.return_part(returned)] if returned else ())]


def _within(target: Queue, known: History) -> History:
    """As much of it as leaves one more try by the limits there."""
    attempts, deliveries = target.policy.max_attempts, target.policy.max_deliveries
    handed_out = known.deliveries if deliveries is None else min(known.deliveries, deliveries - 1)
    failures = known.failures if attempts is None else min(known.failures, attempts - 1)
    return History(failures if deliveries is None else min(failures, deliveries - 1), handed_out)


def counts(source: Queue, target: Queue, places: Places) -> dict[int, History]:
    """How often messages failed and were handed out, by the offset there."""
    known = source.histories
    return {there: _within(target, known[here]) for here, there in places if here in known}


def counted(target: Queue, histories: Mapping[int, History]) -> None:
    """They were moved there, and count on."""
    target.histories.update(histories)
    target.indexes.recall(histories)
