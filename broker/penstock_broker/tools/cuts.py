"""What repair cuts, and what a start would find then, before anything is done."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from penstock_broker.storage.blocks import (
    CUT,
    BlockHeader,
    encode_block_header,
    encode_file_header,
    padded,
)
from penstock_broker.storage.files import PAGE_BYTES, Readable
from penstock_broker.tools import walk
from penstock_broker.tools.command import RANDOM, Failed
from penstock_broker.tools.doctor import Case, verdict
from penstock_broker.tools.survey import BadPlace, end_of

Writes = Mapping[str, Sequence[tuple[int, bytes]]]
"""File → bytes to be written at places of it."""


class Patched:
    """A directory as it would be: some bytes are others, some files are not there."""

    def __init__(self, files: Readable, writes: Writes, hidden: Sequence[str] = ()) -> None:
        self._files = files
        self._writes = writes
        self._hidden = hidden

    def names(self) -> dict[str, int]:
        """Every file with its size in bytes."""
        return {name: size for name, size in self._files.names().items() if name not in self._hidden}

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Read now."""
        data = bytearray(self._files.read(name, offset, length))
        for at, piece in self._writes.get(name, ()):
            low, high = max(at, offset), min(at + len(piece), offset + len(data))
            if low < high:
                data[low - offset : high - offset] = piece[low - at : high - at]
        return bytes(data)


class Cut(NamedTuple):
    """Blocks of the journal to be cut: the header that stands for them from now on."""

    header: BlockHeader
    writes: Writes
    length: int
    """Bytes that do not count any more."""


def find_place(case: Case, name: str, at: int) -> BadPlace:
    """The rotten place that is named. Raises `Failed` that says why it is not to be cut."""
    place = next((bad for bad in case.survey.places if (bad.name, bad.at) == (name, at)), None)
    ask = "penstock doctor names what is damaged"
    if place is None:
        raise Failed(f"{name} is not damaged at byte {at}: {ask}")
    if verdict(case, place) != "rotten":
        raise Failed(
            f"{name} at byte {at} is in nobody's way: a start passes over it, or cuts it by itself; {ask}"
        )
    return place


def cut_of(case: Case, place: BadPlace) -> Cut:
    """What stands for a rotten place then: one header, for all sequences and bytes that were lost. The bytes
    behind it stay, for messages in them may be whole. Raises `Failed` where its neighbours do not say."""
    file = next(file for file in case.survey.files if file.name == place.name)
    before, behind = case.survey.neighbours(place)
    if behind is None:
        raise Failed(
            f"nothing whole stands behind byte {place.at} of {place.name}: a start cuts it by itself"
        )
    whole = walk.header_at(case.files, place.name, place.at) if place.walked else None
    if whole is not None:
        position, sequence, length, lost = whole.position, whole.sequence, padded(whole.length), 1
    else:
        position = place.position if place.position is not None else end_of(before)
        sequence = before.behind if before is not None else behind.sequence - 1
        length, lost = behind.position - position, behind.sequence - sequence
    if lost < 1 or length < PAGE_BYTES or place.at + length > file.size:
        raise Failed(f"{place.name} at byte {place.at}: what stands around it does not say what was there")
    like = before if before is not None and before.file == file.number else behind
    boot = like.boot if like.file == file.number else (before or behind).boot
    salt = RANDOM.getrandbits(64) if file.salt is None else file.salt
    fields = file.number, salt, boot, sequence, position, position, like.time, length, lost, CUT
    header = BlockHeader(*fields)
    writes = [(place.at, encode_block_header(header))]
    if file.salt is None:
        writes.insert(0, (0, encode_file_header(file.number, salt, file.size)))
    return Cut(header, {file.name: writes}, length)
