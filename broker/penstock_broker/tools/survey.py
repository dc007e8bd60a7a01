"""The journal of a directory as it lies there: what is bad in it, and what the whole blocks prove."""

from collections.abc import Iterable
from typing import NamedTuple

from penstock_broker.storage.blocks import BlockHeader, StoredBlock, padded
from penstock_broker.storage.entries import Kind, StoredEntry
from penstock_broker.storage.files import PAGE_BYTES, Readable
from penstock_broker.tools import walk
from penstock_broker.tools.command import offsets
from penstock_broker.tools.details import kind_name
from penstock_broker.tools.names import Names
from penstock_broker.tools.records import is_whole_batch
from penstock_broker.tools.walk import JournalFile, Place


class BadPlace(NamedTuple):
    """Where a block of the journal is bad."""

    name: str
    at: int
    length: int
    position: int | None
    """In the journal; None if the file has no whole block."""
    why: str
    walked: bool
    """Its header holds, so that what follows it is found."""
    told: list[str]
    """What its entries say, as far as they can be read."""


class BadBody(NamedTuple):
    """A batch that fails its checksum, in a block that is whole otherwise."""

    name: str
    at: int
    block: int
    """Where that block begins."""
    position: int
    """Of the batch in the journal."""
    log: bytes
    first: int
    messages: int


class Survey:
    """Filled file by file. `durable`: the largest W that a block names."""

    def __init__(self) -> None:
        self.files: list[JournalFile] = []
        self.places: list[BadPlace] = []
        self.bodies: list[BadBody] = []
        self.headers: dict[str, list[BlockHeader]] = {}
        """File → headers of its blocks that are whole, in order."""
        self.durable = 0

    def add(self, files: Readable, name: str, names: Names) -> None:
        """Look at one journal file."""
        file, unreadable, data = walk.journal_file(files, name)
        self.files.append(file)
        self.headers[name] = []
        start: int | None = None
        bad: list[tuple[Place, list[str]]] = []
        for place in walk.places(file, unreadable, data):
            if place.block is not None:
                start = place.block.header.position - (place.at - PAGE_BYTES)
                self._add_block(file, place, place.block, names)
            if place.bad is not None:
                bad.append((place, told(walk.entries_of(place, data), names)))
        for place, says in bad:
            position = None if start is None else start + place.at - PAGE_BYTES
            walked, why = place.block is not None, place.bad or ""
            self.places.append(BadPlace(name, place.at, place.length, position, why, walked, says))

    def _add_block(self, file: JournalFile, place: Place, block: StoredBlock, names: Names) -> None:
        header = block.header
        self.durable = max(self.durable, header.durable)
        self.headers[file.name].append(header)
        for start, entry in block.entries:
            for stored in entry.parts:
                names.learn_part(stored.part)
                at = start + stored.body_at
                body = block.data[at : at + stored.body_length]
                if stored.body_length and not is_whole_batch(body, stored.body_crc):
                    part, position = stored.part, header.position + at
                    log = part.target, part.base, part.messages
                    self.bodies.append(BadBody(file.name, place.at + at, place.at, position, *log))

    def end(self, name: str) -> int:
        """Position behind the last whole block of a file; 0 without one."""
        return end_of(self.headers[name][-1]) if self.headers[name] else 0

    def neighbours(self, place: BadPlace) -> tuple[BlockHeader | None, BlockHeader | None]:
        """The whole blocks before and behind a bad place, in its file or in the next that has any."""
        names = list(self.headers)
        at = names.index(place.name)
        here, position = self.headers[place.name], place.position
        before = [header for header in here if position is not None and header.position < position]
        behind = [header for header in here if position is not None and header.position >= position]
        for name in reversed(names[:at]):
            before = before or [h for h in self.headers[name] if position is None or end_of(h) <= position]
        for name in names[at + 1 :]:
            behind = behind or self.headers[name]
        return (before[-1] if before else None), (behind[0] if behind else None)


def end_of(header: BlockHeader | None) -> int:
    """The journal position behind a block; 0 without one."""
    return header.position + padded(header.length) if header is not None else 0


def survey(files: Readable, names: Names) -> Survey:
    """Look at every journal file; `names` learns what they tell."""
    found = Survey()
    for name in walk.journal_names(files):
        found.add(files, name, names)
    return found


def told(entries: Iterable[StoredEntry], names: Names) -> list[str]:
    """What entries say, in a few words each."""
    return [
        f"{kind_name(part.kind)} {names.label(part.target)}"
        + (f" {offsets(part.base, part.messages)}" if part.kind in (Kind.APPEND, Kind.SETTLE) else "")
        for entry in entries
        for part, *_ in entry.parts
    ]
