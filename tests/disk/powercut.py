"""The power is cut while clients work, again and again; then the checker judges what they saw.

    python -m tests.disk.powercut [--cuts N] [--seed S] [--kind ext4|xfs] [--directory DIR]

The broker, its clients and the judge are those of `tests.crash`. The broker's data lies on a disk of its own;
a cut stops that disk from one instant to the next, with some of what was not synced written and some not.
What the disk has is then all there is. The broker dies of the cut itself, or is killed after it.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path
from random import Random

from tests.crash.lives import Lives
from tests.crash.run import Judged, run
from tests.disk.disks import MIB, Disk, disk, scatter

CANNOT_START, STORAGE_FAILED = 1, 4
"""Exit codes."""
DISK_BYTES = 512 * MIB
SCRIPT = """
import os, random, sys, threading
from penstock_broker.__main__ import command

fdatasync, pause = os.fdatasync, threading.Event().wait
{}
sys.exit(command(sys.argv[1:]))
"""
SLOW = SCRIPT.format(
    """
def slow(fd):
    pause(random.random() / 100)
    fdatasync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

os.fdatasync = slow
"""
)
"""Syncs take up to 10 ms longer, so that a cut often finds something written and not synced; and the kernel
keeps what is written next in small pieces, so that it can be half written."""
UNSYNCED = SCRIPT.format(
    """
from penstock_broker.storage.os_files import OsFiles

write = OsFiles._write
OsFiles._write = lambda files, job: write(files, job._replace(sync=False))
"""
)
"""It believes that its journal is synced. Files are made as they are: where their blocks were not durable,
either, ext4 would write what stands in them when its own journal is flushed."""


class CutLives(Lives):
    """They end with the power. `torn`: starts that found a block half written."""

    endings = Lives.endings | {CANNOT_START, STORAGE_FAILED}
    excused = frozenset({"Corrupt", "DiskFull"})
    """On a disk that is gone nothing can be read, and no file made."""
    confirms_min, settles_min = 200, 50

    def __init__(self, directory: Path, random: Random, on: Disk) -> None:
        super().__init__(directory, random)
        self.data = on.root / "data"
        self.torn = 0
        self._disk = on

    async def start(self, script: str | None = None) -> None:
        """On the disk as the cut has left it."""
        if script is None and self._random.random() < 0.75:
            script = SLOW
        broker = self._spawn(script)
        await asyncio.to_thread(broker.wait_ready)
        self.torn += '"torn_tail_cut"' in broker.log()

    async def kill(self) -> None:
        """A cut. Half of the time the broker goes on until it notices, which is to end it."""
        if self._random.random() < 0.5:
            self.fell()
            return
        assert self._broker is not None
        self._cut()
        code = await asyncio.to_thread(self._broker.wait)
        assert code == STORAGE_FAILED, f"a broker without a disk ended with {code}: {self._broker.log()}"
        super().fell()
        self._disk.remount()

    def fell(self) -> None:
        """A cut, and whatever state the broker is in, it is over."""
        self._cut()
        super().fell()
        self._disk.remount()

    def _cut(self) -> None:
        kinds = ("journal", "segment", "checkpoint") if self._random.random() < 0.7 else ()
        for kind in kinds:
            for path in sorted(self.data.glob(f"{kind}-*"))[-4:]:
                scatter(path, self._random)
        self._disk.cut_power(self._random)


def main() -> None:
    """Run by hand; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.disk.powercut", description=__doc__)
    parser.add_argument("--cuts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=("ext4", "xfs"), default="ext4")
    parser.add_argument("--directory", type=Path, help="a new one for the evidence, which is kept")
    given = parser.parse_args()
    directory = given.directory or Path(tempfile.mkdtemp()) / "penstock-powercut"
    directory.mkdir(parents=True)
    logging.getLogger("penstock").setLevel(logging.ERROR)  # that settles come too late is what happens here
    print(f"seed {given.seed}, {given.kind}, evidence in {directory}")
    wrong: list[Exception] = []
    with disk(DISK_BYTES, given.kind) as on:

        def lives_in(directory: Path, random: Random) -> Lives:
            return CutLives(directory, random, on)

        try:
            asyncio.run(run(directory, given.cuts, given.seed, lives_in=lives_in))
        except* (Judged, AssertionError, TimeoutError) as group:
            wrong += group.exceptions
    print(*wrong or ["nothing confirmed was lost, nothing acked came back"], sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
