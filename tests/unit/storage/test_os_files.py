"""The real disk behind the protocol `Files`."""

import errno
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock_broker.storage import os_files
from penstock_broker.storage.files import (
    Copy,
    Damaged,
    Drop,
    Extent,
    Load,
    Prepare,
    Step,
    StorageError,
    Write,
)
from penstock_broker.storage.os_files import OsFiles
from penstock_protocol.checksum import crc32

SIZE = 64 * 1024


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OsFiles]:
    files = OsFiles(tmp_path / "data")
    files.lock()
    yield files
    files.close()


@pytest.fixture
def largest_file() -> Iterator[int]:
    """No file of this process can grow beyond so many bytes: a disk that is full at a known place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, hard))
    yield SIZE
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def prepare(files: OsFiles, name: str, *, size: int = SIZE, recycle: str | None = None) -> None:
    files.run(Prepare(name, size, b"header of " + name.encode(), recycle))


# ---- The directory


def test_lock_makes_the_directory_and_what_is_missing_above_it(tmp_path: Path) -> None:
    files = OsFiles(tmp_path / "a" / "b" / "c")
    files.lock()
    assert files.names() == {}
    files.close()


def test_second_lock_is_refused_in_one_line_with_directory_and_process(tmp_path: Path) -> None:
    first, second = OsFiles(tmp_path), OsFiles(tmp_path)
    first.lock()
    with pytest.raises(StorageError) as refusal:
        second.lock()
    assert str(refusal.value) == f"data directory {tmp_path} is in use by process {os.getpid()}"
    first.close()
    second.lock()
    second.close()


def test_locking_twice_is_once(files: OsFiles) -> None:
    files.lock()
    assert files.names() == {}


def test_path_that_is_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=f"cannot be used: {tmp_path}/file: File exists"):
        OsFiles(tmp_path / "file" / "data").lock()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directory_without_write_permission_is_refused_in_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be used: lock: Permission denied"):
        OsFiles(tmp_path).lock()


def test_names_are_regular_files_without_the_lock(files: OsFiles, tmp_path: Path) -> None:
    prepare(files, "one")
    (tmp_path / "data" / "lost+found").mkdir()
    assert files.names() == {"one": SIZE}


def test_space_is_that_of_the_file_system(files: OsFiles) -> None:
    space = files.space()
    assert 0 < space.free <= space.total


def test_closed_files_hold_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    files = OsFiles(tmp_path)
    files.lock()
    prepare(files, "one")
    files.close()
    assert len(os.listdir("/proc/self/fd")) == before


# ---- Prepare


def test_prepared_file_has_its_header_and_zeros_and_no_holes(files: OsFiles, tmp_path: Path) -> None:
    prepare(files, "one", size=3 * os_files.STAGE_BYTES + 512)
    path = tmp_path / "data" / "one"
    content = path.read_bytes()
    assert content.rstrip(b"\0") == b"header of one"
    assert len(content) == 3 * os_files.STAGE_BYTES + 512
    assert path.stat().st_blocks * 512 >= len(content)


def test_recycled_file_keeps_its_size_and_takes_name_and_header(files: OsFiles) -> None:
    prepare(files, "old")
    files.run(Write("old", 4096, (b"left over",)))
    assert files.unmap("old")
    prepare(files, "new", recycle="old")
    assert files.names() == {"new": SIZE}
    assert bytes(files.view("new", 0, 13)) == b"header of new"
    assert bytes(files.view("new", 4096, 9)) == b"left over"


def test_file_still_mapped_is_not_recycled(files: OsFiles) -> None:
    prepare(files, "old")
    with pytest.raises(StorageError, match="mapped"):
        prepare(files, "new", recycle="old")
    assert files.names() == {"old": SIZE}


def test_failed_prepare_says_why_and_leaves_no_file(files: OsFiles, largest_file: int) -> None:
    with pytest.raises(OSError, match="File too large") as failure:
        prepare(files, "one", size=largest_file + 4096)
    assert failure.value.errno == errno.EFBIG
    assert files.names() == {}


def test_failed_recycling_leaves_neither_name(files: OsFiles, largest_file: int) -> None:
    prepare(files, "old")
    assert files.unmap("old")
    with pytest.raises(OSError, match="File too large"):
        prepare(files, "new", size=2 * largest_file, recycle="old")
    assert files.names() == {}


def test_prepare_never_touches_a_file_that_exists(files: OsFiles) -> None:
    prepare(files, "one")
    with pytest.raises(FileExistsError):
        prepare(files, "one")
    assert files.names() == {"one": SIZE}


# ---- Write, view, unmap


def test_written_bytes_are_seen_in_the_map(files: OsFiles) -> None:
    prepare(files, "one")
    files.run(Write("one", 4096, (b"first ", memoryview(b"second"))))
    assert bytes(files.view("one", 4096, 12)) == b"first second"


def test_more_buffers_than_one_call_takes_are_all_written(files: OsFiles) -> None:
    prepare(files, "one")
    pieces = tuple(bytes([number % 251]) for number in range(3 * os_files.BUFFERS_MAX + 1))
    files.run(Write("one", 4096, pieces))
    assert bytes(files.view("one", 4096, len(pieces))) == b"".join(pieces)


def test_short_write_is_an_io_error(files: OsFiles, largest_file: int) -> None:
    prepare(files, "one")
    with pytest.raises(OSError, match="came back short") as failure:
        files.run(Write("one", largest_file - 4096, (bytes(8192),)))
    assert failure.value.errno == errno.EIO


def test_map_stays_open_while_a_view_of_it_lives(files: OsFiles) -> None:
    prepare(files, "one")
    view = files.view("one", 0, 6)
    assert not files.unmap("one")
    assert bytes(view) == b"header"
    view.release()
    assert files.unmap("one")
    assert files.unmap("one"), "what is not mapped needs no closing"


# ---- Load and peek


def test_load_is_short_at_the_end_of_the_file(files: OsFiles) -> None:
    prepare(files, "one")
    files.run(Write("one", SIZE - 4, (b"tail",)))
    assert files.run(Load("one", SIZE - 4, 100)) == b"tail"
    assert files.run(Load("one", SIZE, 100)) == b""


def test_missing_file_is_an_error_not_empty(files: OsFiles) -> None:
    with pytest.raises(FileNotFoundError):
        files.run(Load("none", 0, 1))


def forgotten(files: OsFiles, fd: int) -> bool:
    """Whether a look at the beginning of "one" found that the page cache has given it up. The first need not:
    somebody else may hold the page, and a look itself makes the kernel begin to read it again."""
    for _ in range(100):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if files.peek("one", 0, 13) is None:
            return True
    return False


def test_peek_gives_what_is_in_memory_and_none_for_what_is_not(files: OsFiles, tmp_path: Path) -> None:
    prepare(files, "one")
    fd = os.open(tmp_path / "data" / "one", os.O_RDONLY)
    try:
        try:
            os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
        except OSError as error:
            pytest.skip(f"this file system cannot look without waiting: {error}")
        assert files.peek("one", 0, 13) == b"header of one"
        assert files.run(Load("one", SIZE - 2, 100)) == bytes(2)
        assert files.peek("one", SIZE - 2, 100) == bytes(2)
        assert files.unmap("one"), "mapped pages are not given up"
        assert forgotten(files, fd)
        assert files.run(Load("one", 0, 13)) == b"header of one"
        assert files.peek("one", 0, 13) == b"header of one"
    finally:
        os.close(fd)


def test_peek_is_none_where_the_file_system_cannot_look_without_waiting(
    files: OsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    prepare(files, "one")
    monkeypatch.setattr(os, "preadv", unsupported)
    assert files.peek("one", 0, 1) is None


def test_peek_at_a_bad_sector_is_an_error(files: OsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad_sector(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    prepare(files, "one")
    monkeypatch.setattr(os, "preadv", bad_sector)
    with pytest.raises(OSError, match="Input/output"):
        files.peek("one", 0, 1)


# ---- What reads leave in the page cache


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int, int]]]:
    """What has left the page cache, of chunks of 4 KiB, of which two may stay: name, offset, length."""
    left: list[tuple[str, int, int]] = []

    def leaves(fd: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        left.append((Path(os.readlink(f"/proc/self/fd/{fd}")).name, offset, length))

    monkeypatch.setattr(os_files, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(os_files, "CACHED_CHUNKS_MAX", 2)
    monkeypatch.setattr(os, "posix_fadvise", leaves)
    return left


def test_longest_unread_leaves_the_page_cache(files: OsFiles, left: list[tuple[str, int, int]]) -> None:
    prepare(files, "one")
    prepare(files, "two")
    files.run(Load("one", 0, 100))
    files.run(Load("two", 5000, 100))
    files.run(Load("one", 4095, 1))  # again, so the other one is the longest unread
    assert left == []
    files.run(Load("one", 8192, 100))
    files.run(Load("one", 8192, 100))  # what has left leaves once
    assert left == [("two", 4096, 4096)]
    files.run(Load("two", 4096, 4097))  # of two chunks
    assert left == [("two", 4096, 4096), ("one", 0, 4096), ("one", 8192, 4096)]


def test_what_is_peeked_at_counts_as_read(files: OsFiles, left: list[tuple[str, int, int]]) -> None:
    prepare(files, "one")
    files.run(Load("one", 0, 8193))
    assert left == [("one", 0, 4096)]
    if files.peek("one", 0, 1) is None:
        pytest.skip("this file system cannot look without waiting")
    assert left == [("one", 0, 4096), ("one", 4096, 4096)]


def test_deleted_file_needs_not_leave_the_page_cache(
    files: OsFiles, left: list[tuple[str, int, int]]
) -> None:
    prepare(files, "one")
    prepare(files, "two")
    files.run(Load("one", 0, 4097))
    files.run(Drop("one"))
    files.run(Load("two", 0, 4097))
    assert left == []
    files.run(Load("two", 8192, 1))
    assert left == [("two", 0, 4096)]


# ---- Copy and Drop


def test_copy_writes_pieces_and_extents_step_by_step(files: OsFiles) -> None:
    prepare(files, "source")
    body = os.urandom(40_000)
    files.run(Write("source", 4096, (body,)))
    extent = Extent("source", 4096, len(body), crc32(body))
    steps = (Step(8192, (b"before ", extent, b" after")), Step(0, (b"index",)))
    assert files.run(Copy("copy", steps)) == 7 + len(body) + 6 + 5
    content = bytes(files.read("copy", 0, 100_000))
    assert content[:5] == b"index"
    assert content[8192:] == b"before " + body + b" after"


def test_copy_larger_than_a_chunk_is_whole(files: OsFiles) -> None:
    size = 2 * os_files.STAGE_BYTES + 77
    body = os.urandom(size)
    files.run(Copy("source", (Step(0, (body,)),)))
    files.run(Copy("copy", (Step(0, (Extent("source", 0, size, crc32(body)),)),)))
    assert files.read("copy", 0, size + 1) == body


def test_copy_leaves_no_hole_in_front_of_its_first_step(files: OsFiles, tmp_path: Path) -> None:
    files.run(Copy("copy", (Step(1 << 20, (b"tail",)),)))
    look = (tmp_path / "data" / "copy").stat()
    assert look.st_size == (1 << 20) + 4
    assert look.st_blocks * 512 >= look.st_size


def test_copy_into_a_file_that_exists_keeps_the_rest_of_it(files: OsFiles) -> None:
    files.run(Copy("copy", (Step(0, (b"aaaa",)),)))
    files.run(Copy("copy", (Step(1, (b"bb",)),)))
    assert files.read("copy", 0, 10) == b"abba"


@pytest.mark.parametrize(
    "extent",
    [
        pytest.param(Extent("source", 0, 100, crc32(bytes(100))), id="other bytes than recorded"),
        pytest.param(Extent("source", SIZE - 10, 100, None), id="beyond the end of the source"),
    ],
)
def test_damaged_extent_is_reported_and_the_new_file_is_gone(files: OsFiles, extent: Extent) -> None:
    prepare(files, "source")
    with pytest.raises(Damaged, match="source"):
        files.run(Copy("copy", (Step(0, (extent,)),)))
    assert files.names() == {"source": SIZE}


def test_copy_on_a_full_disk_says_so_and_leaves_no_new_file(files: OsFiles, largest_file: int) -> None:
    with pytest.raises(OSError, match="File too large"):
        files.run(Copy("copy", (Step(0, (bytes(largest_file + 1),)),)))
    assert files.names() == {}


def test_dropped_file_is_gone_and_its_name_is_free(files: OsFiles) -> None:
    prepare(files, "one")
    assert files.unmap("one")
    files.run(Drop("one"))
    assert files.names() == {}
    prepare(files, "one")
    assert files.names() == {"one": SIZE}


# ---- Descriptors


def test_file_that_is_forgotten_while_it_is_written_is_closed_behind_that(files: OsFiles) -> None:
    prepare(files, "source")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(10):
        with pytest.raises(Damaged):
            files.run(Copy(f"copy-{number}", (Step(0, (Extent("source", 0, 100, 1),)),)))
    assert len(os.listdir("/proc/self/fd")) == before


def test_open_files_are_bounded(files: OsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os_files, "DESCRIPTORS_MAX", 8)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(50):
        files.run(Copy(f"file-{number}", (Step(0, (b"content %d" % number,)),)))
    assert len(os.listdir("/proc/self/fd")) - before <= 8
    for number in range(50):
        assert files.read(f"file-{number}", 0, 100) == b"content %d" % number


def test_threads_read_the_right_files_while_descriptors_are_exchanged(
    files: OsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os_files, "DESCRIPTORS_MAX", 2)
    count = 6
    for number in range(count):
        files.run(Copy(f"file-{number}", (Step(0, (bytes([number]) * 4096,)),)))
    wrong: list[tuple[int, bytes]] = []

    def read_often(start: int) -> None:
        for turn in range(300):
            number = (start + turn) % count
            data = files.run(Load(f"file-{number}", 0, 4096))
            if data != bytes([number]) * 4096:
                wrong.append((number, bytes(data)))  # type: ignore[call-overload]

    threads = [threading.Thread(target=read_often, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
