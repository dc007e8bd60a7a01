"""Files in memory do what files on a real disk do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.memory_files import MemoryFiles

from penstock_broker.storage.files import (
    Copy,
    Damaged,
    Drop,
    Extent,
    Files,
    Load,
    Prepare,
    Step,
    StorageError,
    Write,
)
from penstock_broker.storage.os_files import OsFiles
from penstock_protocol.checksum import crc32

SIZE = 64 * 1024


@pytest.fixture(params=["memory", "os"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Files]:
    found: Files = MemoryFiles() if request.param == "memory" else OsFiles(tmp_path)
    found.lock()
    found.run(Prepare("a", SIZE, b"header", None))
    yield found
    found.close()


def test_prepared_file_has_its_header_zeros_and_size(files: Files) -> None:
    assert files.names() == {"a": SIZE}
    assert files.read("a", 0, SIZE + 1) == b"header".ljust(SIZE, b"\0")
    assert files.peek("a", SIZE - 1, 10) == b"\0"


def test_write_is_seen_by_read_load_and_view(files: Files) -> None:
    view = files.view("a", 4096, 7)
    assert files.run(Write("a", 4096, (b"one ", memoryview(b"two")))) is None
    assert view == files.read("a", 4096, 7) == files.run(Load("a", 4096, 7)) == b"one two"
    with pytest.raises(TypeError):
        view[0] = 0


def test_recycled_file_takes_name_and_header_and_keeps_the_rest(files: Files) -> None:
    files.run(Write("a", 4096, (b"old",)))
    assert files.unmap("a")
    files.run(Prepare("b", SIZE, b"HEADER", "a"))
    assert files.names() == {"b": SIZE}
    assert (files.read("b", 0, 7), files.read("b", 4096, 3)) == (b"HEADER\0", b"old")
    assert bytes(files.view("b", 0, 6)) == b"HEADER"


def test_mapped_file_is_not_recycled(files: Files) -> None:
    with pytest.raises(StorageError, match="while it is mapped"):
        files.run(Prepare("b", SIZE, b"", "a"))
    assert files.names() == {"a": SIZE}


def test_view_pins_the_map_until_its_last_slice_is_gone(files: Files) -> None:
    view = files.view("a", 0, 6)
    piece = view[2:4]
    view.release()
    assert not files.unmap("a")
    assert bytes(piece) == b"ad"
    piece.release()
    assert files.unmap("a")
    assert files.unmap("a")


def test_prepare_never_touches_a_file_that_exists(files: Files) -> None:
    with pytest.raises(FileExistsError):
        files.run(Prepare("a", SIZE, b"other", None))
    assert files.read("a", 0, 6) == b"header"


def test_missing_file_is_an_error(files: Files) -> None:
    for job in (Load("b", 0, 1), Drop("b"), Write("b", 0, (b"x",)), Prepare("c", SIZE, b"", "b")):
        with pytest.raises(FileNotFoundError):
            files.run(job)
    assert files.names() == {"a": SIZE}


def test_copy_gathers_bytes_and_extents(files: Files) -> None:
    extent = Extent("a", 0, 6, crc32(b"header"))
    assert files.run(Copy("b", (Step(3, (b"<", extent, b">")), Step(20, (extent,))))) == 14
    assert files.read("b", 0, 100) == b"\0\0\0<header>".ljust(20, b"\0") + b"header"


def test_copy_into_a_file_that_exists_keeps_what_it_does_not_cover(files: Files) -> None:
    files.run(Copy("a", (Step(2, (b"XX",)),)))
    assert files.read("a", 0, 7) == b"heXXer\0"


@pytest.mark.parametrize(
    "extent", [Extent("a", 0, 6, 1), Extent("a", SIZE - 3, 6)], ids=["rotten", "cut short"]
)
def test_damaged_extent_is_reported_and_no_new_file_stays(files: Files, extent: Extent) -> None:
    with pytest.raises(Damaged):
        files.run(Copy("b", (Step(0, (b"before", extent)),)))
    assert files.names() == {"a": SIZE}


def test_dropped_file_is_gone_and_its_views_live_on(files: Files) -> None:
    view = files.view("a", 0, 6)
    files.run(Drop("a"))
    assert files.names() == {}
    assert bytes(view) == b"header"
    view.release()
    assert files.unmap("a")


def test_space_is_some_of_all(files: Files) -> None:
    space = files.space()
    assert 0 < space.free < space.total
