"""The files of a data directory as a row of records: plain dicts, of which text and JSON are made.

file       a journal file, checkpoint or segment begins
block      of the journal; or of a segment, with the log it belongs to
part       of an entry
batch      in a segment block
message    in a batch, if they are asked for
snapshot   of a machine in a checkpoint
between    bytes of a segment that are no block
empty      bytes nothing was written to in this use of the file
damage     bytes that are not what they should be, and why
"""

from collections.abc import Iterator

from penstock_broker.storage import checkpoint, segment
from penstock_broker.storage.blocks import BATCH
from penstock_broker.storage.entries import StoredEntry, StoredPart
from penstock_broker.storage.files import PAGE_BYTES, Readable, StorageError
from penstock_broker.tools import walk
from penstock_broker.tools.details import (
    Values,
    kind_name,
    message_values,
    part_values,
    snapshot_values,
)
from penstock_broker.tools.names import KINDS, Names
from penstock_broker.tools.walk import JournalFile, Place
from penstock_protocol.checksum import Buffer, crc32
from penstock_protocol.errors import Invalid

BAD_BATCH = "the batch fails its checksum"


def all_records(files: Readable, name: str, names: Names, *, bodies: bool) -> Iterator[Values]:
    """Everything in one file; nothing for a file of another name."""
    if name in checkpoint.SLOTS:
        yield from of_checkpoint(files, name, names)
    elif name in walk.journal_names(files):
        yield from of_journal(files, name, names, bodies=bodies)
    elif segment.segment_number(name) is not None:
        yield from of_segment(files, name, names, bodies=bodies)


def is_whole_batch(data: Buffer, crc: int) -> bool:
    """The bytes are the batch whose checksum was recorded."""
    stated = BATCH.pack(len(data), crc)
    return data[: BATCH.size] == stated and crc32(data[BATCH.size :]) == crc


# Journal


def of_journal(files: Readable, name: str, names: Names, *, bodies: bool) -> Iterator[Values]:
    """Blocks, parts and messages of a journal file."""
    file, unreadable, data = walk.journal_file(files, name)
    salt = None if file.salt is None else f"{file.salt:016x}"
    head: Values = {"number": file.number, "salt": salt}
    yield {"is": "file", "file": name, "sort": "journal", "size": file.size} | head
    if file.bad is not None:
        yield _damage(name, 0, PAGE_BYTES, file.bad)
    for place in walk.places(file, unreadable, data):
        yield from _of_place(file, place, names, bodies)


def _of_place(file: JournalFile, place: Place, names: Names, bodies: bool) -> Iterator[Values]:
    if place.block is None and place.bad is None:
        yield {"is": "empty", "file": file.name, "at": place.at, "length": place.length}
    if place.block is not None:
        yield place.block.header._asdict() | {"is": "block", "file": file.name, "at": place.at}
        for start, entry in place.block.entries:
            yield from _of_entry(file.name, place, start, entry, names, bodies)
    if place.bad is not None:
        yield _damage(file.name, place.at, place.length, place.bad)


def _of_entry(
    name: str, place: Place, start: int, entry: StoredEntry, names: Names, bodies: bool
) -> Iterator[Values]:
    assert place.block is not None
    position = place.block.header.position + start + entry.length
    for stored in entry.parts:
        part = stored.part
        names.learn_part(part)
        yield {
            "is": "part",
            "file": name,
            "at": place.at + start,
            "position": position,
            "time": entry.time,
            "kind": kind_name(part.kind),
            "of": names.label(part.target),
            "log": part.target.hex(),
            "first": part.base,
            "messages": part.messages,
        } | part_values(part, names)
        if stored.body_length:
            body = place.block.data[start + stored.body_at :][: stored.body_length]
            yield from _of_body(name, place.at + start + stored.body_at, stored, body, bodies)


def _of_body(name: str, at: int, stored: StoredPart, body: memoryview, bodies: bool) -> Iterator[Values]:
    part = stored.part
    if not is_whole_batch(body, stored.body_crc):
        yield _damage(name, at, stored.body_length, BAD_BATCH)
    elif bodies:
        yield from _messages(part.target, part.base, body)


def _messages(log: bytes, first: int, body: memoryview) -> Iterator[Values]:
    try:
        found = message_values(first, body)
    except Invalid as error:
        found = [{"offset": first, "unknown": error.message}]
    for values in found:
        yield {"is": "message", "log": log.hex()} | values


# Segments


def of_segment(files: Readable, name: str, names: Names, *, bodies: bool) -> Iterator[Values]:
    """Blocks, batches and messages of a segment, found by their own headers alone."""
    number = segment.segment_number(name)
    assert number is not None
    data, unreadable = walk.read_whole(files, name, files.names()[name])
    yield {"is": "file", "file": name, "sort": "segment", "size": len(data), "number": number}
    for at in unreadable:
        yield _damage(name, at, PAGE_BYTES, walk.UNREADABLE)
    at = 0
    while at < len(data):
        head = segment_block(data, at, number)
        if head is None:
            end = _next_block(data, at + 1, number)
            yield {"is": "between", "file": name, "at": at, "length": end - at}
            at = end
            continue
        log, rows = head
        last = rows[-1]
        length = last.at + last.length
        span = last.base + last.messages - rows[0].base
        yield {
            "is": "block",
            "file": name,
            "at": at,
            "length": length,
            "of": names.label(log),
            "log": log.hex(),
            "first": rows[0].base,
            "messages": span,
            "batches": len(rows),
        }
        for row in rows:
            yield from _of_row(name, at, log, row, data[at + row.at :][: row.length], names, bodies)
        at += length


def segment_block(data: memoryview, at: int, number: int) -> tuple[bytes, list[segment.Row]] | None:
    """Whose block stands there, and its rows; None if none stands there whole."""
    if data[at : at + len(segment.MAGIC)] != segment.MAGIC or len(data) - at < segment.BLOCK_HEADER_BYTES:
        return None
    log = segment.BLOCK.unpack_from(data, at)[3]
    rows = segment.decode_head(data[at:], log, number)
    return None if not rows else (log, rows)


def _next_block(data: memoryview, at: int, number: int) -> int:
    whole = bytes(data)
    while (found := whole.find(segment.MAGIC, at)) >= 0:
        if segment_block(data, found, number) is not None:
            return found
        at = found + 1
    return len(data)


def _of_row(
    name: str, at: int, log: bytes, row: segment.Row, body: memoryview, names: Names, bodies: bool
) -> Iterator[Values]:
    values: Values = {
        "is": "batch",
        "file": name,
        "at": at + row.at,
        "length": row.length,
        "of": names.label(log),
        "log": log.hex(),
        "first": row.base,
        "messages": row.messages,
        "time": row.time,
    }
    if (row.origin_log, row.origin_first) != (log, row.base):
        values["from"] = f"{names.address(row.origin_log)}:{row.origin_first}"
    yield values
    if not is_whole_batch(body, row.crc):
        yield _damage(name, at + row.at, row.length, BAD_BATCH)
    elif bodies:
        yield from _messages(log, row.base, body)


# Checkpoints


def of_checkpoint(files: Readable, name: str, names: Names) -> Iterator[Values]:
    """Header and snapshots of a slot."""
    size = files.names()[name]
    try:
        slot = checkpoint.read(files, name)
    except (StorageError, OSError) as error:
        slot, bad = None, str(error)
    else:
        bad = "its header or directory is damaged, or it was being written"
    if slot is None:
        yield {"is": "file", "file": name, "sort": "checkpoint", "size": size}
        yield _damage(name, 0, size, bad)
        return
    yield {
        "is": "file",
        "file": name,
        "sort": "checkpoint",
        "size": size,
        "generation": slot.generation,
        "oldest": slot.oldest,
        "newest": slot.newest,
        "machines": len(slot.rows),
    }
    for row in slot.rows.values():
        data = snapshot(files, slot, row)
        values = {} if data is None else snapshot_values(row.kind, data, names)
        yield {
            "is": "snapshot",
            "file": name,
            "at": row.at,
            "length": row.length,
            "machine": KINDS.get(row.kind, str(row.kind)),
            "of": names.label(row.uuid),
            "log": row.uuid.hex(),
            "as_of": row.as_of,
        } | values
        if data is None:
            yield _damage(name, row.at, row.length, "the snapshot fails its checksum")


def snapshot(files: Readable, slot: checkpoint.Slot, row: checkpoint.Row) -> bytes | None:
    """One snapshot; None if it fails its checksum or cannot be read."""
    try:
        return checkpoint.load(files, slot, row)
    except OSError:
        return None


def _damage(name: str, at: int, length: int, why: str) -> Values:
    return {"is": "damage", "file": name, "at": at, "length": length, "why": why}
