"""Disks to spoil: file systems of their own in image files, on loop devices. Needs root.

Everything lies under one directory whose name begins with `penstock-disk-`, and is taken down with it: who
works there, what is mounted, the files. What a run that was killed has left behind is taken down by the next
one; nothing else is ever touched.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from struct import pack, unpack
from typing import NamedTuple

PREFIX = "penstock-disk-"
OWNER = "owner"
"""Locked by the process that works in the directory; who finds it unlocked may take the directory down."""
MIB = 1 << 20
BLOCK_BYTES = 4096
GOING_DOWN, LOG_FLUSHED, LOG_LOST = 0x8004587D, 1, 2
"""FS_IOC_SHUTDOWN; with and without a last write of the file system's own journal."""
FIBMAP = 1
SYNC_NOW = 1 | 2 | 4
"""SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE, _WAIT_AFTER."""
PUNCH_HOLE = 1 | 2
"""FALLOC_FL_KEEP_SIZE, _PUNCH_HOLE."""
MAKE = {
    "ext4": (
        *("mkfs.ext4", "-q", "-F", "-b", str(BLOCK_BYTES)),
        *("-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"),
    ),
    "xfs": ("mkfs.xfs", "-q", "-f", "-K"),
}
"""Whole at once: what is zeroed later is punched out of the image, which gives a thin disk room again."""

_libc = ctypes.CDLL(None, use_errno=True)
for call in (_libc.sync_file_range, _libc.fallocate):
    call.restype = ctypes.c_int
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class NoDisks(Exception):
    """This process cannot have disks of its own, and why."""


class Disk:
    """A file system at `root`, in a sparse image at `image`."""

    def __init__(self, directory: Path, size: int, kind: str) -> None:
        self.root = directory / "root"
        self.image = directory / "below" / "image"
        self.image.parent.mkdir(exist_ok=True)
        self.root.mkdir()
        with self.image.open("wb") as image:
            image.truncate(size)
        _run(*MAKE[kind], str(self.image))
        self.mount()

    def mount(self) -> None:
        """Bring it up; its own journal is replayed then."""
        _run("mount", "-o", "loop", str(self.image), str(self.root))

    def unmount(self) -> None:
        """Take it down. Nothing of it is in the page cache then."""
        _run("umount", str(self.root))

    def remount(self) -> None:
        """Down and up: what is read now comes from the image."""
        self.unmount()
        self.mount()

    def cut_power(self, random: Random) -> None:
        """From here on nothing reaches the image any more: what was not synced is lost at the remount."""
        with _opened(self.root, os.O_RDONLY) as fd:
            fcntl.ioctl(fd, GOING_DOWN, pack("I", random.choice((LOG_FLUSHED, LOG_LOST))))

    def free(self) -> int:
        """Bytes that root could still write."""
        found = os.statvfs(self.root)
        return found.f_bfree * found.f_frsize


class ThinDisk(Disk):
    """A disk that has promised more than it has: blocks taken from it cannot be written any more, until
    `refill`. The sync that finds it out fails, and only that one."""

    def __init__(self, directory: Path, size: int, kind: str = "ext4") -> None:
        self._below = directory / "below"
        self._below.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={size + MIB}", PREFIX + "below", str(self._below))
        super().__init__(directory, size, kind)
        with _opened(self.image, os.O_RDWR) as image:
            os.posix_fallocate(image, 0, size)

    def take(self, path: Path) -> int:
        """Take the blocks of a file from the image, from the first one that holds zeros on; how many.

        The file must have been synced, and nobody may write to it meanwhile. What is taken is one run, so
        that a write fails as a whole: of one that fails half way a loop device says that it went well.
        """
        with _opened(path, os.O_RDONLY) as file, _opened(self.image, os.O_RDWR) as image:
            blocks = range(os.fstat(file).st_size // BLOCK_BYTES)
            written = [any(os.pread(file, BLOCK_BYTES, number * BLOCK_BYTES)) for number in blocks]
            taken = blocks[written.index(False) if False in written else len(blocks) :]
            for number in taken:
                (block,) = unpack("I", fcntl.ioctl(file, FIBMAP, pack("I", number)))
                _succeeds(_libc.fallocate(image, PUNCH_HOLE, block * BLOCK_BYTES, BLOCK_BYTES))
        return len(taken)

    def exhaust(self) -> None:
        """Leave no room for what was taken."""
        fill(self._below)

    def refill(self) -> None:
        """Everything can be written again."""
        empty(self._below)


class Filled(NamedTuple):
    """How `fill` went."""

    path: Path
    size: int


def fill(directory: Path, spare: int = 0) -> Filled:
    """Take all that is free on the file system of a directory, but `spare` bytes."""
    path = directory / "ballast"
    size = 0
    with _opened(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND) as fd, suppress(OSError):
        for chunk in (MIB, BLOCK_BYTES):
            with suppress(OSError):
                while True:
                    size += os.write(fd, bytes(chunk))
    os.truncate(path, max(0, path.stat().st_size - spare))
    return Filled(path, size)


def empty(directory: Path) -> None:
    """Give back what `fill` took."""
    (directory / "ballast").unlink(missing_ok=True)


def scatter(path: Path, random: Random) -> None:
    """Bring some ranges of a file to the disk and leave the rest to chance: what is not synced
    persists in any order."""
    with suppress(FileNotFoundError), _opened(path, os.O_RDONLY) as fd:
        at, size = 0, os.fstat(fd).st_size
        while at < size:
            length = random.randint(1, 8) * BLOCK_BYTES
            if random.random() < 0.3:
                _succeeds(_libc.sync_file_range(fd, at, length, SYNC_NOW))
            at += length


# ---- Having them, and getting rid of them


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory for disks; all that is in it is taken down at the end."""
    sweep()
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    with _opened(directory / "new", os.O_CREAT | os.O_RDWR) as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        (directory / "new").rename(directory / OWNER)
        try:
            yield directory
        finally:
            take_down(directory)


@contextmanager
def disk(size: int, kind: str = "ext4") -> Iterator[Disk]:
    """A disk of so many bytes."""
    with workplace() as directory:
        yield Disk(directory, size, kind)


@contextmanager
def thin_disk(size: int) -> Iterator[ThinDisk]:
    """A disk that can run out of itself."""
    with workplace() as directory:
        yield ThinDisk(directory, size)


def probe() -> None:
    """Raises `NoDisks` where none can be had."""
    if os.geteuid() != 0:
        raise NoDisks("not root")
    try:
        with disk(4 * MIB):
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoDisks(getattr(error, "stderr", None) or str(error)) from error


def sweep() -> None:
    """Take down what runs that were killed have left behind."""
    for directory in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        if directory.is_symlink() or directory.stat().st_uid != os.getuid():
            continue
        with suppress(FileNotFoundError, BlockingIOError), _opened(directory / OWNER, os.O_RDWR) as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            take_down(directory)


def take_down(directory: Path) -> None:
    """End who works in the directory, unmount what is mounted in it, and remove it."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if bytes(directory) + b"/" in command.read_bytes() and command.parent.name != str(os.getpid()):
                os.kill(int(command.parent.name), signal.SIGKILL)
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if Path(mount).is_relative_to(directory):
            _run("umount", "--lazy", mount)  # who was killed may need a moment to be gone
    shutil.rmtree(directory)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})


def _succeeds(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
