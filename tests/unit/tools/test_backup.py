"""Backup while the source goes on: the copy is whole, or it is not there."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.unit.storage.one_node import OneNode
from tests.unit.tools.ground import began

from penstock_broker.storage.files import PAGE_BYTES, StorageError
from penstock_broker.tools.backup import ATTEMPTS, copy
from penstock_broker.tools.command import Failed
from penstock_broker.tools.directory import Destination, Directory
from penstock_broker.tools.doctor import examine, study, summary


class Busy(Directory):
    """A directory that changes when files of it are read; as if a broker had it."""

    def __init__(self, path: Path, meanwhile: Callable[[str, int], None]) -> None:
        self._meanwhile = meanwhile
        super().__init__(path)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Read now, and let something happen."""
        data = super().read(name, offset, length)
        self._meanwhile(name, offset)
        return data

    def in_use(self) -> str | None:
        """A broker is at work."""
        return "1"


def on_disk(node: OneNode, path: Path) -> Path:
    """The directory of a life in memory, as files."""
    path.mkdir()
    for name, inode in node.files.disk.names.items():
        (path / name).write_bytes(inode.shown)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three journal files with messages 1 to 7, two of which are full; a checkpoint."""
    return on_disk(began().checkpoint(), tmp_path / "source")


@pytest.fixture
def destination(tmp_path: Path) -> Iterator[Destination]:
    """Where the backup goes."""
    with closing(Destination(tmp_path / "copy")) as made:
        yield made


def messages_in(path: Path) -> int:
    with closing(Directory(path)) as directory:
        case = study(directory)
        assert not any(found.damage for found in examine(case))
        messages: int = summary(case)["messages"]
        return messages


def test_copy_of_a_directory_at_rest_is_whole(source: Path, destination: Destination) -> None:
    with closing(Directory(source)) as directory:
        copy(directory, destination)
    assert messages_in(destination.path) == 7


def test_block_that_is_half_written_is_not_copied(source: Path, destination: Destination) -> None:
    newest = max(path for path in source.glob("journal-*") if any(path.read_bytes()[PAGE_BYTES:]))
    data = newest.read_bytes()
    half = data.rstrip(b"\0")
    newest.write_bytes(half[:-20].ljust(len(data), b"\0"))
    with closing(Directory(source)) as directory:
        copy(directory, destination)
    kept = (destination.path / newest.name).read_bytes()
    whole = len(kept.rstrip(b"\0"))
    assert len(kept) == len(data)
    assert kept[:whole] == data[:whole]
    assert whole < len(half) // PAGE_BYTES * PAGE_BYTES


def test_segment_that_is_dropped_meanwhile_is_kept_in_the_copy(
    tmp_path: Path, destination: Destination
) -> None:
    node = began().archive()
    path = on_disk(node, tmp_path / "source")
    (segment,) = path.glob("segment-*")

    def drop(name: str, _: int) -> None:
        if name.startswith("journal-"):
            segment.unlink(missing_ok=True)

    with closing(Busy(path, drop)) as directory:
        copy(directory, destination)
    assert messages_in(destination.path) == 7


def test_source_that_always_goes_on_is_given_up_and_nothing_is_left(
    source: Path, destination: Destination, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = max(path for path in source.glob("journal-*") if any(path.read_bytes()[PAGE_BYTES:]))
    recycled = 0

    def recycle(name: str, offset: int) -> None:
        nonlocal recycled
        if name == newest.name and not offset:
            recycled += 1
            data = newest.read_bytes()
            newest.write_bytes(recycled.to_bytes(8, "little") + data[8:])

    with (
        closing(Busy(source, recycle)) as directory,
        pytest.raises(Failed, match="try again when it is less busy"),
    ):
        copy(directory, destination)
    assert list(destination.path.iterdir()) == []
    assert capsys.readouterr().err.count("the broker went on meanwhile") == ATTEMPTS


def test_source_that_cannot_be_read_leaves_nothing_behind(source: Path, destination: Destination) -> None:
    def fail(name: str, _: int) -> None:
        if name.startswith("journal-"):
            raise OSError(5, "Input/output error")

    with closing(Busy(source, fail)) as directory, pytest.raises(OSError, match="Input/output"):
        copy(directory, destination)
    assert list(destination.path.iterdir()) == []


def test_destination_must_be_new_or_empty(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(StorageError, match="not empty"):
        Destination(tmp_path)
    assert (tmp_path / "letter").read_text() == "dear"
