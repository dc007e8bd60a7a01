"""Bulk writes: whatever the pieces and wherever they go, the file holds them, and the page cache does not."""

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock_broker.storage import os_bulk
from penstock_broker.storage.files import PAGE_BYTES, Copy, Damaged, Drop, Extent, Load, Step
from penstock_broker.storage.os_bulk import STAGE_BYTES
from penstock_broker.storage.os_files import OsFiles
from penstock_protocol.checksum import Buffer, crc32

SOURCE_BYTES = 3 * STAGE_BYTES
SOURCE = Random(7).randbytes(SOURCE_BYTES)
UNREADABLE = range(100_000, 200_000)
"""A part of the source that a test takes the reader away from."""


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OsFiles]:
    files = OsFiles(tmp_path / "data")
    files.lock()
    files.run(Copy("source", (Step(0, (SOURCE,)),)))
    yield files
    files.close()


def meant(pieces: Sequence[Buffer | Extent]) -> bytes:
    return b"".join(
        SOURCE[piece.offset : piece.offset + piece.length] if isinstance(piece, Extent) else piece
        for piece in pieces
    )


def extent(offset: int, length: int, *, checked: bool = False) -> Extent:
    crc = crc32(SOURCE[offset : offset + length]) if checked else None
    return Extent("source", offset, length, crc)


LENGTHS = st.one_of(
    st.integers(1, 300),
    st.integers(1, 40).map(lambda pages: pages * PAGE_BYTES),
    st.integers(1, STAGE_BYTES + 5_000),
)
BUFFERS = LENGTHS.map(lambda length: SOURCE[-length:])
EXTENTS = st.builds(extent, st.integers(0, STAGE_BYTES), LENGTHS, checked=st.booleans())
PIECES = st.lists(st.one_of(BUFFERS, EXTENTS), min_size=1, max_size=8)
OFFSETS = st.one_of(st.just(0), st.integers(0, 3 * PAGE_BYTES), st.just(STAGE_BYTES))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=PIECES, offset=OFFSETS, behind=st.integers(0, 2 * PAGE_BYTES))
def test_pieces_stand_one_behind_the_other_and_nothing_else_is_changed(
    files: OsFiles, pieces: list[Buffer | Extent], offset: int, behind: int
) -> None:
    if "copy" in files.names():
        files.run(Drop("copy"))
    whole = meant(pieces)
    before = (5 * SOURCE)[: offset + len(whole) + behind]
    files.run(Copy("copy", (Step(0, (before,)),)))
    assert files.run(Copy("copy", (Step(offset, tuple(pieces)),))) == len(whole)
    found = files.read("copy", 0, len(before) + 1)
    assert found[offset : offset + len(whole)] == whole
    assert found[:offset] + found[offset + len(whole) :] == before[:offset] + before[offset + len(whole) :]


def test_extents_with_gaps_between_them_are_read_over_them(
    files: OsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    preadv = os.preadv

    def watched(fd: int, into: Sequence[Buffer], offset: int) -> int:
        reads.append(offset)
        return preadv(fd, into, offset)

    near = [extent(at, 1_000) for at in range(0, 200_000, 1_080)]
    far = extent(1_000_000, 1_000)
    monkeypatch.setattr(os, "preadv", watched)
    files.run(Copy("copy", (Step(0, (*near, far)),)))
    assert reads == [0, 1_000_000]
    monkeypatch.undo()
    assert files.read("copy", 0, 300_000) == meant([*near, far])


def test_more_extents_than_one_read_takes_are_all_copied(files: OsFiles) -> None:
    many = [extent(3 * number, 2) for number in range(os_bulk.BUFFERS_MAX + 10)]
    files.run(Copy("copy", (Step(0, tuple(many)),)))
    assert files.read("copy", 0, 10_000) == meant(many)


def test_what_was_copied_does_not_fill_the_page_cache(files: OsFiles) -> None:
    files.run(Copy("copy", (Step(0, (SOURCE,)),)))
    if not direct_is_possible(files):
        pytest.skip("this file system has no O_DIRECT")
    assert files.peek("copy", PAGE_BYTES, 100) is None
    assert files.run(Load("copy", PAGE_BYTES, 100)) == SOURCE[PAGE_BYTES : PAGE_BYTES + 100]


def direct_is_possible(files: OsFiles) -> bool:
    with files._direct("source", SOURCE_BYTES) as direct:  # the one place that knows
        return direct is not None and os.fstatvfs(direct).f_bsize == PAGE_BYTES


@pytest.mark.parametrize("refused", ["open", "write"])
def test_where_nothing_can_be_written_past_the_cache_it_goes_through_it(
    files: OsFiles, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, pwrite = os.open, os.pwrite
    direct: set[int] = set()
    tries = []

    def open_(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_DIRECT and refused == "open":
            tries.append(path)
            raise OSError(errno.EINVAL, "Invalid argument")
        fd = opened(path, flags, *args, **options)
        if flags & os.O_DIRECT:
            direct.add(fd)
        return fd

    def write(fd: int, data: Buffer, offset: int) -> int:
        if fd in direct:
            tries.append(fd)
            raise OSError(errno.EINVAL, "Invalid argument")
        return pwrite(fd, data, offset)

    syncs = []
    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(os, "fdatasync", syncs.append)
    files.run(Copy("copy", (Step(100, (SOURCE,)),)))
    assert len(tries) == 1
    assert len(syncs) > SOURCE_BYTES // STAGE_BYTES, "a sync of the journal would wait behind all of it"
    monkeypatch.undo()
    assert files.read("copy", 100, SOURCE_BYTES + 1) == SOURCE


def test_short_write_is_completed(files: OsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite

    def short(fd: int, data: Buffer, offset: int) -> int:
        return pwrite(fd, data[: max(512, len(data) // 3 // 512 * 512)], offset)

    monkeypatch.setattr(os, "pwrite", short)
    files.run(Copy("copy", (Step(0, (SOURCE,)),)))
    monkeypatch.undo()
    assert files.read("copy", 0, SOURCE_BYTES + 1) == SOURCE


def test_failed_write_is_an_error(files: OsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwrite", failed)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        files.run(Copy("copy", (Step(0, (SOURCE,)),)))
    assert "copy" not in files.names()


@pytest.fixture
def bad_sectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that touches `UNREADABLE` fails."""
    preadv = os.preadv

    def spoilt(fd: int, into: Sequence[Buffer], offset: int) -> int:
        if offset < UNREADABLE.stop and UNREADABLE.start < offset + sum(map(len, into)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(fd, into, offset)

    monkeypatch.setattr(os, "preadv", spoilt)


PARTLY_BAD = (extent(50_000, 50_000), extent(150_000, 10), extent(200_000, 5_000))


def test_what_cannot_be_read_is_an_error(files: OsFiles, bad_sectors: None) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        files.run(Copy("copy", (Step(0, PARTLY_BAD),)))
    assert "copy" not in files.names()


def test_what_cannot_be_read_becomes_zeros_where_that_is_wanted(files: OsFiles, bad_sectors: None) -> None:
    files.run(Copy("copy", (Step(0, PARTLY_BAD),), or_zeros=True))
    good, _, last = PARTLY_BAD
    assert files.run(Load("copy", 0, 60_000)) == meant([good]) + bytes(10) + meant([last])


def test_source_that_ends_too_early_is_damage_or_zeros(files: OsFiles) -> None:
    beyond = Extent("source", SOURCE_BYTES - 10, 100_000)
    with pytest.raises(Damaged, match="source ends inside 100000 bytes"):
        files.run(Copy("copy", (Step(0, (beyond,)),)))
    files.run(Copy("copy", (Step(0, (beyond, b"behind")),), or_zeros=True))
    assert files.read("copy", 0, 200_000) == SOURCE[-10:] + bytes(99_990) + b"behind"
