"""Writes checkpoints: machine by machine between turns, into the two slots in turn.

A checkpoint is written every third of the journal's budget or 500,000 entries, whichever comes first.
(A third, not a half: a file is freed by the *older* of two checkpoints, so the journal holds two
intervals and what came since.) It is handed to the disk when W has passed everything it reflects.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from penstock_broker.storage import checkpoint
from penstock_broker.storage.checkpoint import Slot, Snapshot
from penstock_broker.storage.files import Copy, Extent
from penstock_protocol.checksum import Buffer

BYTES_PER_TURN = 1 << 20
MACHINES_PER_TURN = 64
"""What one turn encodes: well under 2 ms."""
ENTRIES_MAX = 500_000
SHARE_OF_BUDGET = 3


class Machine(Protocol):
    """What folds parts into state."""

    uuid: bytes
    kind: int
    changed_at: int
    """Journal position of the last part applied."""

    def snapshot(self) -> Buffer:
        """Its whole state as bytes."""
        ...


class Roster(Protocol):
    """Who is to be saved."""

    def all(self) -> Iterable[Machine]:
        """Every machine, node and catalogue first."""
        ...

    @property
    def corrupt(self) -> Collection[bytes]:
        """Machines whose snapshots are damaged: what they hold here is not their state."""
        ...


class Saver:
    """The checkpoints of one node."""

    def __init__(self, roster: Roster, slots: list[Slot], budget: int, entries: int) -> None:
        self._roster = roster
        self._slots = slots
        """Whole checkpoints, newest first, at most two."""
        self.covered = _covered(slots)
        """Journal position that both checkpoints have behind them: recovery never needs what is before."""
        self._interval = budget // SHARE_OF_BUDGET
        self._since_position = slots[0].newest if slots else 0
        self._since_entries = -entries
        self._requested = bool(entries >= ENTRIES_MAX)
        self._waiting: list[Machine] | None = None
        """Machines still to be encoded, last first; None when no checkpoint is being made."""
        self._snapshots: list[Snapshot] = []
        self._writing: Slot | None = None
        self.failed = False
        """The last attempt failed: copy nothing from a slot, and try again when asked."""
        self.bytes = sum(row.length for row in slots[0].rows.values()) if slots else 0
        """Size of the newest checkpoint."""

    @property
    def encoding(self) -> bool:
        """Machines of the checkpoint under way are still to be encoded."""
        return bool(self._waiting)

    @property
    def busy(self) -> bool:
        """A checkpoint was asked for or is under way."""
        return self._requested or self._waiting is not None or self._writing is not None

    @property
    def needs(self) -> int:
        """What must be durable before the checkpoint under way can be written; 0 if it is not that far."""
        if self._waiting is None or self._waiting:
            return 0
        return max(item.as_of for item in self._snapshots)

    def request(self) -> None:
        """Begin one as soon as none is under way; after a failure, begin anew."""
        self._requested = True

    def step(self, end: int, durable: int, entries: int) -> Copy | None:
        """Go on a little; returns the job when a checkpoint is complete and W has passed it."""
        if self._writing is not None:
            return None
        if self._waiting is None:
            due = end - self._since_position >= self._interval or entries - self._since_entries >= ENTRIES_MAX
            if not (due or self._requested):
                return None
            self._requested = False
            self._since_position, self._since_entries = end, entries
            self._waiting = list(self._roster.all())[::-1]
            self._snapshots = []
        self._encode(end)
        if self._waiting or durable < self.needs:
            return None
        self._waiting = None
        generation = self._slots[0].generation + 1 if self._slots else 1
        name = checkpoint.next_slot(self._slots[0] if self._slots else None)
        copy, self._writing = checkpoint.write(name, generation, self._snapshots)
        self._snapshots = []
        return copy

    def written(self, result: object) -> None:
        """The job's result. A failed one leaves the slot it was written to unusable, the other whole."""
        slot, self._writing = self._writing, None
        assert slot is not None
        self._slots = [other for other in self._slots if other.name != slot.name]
        self.failed = isinstance(result, BaseException)
        if not self.failed:
            self._slots.insert(0, slot)
            self.bytes = sum(row.length for row in slot.rows.values())
        self.covered = _covered(self._slots)

    def _encode(self, end: int) -> None:
        assert self._waiting is not None
        size = 0
        for _ in range(MACHINES_PER_TURN):
            if not self._waiting or size >= BYTES_PER_TURN:
                return
            machine = self._waiting.pop()
            # One that was deleted meanwhile as well: the catalogue saved before still has it.
            data: Buffer | Extent | None = None
            if machine.uuid not in self._roster.corrupt:
                data = self._unchanged(machine)
                if data is None:
                    data = machine.snapshot()
                    size += len(data)
            self._snapshots.append(Snapshot(machine.uuid, machine.kind, end, data))

    def _unchanged(self, machine: Machine) -> Extent | None:
        """Where the machine's snapshot lies in the newest checkpoint, if it still holds."""
        if self.failed or not self._slots:
            return None
        row = self._slots[0].rows.get(machine.uuid)
        if row is None or machine.changed_at > row.as_of:
            return None
        return Extent(self._slots[0].name, row.at, row.length, row.crc)


def _covered(slots: Sequence[Slot]) -> int:
    """The journal position that both checkpoints have behind them; 0 while there is one alone."""
    return min(slot.oldest for slot in slots) if len(slots) == 2 else 0
