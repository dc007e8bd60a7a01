"""Journal files block by block, in whatever state they are: what recovery stops at, this goes on behind.

It judges nothing. Whether a bad block is torn or rotten depends on what other files say, see `doctor`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from penstock_broker.storage import blocks
from penstock_broker.storage.blocks import (
    BLOCK_HEADER_BYTES,
    BLOCK_MAGIC,
    FILE_HEADER_BYTES,
    BlockHeader,
    StoredBlock,
    decode_block,
    decode_block_header,
    decode_file_header,
    padded,
)
from penstock_broker.storage.entries import Malformed, StoredEntry, decode
from penstock_broker.storage.files import PAGE_BYTES, Readable, StorageError

LOOK_BYTES = 256 << 10
"""Read at once when looking for the first block of a file."""
UNREADABLE = "the disk cannot read it"
ZEROS = bytes(PAGE_BYTES)


class JournalFile(NamedTuple):
    """A journal file and its header. `bad`: what is wrong with that, None if it is whole."""

    name: str
    number: int
    salt: int | None
    """None: neither the header nor any block says it."""
    size: int
    bad: str | None


class Place(NamedTuple):
    """A run of pages: a block, or what stands where one should. `bad`: what is wrong with it."""

    at: int
    length: int
    """Bytes up to the next place."""
    block: StoredBlock | None
    bad: str | None
    """None with `block` None: it was never written to in this use of the file."""


def journal_names(files: Readable) -> list[str]:
    """Journal files in order of their numbers."""
    names = [name for name in files.names() if name.startswith(blocks.PREFIX)]
    return sorted(name for name in names if name.removeprefix(blocks.PREFIX).isdigit())


def journal_file(files: Readable, name: str) -> tuple[JournalFile, list[int], memoryview]:
    """A file, the places of pages that cannot be read (zeros in their stead), and its bytes."""
    number = int(name.removeprefix(blocks.PREFIX))
    data, unreadable = read_whole(files, name, files.names()[name])
    bad = None
    salt = None
    try:
        header = decode_file_header(bytes(data[:FILE_HEADER_BYTES]))
    except StorageError as newer:
        header, bad = None, str(newer)
    if header is not None and header.number == number:
        salt = header.salt
    else:
        bad = bad or ("its header is damaged" if header is None else f"its header is of file {header.number}")
        salts = (found.salt for _, found in _headers(data, PAGE_BYTES) if found.file == number)
        salt = next(salts, None)
    return JournalFile(name, number, salt, len(data), bad), unreadable, data


def first_header(files: Readable, name: str) -> BlockHeader | None:
    """The header of the first whole block of a journal file; None if it has none. A number is used once."""
    number, size = int(name.removeprefix(blocks.PREFIX)), files.names().get(name, 0)
    for at in range(PAGE_BYTES, size, LOOK_BYTES):
        for _, found in _headers(memoryview(files.read(name, at, LOOK_BYTES)), 0):
            if found.file == number:
                return found
    return None


def header_at(files: Readable, name: str, at: int) -> BlockHeader | None:
    """The header of the block that stands there; None if none stands there whole."""
    return decode_block_header(memoryview(files.read(name, at, PAGE_BYTES)), 0)


def places(file: JournalFile, unreadable: list[int], data: memoryview) -> Iterator[Place]:
    """What stands in the file, page by page, to its end."""
    at = PAGE_BYTES
    while at < len(data):
        header = decode_block_header(data, at)
        if header is not None and is_of(header, file):
            block = decode_block(data, at, header)
            length = min(padded(header.length), len(data) - at)
            lost = any(at <= page < at + length for page in unreadable)
            yield Place(at, length, block, UNREADABLE if lost else block.bad)
            at += max(length, PAGE_BYTES)
            continue
        end = next((where for where, found in _headers(data, at) if is_of(found, file)), len(data))
        yield Place(at, end - at, None, _why_no_block(file, unreadable, data, at, end))
        at = end


def entries_of(place: Place, data: memoryview) -> Iterator[StoredEntry]:
    """Entries at a place, up to the first that is damaged; they are found without a block's header, too."""
    at, end = place.at + BLOCK_HEADER_BYTES, place.at + place.length
    while at < end:
        try:
            entry = decode(data, at, end)
        except Malformed:
            return
        yield entry
        at += entry.length


def is_of(header: BlockHeader, file: JournalFile) -> bool:
    """Written in this use of the file, not left from an earlier one."""
    return header.file == file.number and header.salt == file.salt


def _why_no_block(
    file: JournalFile, unreadable: list[int], data: memoryview, at: int, end: int
) -> str | None:
    if any(at <= page < end for page in unreadable):
        return UNREADABLE
    if end < len(data):
        return "a block is missing or damaged, with others behind it"
    if data[at : at + len(BLOCK_MAGIC)] == BLOCK_MAGIC:
        return None if decode_block_header(data, at) is not None else "a block's header is damaged"
    stale = any(not is_of(found, file) for _, found in _headers(data, at))
    if stale or not any(data[where : where + PAGE_BYTES] != ZEROS for where in range(at, end, PAGE_BYTES)):
        return None
    return "a block is missing or damaged, or torn"


def _headers(data: memoryview, at: int) -> Iterator[tuple[int, BlockHeader]]:
    for where in range(at, len(data), PAGE_BYTES):
        found = decode_block_header(data, where)
        if found is not None:
            yield where, found


def read_whole(files: Readable, name: str, size: int) -> tuple[memoryview, list[int]]:
    """All of a file, and the places of pages that cannot be read: zeros stand in for those."""
    try:
        return memoryview(files.read(name, 0, size)), []
    except OSError:
        pages, unreadable = [], []
        for at in range(0, size, PAGE_BYTES):
            try:
                pages.append(files.read(name, at, min(PAGE_BYTES, size - at)))
            except OSError:
                unreadable.append(at)
                pages.append(bytes(min(PAGE_BYTES, size - at)))
        return memoryview(b"".join(pages)), unreadable


def readable(files: Readable, name: str, at: int, length: int) -> memoryview:
    """Bytes; none where the disk cannot read them."""
    try:
        return memoryview(files.read(name, at, length))
    except OSError:
        return memoryview(b"")
