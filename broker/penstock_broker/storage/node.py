"""The machine of the node itself: who it is, whether its last stop was in order, which segments exist."""

from struct import Struct

from penstock_broker.storage.entries import At, Kind, Part

NODE = bytes(15) + b"\x01"
"""The uuid that parts of the node itself are addressed to."""
KIND = 1
"""Its kind in a checkpoint."""
SNAPSHOT = Struct("<16sQI")  # id, segment_next, segments
SEGMENT = Struct("<Q")


class Node:
    """Folded from BOOT, STOP, SEGMENT and DROPPED."""

    def __init__(self) -> None:
        self.uuid = NODE
        self.kind = KIND
        self.changed_at = 0
        self.id = bytes(16)
        """The node's own uuid, set by its first BOOT."""
        self.clean = True
        """Nothing happened since the last STOP."""
        self.segments: set[int] = set()
        """Segment files begun and not dropped."""
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
            self.segments.add(part.base)
            self.segment_next = part.base + 1
        else:
            assert part.kind == Kind.DROPPED, f"the node knows no part of kind {part.kind}"
            self.segments.discard(part.base)
        self.changed_at = at.position

    def snapshot(self) -> bytes:
        """Everything but `clean`: a checkpoint always lies before the STOP that would set it."""
        numbers = b"".join([SEGMENT.pack(number) for number in sorted(self.segments)])
        return SNAPSHOT.pack(self.id, self.segment_next, len(self.segments)) + numbers

    def restore(self, data: memoryview) -> None:
        """The inverse of `snapshot`."""
        self.id, self.segment_next, count = SNAPSHOT.unpack_from(data)
        rows = SEGMENT.iter_unpack(data[SNAPSHOT.size : SNAPSHOT.size + count * SEGMENT.size])
        self.segments = {number for (number,) in rows}
        self.clean = False
