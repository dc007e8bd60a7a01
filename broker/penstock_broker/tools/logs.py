"""The doctor's look at logs: is every batch that one points to there and whole, in journal and segments."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from penstock_broker.queues.queue import Queue
from penstock_broker.registry import Registry
from penstock_broker.storage.files import PAGE_BYTES, Readable
from penstock_broker.storage.log import Stretch, Young
from penstock_broker.storage.node import Segment
from penstock_broker.storage.recovery import Report
from penstock_broker.storage.segment import (
    Indexed,
    decode_head,
    decode_index,
    index_bytes,
    segment_name,
    segment_number,
    walk,
)
from penstock_broker.tools.command import offsets
from penstock_broker.tools.findings import Finding, finding, remark
from penstock_broker.tools.names import Names
from penstock_broker.tools.records import BAD_BATCH, is_whole_batch
from penstock_broker.tools.survey import BadBody, Survey
from penstock_broker.tools.walk import readable
from penstock_broker.topics.partition import Partition

FOREVER = 1 << 63
"""A journal position that none reaches."""


class Damage(NamedTuple):
    """Messages that are wanted and cannot be read."""

    first: int
    messages: int
    name: str
    at: int
    length: int
    """Bytes that are damaged."""
    why: str


class Places:
    """Where journal positions lie, as recovery found it, and which batches there are bad."""

    def __init__(self, files: Readable, survey: Survey, report: Report) -> None:
        self._files = files
        self._found = list(zip(report.files, report.used, strict=True))
        self._bodies = {body.position for body in survey.bodies}
        self._bad = [(bad.position, bad.length) for bad in survey.places if bad.position is not None]

    def find(self, position: int) -> tuple[str, int] | None:
        """The file and byte of a position; None if no file has it."""
        for file, used in reversed(self._found):
            at = position - file.start + PAGE_BYTES
            if at >= PAGE_BYTES:
                return (file.name, at) if at < used else None
        return None

    def look(self, young: Young) -> Damage | None:
        """What is wrong with a batch."""
        place = self.find(young.position)
        if place is None:
            return Damage(young.base, young.messages, "the journal", young.position, 0, "its file is gone")
        name, at = place
        bad = young.position in self._bodies
        if not bad and any(start <= young.position < start + length for start, length in self._bad):
            bad = not is_whole_batch(readable(self._files, name, at, young.length), young.crc)
        return Damage(young.base, young.messages, name, at, young.length, BAD_BATCH) if bad else None


def check(
    files: Readable, registry: Registry, survey: Survey, report: Report, names: Names
) -> Iterator[Finding]:
    """Every log, then the segment files themselves."""
    places = Places(files, survey, report)
    for owner in registry.owners():
        if owner.uuid not in registry.corrupt:
            for damage in merged(damages(files, places, owner)):
                yield _unreadable(owner, damage, names)
            yield from _indexes(files, owner, names)
    yield from _segments(files, registry)


def damages(files: Readable, places: Places, owner: Queue | Partition) -> Iterator[Damage]:
    """What is wanted of a log and cannot be read, in order of offsets."""
    for stretch in owner.log.stretches():
        for damage in _of_stretch(files, owner, stretch):
            if owner.is_alive(damage.first, damage.messages):
                yield damage
    for young in owner.log.young_rows(FOREVER):
        found = places.look(young)
        if found is not None and owner.is_alive(young.base, young.messages):
            yield found


def merged(found: Iterable[Damage]) -> Iterator[Damage]:
    """Neighbours in one file as one."""
    last: Damage | None = None
    for each in found:
        if last is not None and (last.name, last.first + last.messages) == (each.name, each.first):
            last = last._replace(messages=last.messages + each.messages, length=last.length + each.length)
            continue
        if last is not None:
            yield last
        last = each
    if last is not None:
        yield last


def is_needed(registry: Registry, body: BadBody) -> bool:
    """The batch is wanted, and it is there that it is looked for."""
    owner = registry.owner(body.log)
    if owner is None or body.log in registry.corrupt or not owner.is_alive(body.first, body.messages):
        return False
    place = owner.log.at(body.first) if body.first >= owner.log.start else None
    return isinstance(place, Young) and place.position == body.position


def _unreadable(owner: Queue | Partition, damage: Damage, names: Names) -> Finding:
    what = f"{names.label(owner.uuid)} {offsets(damage.first, damage.messages)}"
    address = f"{names.address(owner.uuid)}:{damage.first}-{damage.first + damage.messages - 1}"
    return finding(
        f"{damage.name} at byte {damage.at}",
        f"{damage.why}: {what}",
        f"{damage.messages:,} {'messages' if isinstance(owner, Queue) else 'records'} cannot be read",
        "serves everything else; these offsets answer Corrupt",
        f"restore a backup of the directory, or give them up: penstock repair DATA --range {address}",
    )


# Segments


def _of_stretch(files: Readable, owner: Queue | Partition, stretch: Stretch) -> Iterator[Damage]:
    name, log = segment_name(stretch.segment), owner.log.uuid
    data = readable(files, name, stretch.at, stretch.length) if name in files.names() else memoryview(b"")
    if not data:
        yield Damage(stretch.first, stretch.messages, name, stretch.at, 0, "that part of the file is gone")
        return
    blocks = index_of(data, log, stretch) or list(walk(data, log, stretch.segment))
    behind = stretch.first
    for number, block in enumerate(blocks):
        behind = blocks[number + 1].first if number + 1 < len(blocks) else stretch.end
        rows = decode_head(data[block.at : block.at + block.length], log, stretch.segment)
        if rows is None or rows[0].base != block.first:
            why = "a block's header or table is damaged"
            yield Damage(block.first, behind - block.first, name, stretch.at + block.at, block.length, why)
            continue
        behind = rows[-1].base + rows[-1].messages
        for row in rows:
            at = block.at + row.at
            if not is_whole_batch(data[at : at + row.length], row.crc):
                yield Damage(row.base, row.messages, name, stretch.at + at, row.length, BAD_BATCH)
    if len(blocks) < stretch.blocks:
        messages, why = stretch.end - behind, "the chain of its blocks is broken"
        yield Damage(behind, messages, name, stretch.at, stretch.length, why)


def index_of(data: memoryview, log: bytes, stretch: Stretch) -> list[Indexed] | None:
    """Where the blocks of a stretch lie by its index; None if that is damaged."""
    if stretch.blocks == 1:
        return [Indexed(stretch.first, stretch.time, 0, stretch.length)]
    found = decode_index(data[stretch.length - index_bytes(stretch.blocks) :], log, stretch.segment)
    return found if found is not None and len(found) == stretch.blocks else None


def _indexes(files: Readable, owner: Queue | Partition, names: Names) -> Iterator[Finding]:
    """Indexes that are damaged: nothing is lost by it."""
    for stretch in owner.log.stretches():
        name, size = segment_name(stretch.segment), index_bytes(stretch.blocks)
        at = stretch.at + stretch.length - size
        if not size or name not in files.names():
            continue
        found = decode_index(readable(files, name, at, size), owner.log.uuid, stretch.segment)
        if found is None or len(found) != stretch.blocks:
            yield finding(
                f"{name} at byte {at}",
                f"an index of {names.label(owner.uuid)} is damaged",
                "nothing is lost: its blocks say the same",
                "makes it again when it is needed",
                "the disk loses bytes: look at its health, and make a backup: penstock backup DATA DEST",
            )


def _segments(files: Readable, registry: Registry) -> Iterator[Finding]:
    """Files that nothing points to, and bytes behind those that count."""
    node = registry.node
    for name, size in sorted(files.names().items()):
        number = segment_number(name)
        if number is None:
            continue
        known: Segment | None = node.segments.get(number)
        if known is None:
            start = "unlinks it" if number < node.segment_next else "leaves it; it will be written over"
            yield remark(name, f"left over, {size:,} bytes", "nothing points to it", start)
        elif size > known.size:
            yield remark(name, f"{size - known.size:,} bytes behind its end", "left over", "writes over them")
