"""What a job changes is on stable storage when the job is done: every system call is watched."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock_broker.storage.files import Copy, Drop, Job, Prepare, Rename, Step, Sync, Write
from penstock_broker.storage.os_files import OsFiles

SIZE = 64 * 1024
NAMES = "the directory"
HEADER = b"header"


class Calls:
    """The calls that change files, in order, and what of that is not synced yet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, str]] = []
        self.unsynced: set[str] = set()
        self._patch = monkeypatch
        for name in ("pwrite", "pwritev", "ftruncate"):
            self._watch(name, lambda fd, *_: self._changed("write", of(fd)))
        for name in ("fdatasync", "fsync"):
            self._watch(name, lambda fd: self._synced(of(fd)))
        for name in ("rename", "unlink"):
            self._watch(name, lambda *_, name=name, **__: self._changed(name, NAMES))
        self._watch("open", self._opened)

    def _watch(self, name: str, watcher: Callable[..., None]) -> None:
        whole = getattr(os, name)

        def watched(*args: Any, **options: Any) -> Any:
            result = whole(*args, **options)
            watcher(*args, **options)
            return result

        self._patch.setattr(os, name, watched)

    def _opened(self, path: str, flags: int, *_: object, **__: object) -> None:
        if flags & os.O_CREAT:
            self._changed("create", NAMES)

    def _changed(self, how: str, what: str) -> None:
        self.made.append((how, what))
        self.unsynced.add(what)

    def _synced(self, what: str) -> None:
        self.made.append(("sync", what))
        self.unsynced.discard(what)


def of(fd: int) -> str:
    path = Path(f"/proc/self/fd/{fd}").readlink()
    return NAMES if path.is_dir() else path.name


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OsFiles]:
    files = OsFiles(tmp_path / "data")
    files.lock()
    files.run(Prepare("a", SIZE, HEADER, None))
    files.run(Prepare("b", SIZE, HEADER, None))
    assert files.unmap("b")
    yield files
    files.close()


JOBS: dict[str, Job] = {
    "prepare": Prepare("c", SIZE, HEADER, None),
    "recycle": Prepare("c", SIZE, HEADER, "b"),
    "write": Write("a", 4096, (b"block",)),
    "copy": Copy("c", (Step(0, (b"bytes",)),)),
    "copy into a file that exists": Copy("b", (Step(0, (b"bytes",)),)),
    "drop": Drop("b"),
    "rename": Rename("b", "c"),
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_what_a_job_changes_is_synced_before_it_is_done(
    files: OsFiles, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    files.run(job)
    assert any(how != "sync" for how, _ in calls.made)
    assert calls.unsynced == set()


def test_write_that_need_not_sync_leaves_that_to_a_sync(
    files: OsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    files.run(Write("a", 4096, (b"block",), False))
    assert calls.unsynced == {"a"}
    files.run(Sync("a"))
    assert calls.unsynced == set()


def test_copy_syncs_each_step_before_the_next_begins(files: OsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    files.run(Copy("b", (Step(0, (b"first",)), Step(4096, (b"second",)))))
    assert calls.made == [("write", "b"), ("sync", "b")] * 2 + [("sync", NAMES)]


def test_failed_sync_is_an_error_and_is_not_tried_again(
    files: OsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def failing(fd: int) -> None:
        tries.append(fd)
        if len(tries) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        files.run(Write("a", 4096, (b"block",)))
    assert len(tries) == 1
