"""What a journal has in memory: its files, the blocks that gather, and room taken in them."""

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from penstock_broker.durability import OS_MS
from penstock_broker.storage.blocks import BLOCK_HEADER_BYTES, file_name, padded
from penstock_broker.storage.entries import At, Body
from penstock_broker.storage.files import PAGE_BYTES

NOW, NEVER = 0, OS_MS
"""When a sync is due: mono ms, or one of these."""

T = TypeVar("T")


class JournalFile:
    """A journal file in use or ready for it. `start`: journal position of its first block."""

    __slots__ = ("name", "number", "salt", "since", "size", "start", "used", "viewable")

    def __init__(self, number: int, salt: int, size: int, *, viewable: bool) -> None:
        self.number = number
        self.name = file_name(number)
        self.salt = salt
        self.size = size
        self.start = -1
        self.used = PAGE_BYTES
        self.since = 0
        self.viewable = viewable
        """Written in this life: its bytes are served from the map."""

    @property
    def end(self) -> int:
        """Journal position behind its last block."""
        return self.start + self.used - PAGE_BYTES


class Room(NamedTuple):
    """Bytes of one more block for which a file is ready."""

    most: int
    published: int
    """So that enough is left behind for what frees space."""


class Block(Generic[T]):
    """Entries being gathered, and who waits for them."""

    __slots__ = (
        *("alone", "buffer", "due", "entries", "most", "most_published", "start", "used", "view", "waiting"),
        "within",
    )

    def __init__(self, start: int, buffer: bytearray, room: Room, *, alone: bool = False) -> None:
        self.start = start
        self.buffer = buffer
        self.most = min(len(buffer), room.most)
        self.most_published = min(len(buffer), room.published)
        """Bytes it may grow to, of which publishes may take so many."""
        self.view = memoryview(buffer)
        self.used = BLOCK_HEADER_BYTES
        self.entries = 0
        self.alone = alone
        """Too large to share: one entry, in a file of its own."""
        self.waiting: list[tuple[int, T]] = []
        """Who waits, and within which time a sync is due for them."""
        self.within = NEVER
        """The strictest mode of its newest entries, in ms from the next look at the clock."""
        self.due = NEVER
        """The mono ms by which a sync must begin that covers its entries."""

    @property
    def end(self) -> int:
        """Position behind the block, padding included."""
        return self.start + padded(self.used)


class Reserved:
    """Room taken for an entry: where its parts will stand, before a byte is copied."""

    __slots__ = ("bodies", "head", "length", "places")

    def __init__(self, head: bytes, bodies: Sequence[Body], length: int, places: list[At]) -> None:
        self.head = head
        self.bodies = bodies
        self.length = length
        self.places = places
