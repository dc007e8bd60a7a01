"""A sync fails once and never again, as on a thin disk that has run out, and nothing may rest on it.

    python -m tests.disk.fsyncgate [--runs N] [--seed S]

The kernel tells of a failed write one sync, and then holds what was not written for clean: the next sync is
well, what is read comes from memory, and after a restart of the machine it is gone.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

from penstock_protocol.errors import Corrupt
from tests.disk.books import Books, Values, patiently
from tests.disk.disks import MIB, ThinDisk, thin_disk
from tests.disk.powercut import SCRIPT, STORAGE_FAILED
from tests.integration.process import BrokerProcess
from tests.integration.raw import RawClient

DISK_BYTES = 64 * MIB
BEFORE, AFTER = 40, 260
"""Batches written before and, if the broker lets them, after the disk has run out: all the files that were
ready then."""
SIZES = {
    "PENSTOCK_STORAGE_JOURNAL_BUDGET_BYTES": "16MiB",
    "PENSTOCK_STORAGE_JOURNAL_FILE_BYTES_MIN": "1MiB",
    "PENSTOCK_STORAGE_JOURNAL_FILE_BYTES_MAX": "1MiB",
}
"""A third of the budget is more than all the batches, so that neither the archiver nor a checkpoint saves
what only memory has."""
FILE_MAGIC = b"PSJF"
RETRYING = SCRIPT.format(
    """
def retried(fd):
    try:
        fdatasync(fd)
    except OSError:
        fdatasync(fd)

os.fdatasync = retried
"""
)
"""It believes the second answer."""


class Outcome(NamedTuple):
    """Of one run. `code`: the broker's exit code, None if it went on; `lost`: confirmed or seen, and gone."""

    code: int | None
    confirmed: int
    lost: list[str]


class Run:
    """One data directory on the disk, over some lives."""

    def __init__(self, disk: ThinDisk, logs: Path, random: Random) -> None:
        self._disk = disk
        self._random = random
        self._data = Path(tempfile.mkdtemp(dir=disk.root))
        self._log = logs / f"{self._data.name}.log"
        self._books = Books()

    def run(self, script: str | None = None) -> Outcome:
        """The disk runs out under a broker that runs `script`; the next ones are as they should be."""
        with self._life(script) as broker:
            code = self._spoil(broker)
        self._disk.refill()
        confirmed = dict(self._books.produced)
        lost = []
        for over_memory in (True, False):
            if not over_memory:
                self._disk.remount()
            try:
                with self._life() as broker:
                    seen = self._look(broker)
            except (AssertionError, Corrupt) as refused:  # to start, or where a checkpoint let it, to deliver
                return Outcome(code, len(confirmed), [*lost, str(refused)])
            lost += [
                f"{value} at {offset}" for offset, value in confirmed.items() if seen.get(offset) != value
            ]
            confirmed |= seen
        return Outcome(code, len(confirmed), lost)

    @contextmanager
    def _life(self, script: str | None = None) -> Iterator[BrokerProcess]:
        broker = BrokerProcess(self._data, self._log, [], SIZES, script)
        try:
            yield broker.wait_ready()
        finally:
            broker.kill()

    def _spoil(self, broker: BrokerProcess) -> int | None:
        with RawClient(broker.address) as client:
            self._books.open(client)
            for _ in range(BEFORE):
                self._produce(client)
            broker.signal(signal.SIGSTOP)
            try:
                self._take()
            finally:
                broker.signal(signal.SIGCONT)
            try:
                for _ in range(AFTER):
                    self._produce(client)
            except OSError:
                return broker.wait()
        return None

    def _produce(self, client: RawClient) -> None:
        patiently(lambda: self._books.produce(client))

    def _take(self) -> None:
        """What the journal has not written yet of its newest files, from one of them on, is taken from it."""
        subprocess.run(["sync", "--file-system", self._disk.root], check=True)
        ready = [path for path in sorted(self._data.glob("journal-*")) if _is_ready(path)]
        first = self._random.randrange(-3, 0)
        assert sum(map(self._disk.take, ready[first:])), "there was nothing left to write"
        self._disk.exhaust()

    def _look(self, broker: BrokerProcess) -> Values:
        """All that is there, and a bit more."""
        with RawClient(broker.address) as client:
            self._produce(client)
            return self._books.read(client)


def _is_ready(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(FILE_MAGIC)) == FILE_MAGIC


def runs(count: int, seed: int, logs: Path, script: str | None, say: Callable[[str], None]) -> list[Outcome]:
    """So many runs, each with a new data directory on a new disk."""
    random = Random(seed)
    outcomes = []
    for number in range(count):
        with thin_disk(DISK_BYTES) as disk:
            outcomes.append(Run(disk, logs, random).run(script))
        code, confirmed, lost = outcomes[-1]
        say(
            f"run {number + 1}: exit code {code}, {confirmed:,} confirmed or seen, {len(lost):,} of them lost"
        )
    return outcomes


def main() -> None:
    """Run by hand; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.disk.fsyncgate", description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    outcomes = runs(given.runs, given.seed, Path(tempfile.mkdtemp()), None, print)
    sys.exit(any(outcome.lost or outcome.code != STORAGE_FAILED for outcome in outcomes))


if __name__ == "__main__":
    main()
