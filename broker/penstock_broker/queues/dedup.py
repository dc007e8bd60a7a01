"""Which ids a queue has seen lately: a message with one of them is a duplicate.

Ids are forgotten a window after their append, by the clock of the journal, which never runs backwards. A
window that is full refuses; it never forgets early.
"""

from collections import OrderedDict

import msgpack

IDS_MAX = 1_000_000
"""Within one window of one queue."""


class Dedup:
    """Of one queue: id → offset and append time (ms), oldest first."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, dedup_id: str, since: int) -> int | None:
        """The offset of the message with that id, if it was appended after `since` (ms)."""
        known = self._known.get(dedup_id)
        return known[0] if known is not None and known[1] > since else None

    def room(self, since: int) -> int:
        """How many more ids there may be; those appended up to `since` are forgotten now."""
        known = self._known
        while known and next(iter(known.values()))[1] <= since:
            known.popitem(last=False)
        return max(0, IDS_MAX - len(known))

    def add(self, dedup_id: str, offset: int, time: int) -> None:
        """A message with that id was appended."""
        self._known.pop(dedup_id, None)
        self._known[dedup_id] = (offset, time)

    # ---- Snapshot

    def snapshot(self) -> bytes:
        """Everything, as one msgpack array."""
        packed: bytes = msgpack.packb([(each, *at) for each, at in self._known.items()])
        return packed

    def restore(self, data: bytes) -> None:
        """The inverse of `snapshot`."""
        self._known = OrderedDict((each, (offset, time)) for each, offset, time in msgpack.unpackb(data))
