"""A consumer group's committed offsets: per partition the next offset to read, and how fast that moves."""

from collections import deque
from struct import Struct
from typing import NamedTuple

from penstock_broker.storage import entries
from penstock_broker.storage.entries import At, Kind, Part

KIND = 5
"""Its kind in a checkpoint."""
ROW = Struct("<16sQQH")  # log, offset, time, metadata bytes that follow
UUID_BYTES = 16
MARK_EVERY_MS = 10_000
MARKS_MAX = 7
"""A minute of them."""


class Committed(NamedTuple):
    """What a group stored for one partition: the next offset to read, a text, and when (wall ms)."""

    offset: int
    metadata: str
    time: int


class Group:
    """One consumer group."""

    kind = KIND

    def __init__(self, uuid: bytes, name: str) -> None:
        self.uuid = uuid
        self.name = name
        self.changed_at = 0
        self.offsets: dict[bytes, Committed] = {}
        """Log uuid → committed."""
        self._marks: dict[bytes, deque[tuple[int, int]]] = {}
        """Log uuid → (wall ms, committed offset) now and then, of the last minute; memory only."""

    def commit_part(self, offsets: list[tuple[bytes, int, str]]) -> Part:
        """The OFFSETS of (log, offset, metadata) rows."""
        rows = []
        for log, offset, metadata in offsets:
            text = metadata.encode()
            rows.append(entries.OFFSET.pack(log, offset, len(text)) + text)
        return Part(self.uuid, Kind.OFFSETS, 0, len(offsets), 0, b"".join(rows))

    def forget_part(self, logs: list[bytes]) -> Part:
        """The FORGET of logs that are gone."""
        return Part(self.uuid, Kind.FORGET, 0, len(logs), 0, b"".join(logs))

    def apply(self, part: Part, at: At) -> None:
        """One part addressed to this group."""
        if part.kind == Kind.OFFSETS:
            where = 0
            while where < len(part.detail):
                log, offset, size = entries.OFFSET.unpack_from(part.detail, where)
                where += entries.OFFSET.size
                text = part.detail[where : where + size].decode()
                self.offsets[log] = Committed(offset, text, at.time)
                self._mark(log, offset, at.time)
                where += size
        else:
            assert part.kind == Kind.FORGET, f"a group knows no part of kind {part.kind}"
            for where in range(0, len(part.detail), UUID_BYTES):
                self.offsets.pop(part.detail[where : where + UUID_BYTES], None)
                self._marks.pop(part.detail[where : where + UUID_BYTES], None)
        self.changed_at = at.position

    def _mark(self, log: bytes, offset: int, time: int) -> None:
        marks = self._marks.get(log)
        if marks is None:
            marks = self._marks[log] = deque(maxlen=MARKS_MAX)
        if not marks or time >= marks[-1][0] + MARK_EVERY_MS:
            marks.append((time, offset))

    def mark_since(self, log: bytes, since: int) -> tuple[int, int] | None:
        """The earliest mark not before `since` (wall ms): when, and the offset then."""
        return next((mark for mark in self._marks.get(log, ()) if mark[0] >= since), None)

    def fits(self, part: Part) -> bool:
        """Every part does: offsets are absolute."""
        return True

    def snapshot(self) -> bytes:
        """Everything, as bytes."""
        rows = []
        for log, (offset, metadata, time) in self.offsets.items():
            text = metadata.encode()
            rows.append(ROW.pack(log, offset, time, len(text)) + text)
        return b"".join(rows)

    def restore(self, data: memoryview) -> None:
        """The inverse of `snapshot`."""
        where = 0
        while where < len(data):
            log, offset, time, size = ROW.unpack_from(data, where)
            where += ROW.size
            self.offsets[log] = Committed(offset, bytes(data[where : where + size]).decode(), time)
            where += size
