"""A server of somebody else: started on loopback with a directory of its own, and surely stopped.

Each runs under `setpriv` and `timeout` in a process group of its own, so that it ends even if nobody is left
to end it, and whatever it started ends with it.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from threading import Event
from time import monotonic
from types import TracebackType

from penstock_loadtest.broker import Usage, free_port, roomy, usage_of

LIFE_SECONDS_MAX = 3 * 3600
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
BOUNDS = ("setpriv", "--pdeathsig", "TERM", "timeout", "--kill-after=10", str(LIFE_SECONDS_MAX))
"""In front of every command: it ends with this process, however that ends, and after a time in any case."""
POLL_SECONDS = 0.1
INSTALL = "see loadtest/README.md, or run loadtest/peers/install.sh"


def program(name: str) -> str | None:
    """Where a program is, looked for where servers are installed as well."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


class PeerServer(ABC):
    """One server. As a context manager it is started, and stopped with its data removed."""

    url = ""
    PROGRAM = ""
    VERSION: tuple[str, ...] = ("--version",)

    def __init__(self, *settings: str) -> None:
        self._settings = settings
        self.directory = Path()
        self.port = 0
        self._processes: list[subprocess.Popen[bytes]] = []

    @classmethod
    def missing(cls) -> str | None:
        """What is not installed, if anything."""
        return None if program(cls.PROGRAM) else f"{cls.PROGRAM} is not installed: {INSTALL}"

    def versions(self) -> dict[str, str]:
        """Of the server; by running it."""
        found = subprocess.run(
            [program(self.PROGRAM) or self.PROGRAM, *self.VERSION],
            capture_output=True,
            text=True,
            check=False,
            timeout=START_SECONDS_MAX,
        )
        number = re.search(r"\d+\.\d+(\.\d+)?", found.stdout + found.stderr)
        return {self.PROGRAM: number[0] if number else "?"}

    @abstractmethod
    def launch(self) -> None:
        """Start its processes by `spawn`, with data below `directory`, listening on `port`; set `url`."""

    def ready(self) -> bool:
        """Whether it serves; by default, whether somebody listens on its port."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def spawn(self, *command: str, environment: dict[str, str] | None = None) -> None:
        """Start a process; its output goes to `log` in the directory."""
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [*BOUNDS, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._processes.append(process)

    def pids(self) -> list[int]:
        """Of every process of its groups, but for `timeout` itself."""
        groups = {process.pid for process in self._processes}
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdecimal() and int(entry.name) not in groups and _group(entry) in groups
        ]

    def usage(self) -> Usage:
        """What it used so far."""
        return usage_of(self.pids())

    def __enter__(self) -> "PeerServer":
        self.directory = Path(tempfile.mkdtemp(prefix="peer-", dir=roomy()))
        self.port = free_port()
        try:
            self.launch()
            self._await_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def _await_ready(self) -> None:
        until = monotonic() + START_SECONDS_MAX
        while not self.ready():
            for process in self._processes:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(POLL_SECONDS)
                    raise RuntimeError(f"{self.PROGRAM} ended with {code}: {self._last_words()}")
            if monotonic() > until:
                raise RuntimeError(f"{self.PROGRAM} does not serve after {START_SECONDS_MAX:g} s")

    def _last_words(self) -> str:
        lines = (self.directory / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        for process in reversed(self._processes):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS_MAX)
            with suppress(ProcessLookupError):  # what is left of the group
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        until = monotonic() + STOP_SECONDS_MAX
        while self.pids() and monotonic() < until:  # what was killed takes a moment to be gone
            Event().wait(POLL_SECONDS / 10)
        shutil.rmtree(self.directory, ignore_errors=True)


def _group(entry: Path) -> int:
    """The process group of an entry of /proc, 0 if it is gone or only its exit code is left."""
    try:
        state, _, group, *_ = (entry / "stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0
    return 0 if state == "Z" else int(group)
