"""The broker over its many lives: same data, same port, small files, so that it rolls, archives and
checkpoints all the time."""

import asyncio
import signal
from pathlib import Path
from random import Random

from penstock_loadtest.broker import free_port
from tests.integration.process import BrokerProcess

SMALL = (
    "storage.journal_budget_bytes=4MiB",
    "storage.journal_file_bytes_min=64KiB",
    "storage.journal_file_bytes_max=256KiB",
)
DOOMED = """
import os, signal, sys
from penstock_broker.__main__ import command
from penstock_broker.storage.os_files import OsFiles

jobs, run = int(os.environ["DIES_AT_JOB"]), OsFiles.run

def fatal(self, job):
    global jobs
    jobs -= 1
    result = None if jobs < 0 else run(self, job)
    if jobs <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

OsFiles.run = fatal
sys.exit(command(sys.argv[1:]))
"""
"""It kills itself behind its n-th file job."""
JOBS_MAX = 10
"""A start does four to six, then come those of the first requests."""


class Lives:
    """`count`: how many there were; `cut_short`: how many ended before the broker was ready."""

    endings = frozenset({-signal.SIGKILL})
    """Exit codes a life may end with."""
    excused: frozenset[str] = frozenset()
    """Refusals that a broker may give on its way out, beside those of a live one."""
    durability = "fsync"
    confirms_min, settles_min = 1_000, 200
    """What a life must do before it is ended; by chance up to twice as much."""

    def __init__(self, directory: Path, random: Random) -> None:
        self.data = directory / "data"
        self.count = 0
        self.cut_short = 0
        self._directory = directory
        self._random = random
        self._port = free_port()
        self._broker: BrokerProcess | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, in every life."""
        return "127.0.0.1", self._port

    def _spawn(self, script: str | None = None, **environ: str) -> BrokerProcess:
        self.count += 1
        sets = [flag for setting in SMALL for flag in ("--set", setting)]
        flags = ["--port", str(self._port), "--http-port", "0", "--durability", self.durability, *sets]
        self._broker = BrokerProcess(
            self.data, self._directory / f"broker-{self.count}.log", flags, environ, script
        )
        return self._broker

    async def start(self) -> None:
        """Until it is ready."""
        await asyncio.to_thread(self._spawn().wait_ready)

    async def kill(self) -> None:
        """End a life in which it has served."""
        self.fell()

    def fell(self) -> None:
        """kill -9. It must have been alive until then."""
        assert self._broker is not None
        code = self._broker.kill()
        assert code in self.endings, f"the broker had ended with {code}: {self._broker.log()}"

    async def die_young(self) -> None:
        """A life that ends in its recovery, or with its first requests: at some file job, or at some time."""
        if self._random.random() < 0.5:
            broker = self._spawn(DOOMED, DIES_AT_JOB=str(self._random.randint(1, JOBS_MAX)))
            await asyncio.to_thread(broker.wait)
        else:
            broker = self._spawn()
            await asyncio.sleep(
                self._random.uniform(0, 0.6)
            )  # nothing is waited for: the moment is the fault
        self.fell()
        self.cut_short += '"event": "ready"' not in broker.log()

    def files(self) -> set[str]:
        """Names in the data directory."""
        return {path.name for path in self.data.iterdir()}

    def stop(self) -> None:
        """SIGTERM. It must drain and end well."""
        assert self._broker is not None
        assert self._broker.stop() == 0, self._broker.log()

    def end(self) -> None:
        """Whatever state it is in."""
        if self._broker is not None:
            self._broker.kill()
