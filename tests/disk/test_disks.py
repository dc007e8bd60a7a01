"""The disks themselves: they lose and fail as they shall, and leave nothing behind."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.disk.disks import BLOCK_BYTES, MIB, Disk, scatter, sweep, thin_disk

pytestmark = pytest.mark.root

KILLED = """
import sys
from tests.disk.disks import MIB, thin_disk

with thin_disk(8 * MIB) as disk:
    print(disk.root, flush=True)
    sys.stdin.read()
"""


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()


def test_cut_keeps_what_was_synced_and_loses_what_was_not(small_disk: Disk) -> None:
    synced, unsynced = small_disk.root / "synced", small_disk.root / "unsynced"
    synced.write_bytes(b"x")
    os.sync()
    unsynced.write_bytes(b"x")
    small_disk.cut_power(Random(1))
    with pytest.raises(OSError, match="Input/output"):
        synced.write_bytes(b"y")
    small_disk.remount()
    assert synced.read_bytes() == b"x"
    assert not unsynced.exists() or not unsynced.read_bytes()


def test_some_of_what_is_scattered_is_kept(small_disk: Disk) -> None:
    path, random = small_disk.root / "file", Random(1)
    path.write_bytes(bytes(MIB))
    os.sync()
    with path.open("r+b", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for at in range(0, MIB, 4 * BLOCK_BYTES):
            os.pwrite(file.fileno(), b"x" * BLOCK_BYTES, at)
    scatter(path, random)
    small_disk.cut_power(random)
    small_disk.remount()
    assert 0 < path.read_bytes().count(b"x") < MIB // 4


def test_thin_disk_fails_one_sync_and_forgets() -> None:
    with thin_disk(32 * MIB) as disk:
        path = disk.root / "file"
        path.write_bytes(bytes(MIB))
        with path.open("r+b", buffering=0) as file:
            os.fsync(file.fileno())
            assert disk.take(path) == MIB // BLOCK_BYTES
            disk.exhaust()
            file.write(b"x" * BLOCK_BYTES)
            with pytest.raises(OSError, match=r"error|space"):
                os.fdatasync(file.fileno())
            os.fdatasync(file.fileno())
        disk.refill()
        disk.remount()
        assert not path.read_bytes().strip(b"\0")


def test_what_a_killed_run_has_left_is_taken_down_by_the_next() -> None:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
    )
    with run:
        assert run.stdout is not None
        root = Path(run.stdout.readline().strip())
        sweep()
        assert str(root) in mounts(), "it is in use"
        run.kill()
    sweep()
    assert str(root.parent) not in mounts()
    assert not root.parent.exists()
