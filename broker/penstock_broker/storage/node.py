"""The machine of the node itself: who it is, whether its last stop was in order, which segments exist."""

from struct import Struct
from typing import NamedTuple

from penstock_broker.storage import entries
from penstock_broker.storage.entries import At, Kind, Part
from penstock_broker.storage.log import Stretch

NODE = bytes(15) + b"\x01"
"""The uuid that parts of the node itself are addressed to."""
KIND = 1
"""Its kind in a checkpoint."""
COMMON = bytes(16)
"""Who owns segments that many logs share."""
SNAPSHOT = Struct("<16sQI")  # id, segment_next, segments
SEGMENT = Struct("<Q16sQB")  # number, owner, size, sealed


class Segment(NamedTuple):
    """A segment file: the log it belongs to, or COMMON, how many bytes of it count, and whether it is never
    written to again."""

    owner: bytes
    size: int
    sealed: bool


class Node:
    """Folded from BOOT, STOP, SEGMENT, WRITTEN and DROPPED."""

    def __init__(self) -> None:
        self.uuid = NODE
        self.kind = KIND
        self.changed_at = 0
        self.id = bytes(16)
        """The node's own uuid, set by its first BOOT."""
        self.clean = True
        """Nothing happened since the last STOP."""
        self.segments: dict[int, Segment] = {}
        """Segment files begun and not dropped, by number."""
        self.open: dict[bytes, int] = {}
        """Owner → its segment that is not sealed."""
        self.segment_next = 1

    def apply(self, part: Part, at: At) -> None:
        """One part of the node's own."""
        if part.kind == Kind.BOOT:
            self.clean = False
            if not any(self.id):
                self.id = part.detail
        elif part.kind == Kind.STOP:
            self.clean = True
        elif part.kind == Kind.SEGMENT:
            before = self.open.get(part.detail)
            if before is not None:
                self.segments[before] = self.segments[before]._replace(sealed=True)
            self.segments[part.base] = Segment(part.detail, 0, False)
            self.open[part.detail] = part.base
            self.segment_next = part.base + 1
        elif part.kind == Kind.WRITTEN:
            (size,) = entries.SIZE.unpack(part.detail)
            self.segments[part.base] = self.segments[part.base]._replace(size=size)
        else:
            assert part.kind == Kind.DROPPED, f"the node knows no part of kind {part.kind}"
            owner, _, sealed = self.segments.pop(part.base)
            if not sealed:
                del self.open[owner]
        self.changed_at = at.position

    def fits(self, part: Part) -> bool:
        """The part follows on from what is known here; it does, unless something before it was lost."""
        return part.kind not in (Kind.WRITTEN, Kind.DROPPED) or part.base in self.segments

    def adopt(self, part: Part) -> None:
        """A log says that stretches lie in segments; one whose beginning was lost is known from now on."""
        for fields in entries.STRETCH.iter_unpack(part.detail):
            stretch = Stretch(*fields)
            size = stretch.at + stretch.length
            known = self.segments.get(stretch.segment, Segment(COMMON, 0, True))
            self.segments[stretch.segment] = known._replace(size=max(known.size, size))
            self.segment_next = max(self.segment_next, stretch.segment + 1)

    def snapshot(self) -> bytes:
        """Everything but `clean`: a checkpoint always lies before the STOP that would set it."""
        rows = [SEGMENT.pack(number, *segment) for number, segment in sorted(self.segments.items())]
        return SNAPSHOT.pack(self.id, self.segment_next, len(rows)) + b"".join(rows)

    def restore(self, data: memoryview) -> None:
        """The inverse of `snapshot`."""
        self.id, self.segment_next, count = SNAPSHOT.unpack_from(data)
        rows = SEGMENT.iter_unpack(data[SNAPSHOT.size : SNAPSHOT.size + count * SEGMENT.size])
        self.segments = {number: Segment(owner, size, bool(sealed)) for number, owner, size, sealed in rows}
        self.open = {segment.owner: number for number, segment in self.segments.items() if not segment.sealed}
        self.clean = False
