"""Journal files and blocks: what is written at once, and how a reader knows it from what stood there before.

    offset  size  field (file header, one page of 4,096 bytes, the rest zero)
    0       4     magic       "PSJF"
    4       2     version     2
    6       2     reserved
    8       8     number      of the file, as in its name
    16      8     salt        of this use of the file
    24      8     size        bytes of the file
    32      4     reserved
    36      4     crc32       over bytes 0 … 36

    offset  size  field (block header, 80 bytes; a block begins on a page)
    0       4     magic       "PSJB"
    4       2     version     2
    6       2     reserved
    8       8     file        number of the file it was written to
    16      8     salt        of that use of the file
    24      8     boot        life of the broker that wrote it
    32      8     sequence    of the block; grows by one
    40      8     position    of the block in the journal
    48      8     durable     W: the position known to be on stable storage when it was written
    56      8     time        wall clock of the writer, ms; never runs backwards
    64      4     length      bytes of header and entries; the next block begins on the next page
    68      4     entries     of a block that was cut: blocks it stands for
    72      4     flags       1: repair cut what stood here, what it said is lost
    76      4     crc32       over bytes 0 … 76
    80      …     entries

Little-endian. A block is bad if its header, a part table or a body fails its checksum. File number and
salt tell a block from one that a recycled file held before.
"""

from struct import Struct
from typing import NamedTuple

from penstock_broker.storage.entries import Malformed, StoredEntry, decode
from penstock_broker.storage.files import PAGE_BYTES, StorageError
from penstock_protocol.checksum import crc32

FILE = Struct("<4sHHQQQI")
FILE_HEADER_BYTES = 40
CRC = Struct("<I")
BATCH = Struct("<II")  # how a batch begins: length, crc32
assert FILE.size + CRC.size == FILE_HEADER_BYTES
FILE_MAGIC = b"PSJF"

BLOCK = Struct(
    "<"
    "4s"  # magic
    "H"  # version
    "H"  # reserved
    "Q"  # file
    "Q"  # salt
    "Q"  # boot
    "Q"  # sequence
    "Q"  # position
    "Q"  # durable
    "Q"  # time
    "I"  # length
    "I"  # entries
    "I"  # flags
)
BLOCK_HEADER_BYTES = 80
assert BLOCK.size + CRC.size == BLOCK_HEADER_BYTES
BLOCK_MAGIC = b"PSJB"
VERSION = 2

CUT = 1
"""Flag of a block whose header was written by repair: what stands behind it does not count."""

PREFIX = "journal-"


def file_name(number: int) -> str:
    """The name of journal file `number`."""
    return f"{PREFIX}{number:012d}"


def padded(length: int) -> int:
    """`length` rounded up to whole pages."""
    return -(-length // PAGE_BYTES) * PAGE_BYTES


def encode_file_header(number: int, salt: int, size: int) -> bytes:
    """The first page of a journal file."""
    head = FILE.pack(FILE_MAGIC, VERSION, 0, number, salt, size, 0)
    return (head + CRC.pack(crc32(head))).ljust(PAGE_BYTES, b"\0")


class FileHeader(NamedTuple):
    """What the first page of a journal file says."""

    number: int
    salt: int
    size: int


def decode_file_header(page: bytes) -> FileHeader | None:
    """The header of a journal file, None if it is damaged. `StorageError` for a newer format."""
    if len(page) < FILE_HEADER_BYTES:
        return None
    magic, version, _, number, salt, size, _ = FILE.unpack_from(page)
    if magic != FILE_MAGIC or CRC.unpack_from(page, FILE.size)[0] != crc32(page[: FILE.size]):
        return None
    if version != VERSION:
        raise StorageError(
            f"the journal has format {version}, this broker knows {VERSION}: "
            "use the release that wrote it, or a newer one"
        )
    return FileHeader(number, salt, size)


class BlockHeader(NamedTuple):
    """What a block says of itself."""

    file: int
    salt: int
    boot: int
    sequence: int
    position: int
    durable: int
    time: int
    length: int
    entries: int
    flags: int = 0

    @property
    def behind(self) -> int:
        """Sequence of the block behind it."""
        return self.sequence + (self.entries if self.flags & CUT else 1)


def encode_block_header(header: BlockHeader) -> bytes:
    """The 80 bytes in front of a block's entries."""
    head = BLOCK.pack(BLOCK_MAGIC, VERSION, 0, *header)
    return head + CRC.pack(crc32(head))


def decode_block_header(view: memoryview, at: int) -> BlockHeader | None:
    """The header at `at`, None if none stands there whole."""
    if view[at : at + 4] != BLOCK_MAGIC or len(view) - at < BLOCK_HEADER_BYTES:
        return None
    if CRC.unpack_from(view, at + BLOCK.size)[0] != crc32(view[at : at + BLOCK.size]):
        return None
    _, version, _, *fields = BLOCK.unpack_from(view, at)
    return BlockHeader(*fields) if version == VERSION else None


class StoredBlock(NamedTuple):
    """A block as read back. `data`: header and entries; `bad`: why it is bad, or None."""

    header: BlockHeader
    data: memoryview
    entries: list[tuple[int, StoredEntry]]
    """(start within the block, entry)."""
    bad: str | None


def decode_block(view: memoryview, at: int, header: BlockHeader) -> StoredBlock:
    """The block at `at`. Bodies are not looked at: see `bad_body`."""
    data = view[at : at + header.length]
    entries: list[tuple[int, StoredEntry]] = []
    start = BLOCK_HEADER_BYTES
    if len(data) < header.length or header.length < start:
        return StoredBlock(header, data, [], "it is cut off by the end of the file")
    if header.flags & CUT:
        return StoredBlock(header, data, [], None)
    try:
        for _ in range(header.entries):
            entry = decode(data, start, header.length)
            entries.append((start, entry))
            start += entry.length
    except Malformed as why:
        return StoredBlock(header, data, entries, f"{why} at byte {at + start} of the file")
    return StoredBlock(header, data, entries, None)


def bad_body(block: StoredBlock) -> str | None:
    """Which body of the block fails its checksum, None if all hold."""
    for start, entry in block.entries:
        for stored in entry.parts:
            at = start + stored.body_at
            body = block.data[at : at + stored.body_length]
            # A batch begins with its own length and checksum, which covers what follows.
            stated = BATCH.pack(stored.body_length, stored.body_crc)
            if stored.body_length and (
                body[: BATCH.size] != stated or crc32(body[BATCH.size :]) != stored.body_crc
            ):
                return f"body at byte {at} of the block"
    return None
