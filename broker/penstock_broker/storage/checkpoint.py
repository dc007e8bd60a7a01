"""Checkpoints: what every machine knew at a position, so that the journal before it can go.

Two slots are written in turn. In a slot each machine's snapshot is a block of its own, with `as_of`, the
position it reflects; a directory behind them says where each lies, and the header, written last, where
the directory lies. A slot being written is no checkpoint until its header is durable.

    offset  size  field (header, one page, the rest zero)
    0       4     magic             "PSCP"
    4       2     version           2
    6       2     reserved
    8       8     generation        grows by one with every checkpoint
    16      8     oldest            smallest as_of: replay starts here
    24      8     newest            largest as_of: the journal was durable up to here
    32      8     directory_at
    40      4     directory_length  bytes
    44      4     directory_crc
    48      4     reserved
    52      4     crc32             over bytes 0 … 52

    offset  size  field (directory row, 48 bytes)
    0       16    uuid              of the machine
    16      1     kind              of machine
    17      7     reserved
    24      8     as_of
    32      8     at                of the snapshot in the file
    40      4     length            of the snapshot
    44      4     crc32             of the snapshot

Little-endian; snapshots are laid out by their machines.
"""

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import NamedTuple

from penstock_broker.storage.files import PAGE_BYTES, UNREADABLE, Copy, Extent, Readable, Step, StorageError
from penstock_protocol.checksum import Buffer, crc32

HEADER = Struct("<4sHHQQQQIII")
CRC = Struct("<I")
HEADER_BYTES = 56
assert HEADER.size + CRC.size == HEADER_BYTES
MAGIC = b"PSCP"
VERSION = 2
ROW = Struct("<16sB7xQQII")
ROW_BYTES = 48
assert ROW.size == ROW_BYTES
SLOTS = ("checkpoint-0", "checkpoint-1")
LOST_CRC = 1
assert crc32(b"") != LOST_CRC


class Row(NamedTuple):
    """Where one machine's snapshot lies."""

    uuid: bytes
    kind: int
    as_of: int
    at: int
    length: int
    crc: int


class Slot(NamedTuple):
    """A checkpoint that is whole, apart from single snapshots, which carry their own checksum."""

    name: str
    generation: int
    oldest: int
    newest: int
    rows: dict[bytes, Row]


class Snapshot(NamedTuple):
    """A machine's share of a checkpoint to be written: its bytes, or where they lie unchanged, or None for a
    machine that is lost, and stays so: its checksum never holds."""

    uuid: bytes
    kind: int
    as_of: int
    data: Buffer | Extent | None


def next_slot(current: Slot | None) -> str:
    """The slot to write next: the one that does not hold the newest checkpoint."""
    return SLOTS[0] if current is None or current.name == SLOTS[1] else SLOTS[1]


def write(name: str, generation: int, snapshots: Sequence[Snapshot]) -> tuple[Copy, Slot]:
    """The job that writes a checkpoint into slot `name`, and what the slot is once it is done."""
    rows: dict[bytes, Row] = {}
    at = PAGE_BYTES
    for uuid, kind, as_of, data in snapshots:
        crc: int
        if data is None:
            length, crc = 0, LOST_CRC
        elif isinstance(data, Extent):
            length, crc = data.length, data.crc or 0
        else:
            length, crc = len(data), crc32(data)
        rows[uuid] = Row(uuid, kind, as_of, at, length, crc)
        at += length
    directory = b"".join([ROW.pack(*row) for row in rows.values()])
    oldest = min(row.as_of for row in rows.values())
    newest = max(row.as_of for row in rows.values())
    head = HEADER.pack(MAGIC, VERSION, 0, generation, oldest, newest, at, len(directory), crc32(directory), 0)
    page = (head + CRC.pack(crc32(head))).ljust(PAGE_BYTES, b"\0")
    steps = (
        Step(0, (bytes(PAGE_BYTES),)),
        Step(PAGE_BYTES, (*(item.data for item in snapshots if item.data is not None), directory)),
        Step(0, (page,)),
    )
    return Copy(name, steps), Slot(name, generation, oldest, newest, rows)


def read(files: Readable, name: str) -> Slot | None:
    """The checkpoint in slot `name`; None if there is none, or it is damaged or unreadable. `StorageError` if
    newer."""
    page = _read(files, name, 0, HEADER_BYTES)
    if len(page) < HEADER_BYTES or page[:4] != MAGIC:
        return None
    _, version, _, generation, oldest, newest, at, length, crc, _ = HEADER.unpack_from(page)
    if CRC.unpack_from(page, HEADER.size)[0] != crc32(page[: HEADER.size]):
        return None
    if version != VERSION:
        raise StorageError(
            f"the checkpoint has format {version}, this broker knows {VERSION}: "
            "use the release that wrote it, or a newer one"
        )
    directory = _read(files, name, at, length)
    if len(directory) != length or length % ROW_BYTES or crc32(directory) != crc:
        return None
    rows = [Row._make(fields) for fields in ROW.iter_unpack(directory)]
    return Slot(name, generation, oldest, newest, {row.uuid: row for row in rows})


def load(files: Readable, slot: Slot, row: Row) -> bytes | None:
    """One snapshot; None if it fails its checksum or cannot be read."""
    data = _read(files, slot.name, row.at, row.length)
    return data if len(data) == row.length and crc32(data) == row.crc else None


def _read(files: Readable, name: str, at: int, length: int) -> bytes:
    """Bytes of a slot; none if the disk cannot read them."""
    try:
        return files.read(name, at, length)
    except OSError as error:
        if error.errno in UNREADABLE:
            return b""
        raise


def read_all(files: Readable) -> list[Slot]:
    """Whole checkpoints, newest first."""
    names = files.names()
    slots = [slot for name in SLOTS if name in names and (slot := read(files, name)) is not None]
    return sorted(slots, key=lambda slot: -slot.generation)


class Chosen(NamedTuple):
    """One machine's best snapshot; `data` None: both copies are bad."""

    row: Row
    data: bytes | None


def choose(files: Readable, slots: Sequence[Slot]) -> Iterator[tuple[int, Chosen | None]]:
    """For each machine where to replay from, and its snapshot: the older one where the newest is damaged.

    A damaged one that the older checkpoint does not know is of a machine made since: replay alone brings
    it back. One that only the older knows is of a machine deleted since: an older catalogue asks for it.
    """
    if not slots:
        return
    newest, older = slots[0], slots[1] if len(slots) > 1 else None
    damaged = False
    for uuid, row in newest.rows.items():
        data = load(files, newest, row)
        if data is not None or older is None:
            yield row.as_of, Chosen(row, data)
            continue
        damaged = True
        before = older.rows.get(uuid)
        yield older.oldest, None if before is None else Chosen(before, load(files, older, before))
    if older is not None and damaged:
        for uuid, row in older.rows.items():
            if uuid not in newest.rows:
                yield older.oldest, Chosen(row, load(files, older, row))
