"""A broker process of one's own: started on a directory, watched, stopped or killed."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

READY_SECONDS_MAX = 60.0
PORTS = range(10_000, 32_000)
"""Below those that the kernel gives to clients (Linux: 32768 and up). A client that keeps connecting to a
broker that is down would otherwise be given the broker's own port one day, and be connected to itself."""


class Usage(NamedTuple):
    """CPU seconds so far, anonymous resident memory in bytes, open file descriptors."""

    user: float
    system: float
    rss_anon: int
    descriptors: int

    @property
    def cpu(self) -> float:
        """User and system seconds."""
        return self.user + self.system


def usage_of(pids: list[int]) -> Usage:
    """What some processes have used so far, together (Linux)."""
    ticks = os.sysconf("SC_CLK_TCK")
    user = system = anon = descriptors = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        user, system = user + int(fields[11]), system + int(fields[12])
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        anon += int(found[1]) * 1024 if found else 0
        descriptors += len(os.listdir(f"/proc/{pid}/fd"))
    return Usage(user / ticks, system / ticks, anon, descriptors)


class Broker:
    """A broker in a process of its own, with its data in a directory that goes with it.

    It keeps its port when it is started again. As a context manager it stops the process and removes the
    directory.
    """

    def __init__(self, *, directory: str | None = None, settings: tuple[str, ...] = ()) -> None:
        self._own = directory is None
        self.directory = directory or tempfile.mkdtemp(prefix="penstock-", dir=roomy())
        self._settings = settings
        self._ports = ("--port", str(free_port()), "--http-port", "0")
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self.http = ""
        self.start_seconds = 0.0

    def start(self) -> "Broker":
        """Start it, and wait for its ready line. Raises `RuntimeError` if it does not come."""
        began = time.monotonic()
        sets = [part for setting in self._settings for part in ("--set", setting)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "penstock_broker", "--data", self.directory, *self._ports, *sets],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the broker ended with exit code {self.process.wait(READY_SECONDS_MAX)}")
        ready = json.loads(line)
        self.url = f"penstock://{ready['tcp']}"
        self.http = f"http://{ready['http']}"
        self.start_seconds = time.monotonic() - began
        return self

    def kill(self) -> None:
        """kill -9, as if the process had crashed."""
        assert self.process is not None
        self.process.kill()
        self.process.communicate()

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self.process is not None
        self.process.terminate()
        self.process.communicate(timeout=READY_SECONDS_MAX)
        return self.process.returncode

    def pids(self) -> list[int]:
        """The processes it consists of: one."""
        assert self.process is not None
        return [self.process.pid]

    def usage(self) -> Usage:
        """What the process has used so far."""
        return usage_of(self.pids())

    def __enter__(self) -> "Broker":
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.process is not None and self.process.poll() is None:
                self.stop()
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            if self._own:
                shutil.rmtree(self.directory, ignore_errors=True)


def free_port() -> int:
    """A port of `PORTS` that nobody listens on at the moment."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def roomy() -> str:
    """Where a data directory belongs: on a disk. /tmp is memory on some machines, there a sync is free."""
    here = Path.cwd() / "bench-results"
    here.mkdir(exist_ok=True)
    return str(here)
