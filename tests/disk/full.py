"""A disk that is full, by publishes, by somebody else, in the middle of an allocation; then there is room.

    python -m tests.disk.full [--seconds N] [--seed S]

By hand it churns: room comes and goes, the broker is killed and started on the full disk, and in the end
everything that was confirmed is there.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

from penstock_protocol.errors import Busy, DiskFull
from tests.disk.books import BODY_BYTES, Books, patiently
from tests.disk.disks import MIB, Disk, disk, empty, fill
from tests.disk.powercut import SCRIPT
from tests.integration.process import BrokerProcess
from tests.integration.raw import RawClient

DISK_BYTES = 32 * MIB
RECORD_BYTES = 100
SMALL = ("--set", "storage.journal_file_bytes_min=64KiB", "--set", "storage.journal_file_bytes_max=256KiB")
"""Files come and go fast."""
GREEDY = SCRIPT.format(
    """
from pathlib import Path
from threading import current_thread, main_thread
from penstock_broker.storage.files import Copy, Prepare
from penstock_broker.storage.os_files import OsFiles
from tests.disk.disks import fill

left, run = int(os.environ["ALLOCATIONS"]), OsFiles.run

def greedy(self, job):
    global left
    if current_thread() is not main_thread() and isinstance(job, (Copy, Prepare)):
        left -= 1
        if left == 0:
            fill(Path(os.environ["FILLS"]), int(os.environ["SPARES"]))
    return run(self, job)

OsFiles.run = greedy
"""
)
"""Behind its n-th allocation of disk space, somebody else has taken all there is but some bytes."""
PATHS = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
FULL_SECONDS = ROOM_SECONDS = 60.0
"""How long to wait for a refusal on a full disk, and for a confirm on one that has room: far more than it
takes."""


class Tenant:
    """A broker that has its data on a disk, over some lives, and a client that keeps the books."""

    def __init__(self, on: Disk, logs: Path, flags: Sequence[str] = ()) -> None:
        self.disk = on
        self.books = Books()
        self.data = on.root / "data"
        self._logs = logs
        self._flags = flags
        self._lives = 0
        self.broker: BrokerProcess
        self.client: RawClient

    @contextmanager
    def running(self, script: str | None = None, **environ: str) -> Iterator[None]:
        """Until the broker was stopped, or is killed at the end of the block."""
        self._lives += 1
        log = self._logs / f"broker-{self._lives}.log"
        self.broker = BrokerProcess(self.data, log, self._flags, {**PATHS, **environ}, script)
        try:
            self.broker.wait_ready()
            with RawClient(self.broker.address) as self.client:
                self.books.open(self.client)
                yield
        finally:
            self.broker.kill()

    def until_full(self, size: int = BODY_BYTES) -> DiskFull:
        """Enqueue until the broker refuses that for want of room."""
        end = time.monotonic() + FULL_SECONDS
        while time.monotonic() < end:
            try:
                self.books.enqueue(self.client, size)
            except DiskFull as refused:
                return refused
            except Busy:
                continue
        raise AssertionError("the disk never filled")

    def settle(self, most: int) -> None:
        """Receive, ack and commit, which a full disk must not prevent."""
        taken = self.books.take(self.client, most)
        assert taken or self.books.taken == self.books.enqueued, "a message is neither ready nor settled"
        if self.books.produced:
            self.books.commit(self.client, len(self.books.produced))

    def until_publishing(self) -> float:
        """Enqueue until the broker takes it; how many seconds that took."""
        began = time.monotonic()
        while time.monotonic() - began < ROOM_SECONDS:
            try:
                self.books.enqueue(self.client)
            except (DiskFull, Busy):
                continue
            return time.monotonic() - began
        raise AssertionError(f"there is room, and no message was taken in {ROOM_SECONDS} s")

    def close_the_books(self) -> None:
        """Everything confirmed is there, and nothing else: messages are taken, records read."""
        while self.books.take(self.client):
            pass
        assert self.books.taken == self.books.enqueued
        assert self.books.read(self.client) == self.books.produced

    def go_on_with_room(self) -> None:
        """Somebody else leaves: everything works, and everything is there."""
        empty(self.disk.root)
        print(f"{self.until_publishing():.2f} s from room to confirm")
        self.close_the_books()
        self.stop()

    def stop(self) -> None:
        """SIGTERM; it must still be alive, and end well."""
        code = self.broker.stop()
        assert code == 0, f"the broker ended with {code}: {self.broker.log()}"


def churn(tenant: Tenant, seconds: float, random: Random, say: Callable[[str], None]) -> None:
    """Room comes and goes, and so does the broker."""
    end, slowest, lives = time.monotonic() + seconds, 0.0, 0
    while time.monotonic() < end:
        lives += 1
        with tenant.running():
            patiently(lambda: tenant.books.produce(tenant.client, RECORD_BYTES))
            for _ in range(random.randint(1, 5)):
                if random.random() < 0.5:
                    fill(tenant.disk.root, random.choice((0, 5_000, 100_000, MIB)))
                tenant.until_full(random.choice((1_000, 10_000, 60_000)))
                tenant.settle(random.randint(1, 1_000))
                empty(tenant.disk.root)
                while tenant.books.take(tenant.client):
                    pass
                slowest = max(slowest, tenant.until_publishing())
    with tenant.running():
        tenant.close_the_books()
        tenant.stop()
    enqueued, produced = len(tenant.books.enqueued), len(tenant.books.produced)
    say(f"{lives:,} lives, {enqueued:,} messages, {produced:,} records, {slowest:.2f} s from room to confirm")


def main() -> None:
    """Run by hand; an assertion fails if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.disk.full", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3_600)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with disk(DISK_BYTES) as on:
        logs = Path(tempfile.mkdtemp())
        print(f"seed {given.seed}, logs in {logs}")
        churn(Tenant(on, logs, SMALL), given.seconds, Random(given.seed), print)


if __name__ == "__main__":
    main()
