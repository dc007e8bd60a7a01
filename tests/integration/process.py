"""One life of a broker process, and what it said."""

import json
import os
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

START_SECONDS = 30
STOP_SECONDS = 40


class BrokerProcess:
    """`python -m penstock_broker` on free ports; `script`: Python to run in its place, as `python -c`."""

    def __init__(
        self, data: Path, log: Path, flags: Sequence[str], environ: dict[str, str], script: str | None
    ) -> None:
        self.data = data
        self._log = log
        program = ["-m", "penstock_broker"] if script is None else ["-c", script]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        ports = [] if "--port" in flags else ["--port", "0", "--http-port", "0"]
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, *program, "--data", str(data), *ports, *flags],
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=inherited | environ,
            )
        self.pid = self._process.pid
        self.ready: dict[str, str] = {}

    def wait_ready(self) -> "BrokerProcess":
        """Wait for the ready line."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
        line = self._process.stdout.readline() if readable else b""
        assert line, f"the broker did not start: {self.log()}"
        self.ready = json.loads(line)
        return self

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect to."""
        host, _, port = self.ready["tcp"].rpartition(":")
        return host, int(port)

    @property
    def url(self) -> str:
        """What `penstock.connect` takes."""
        return f"penstock://{self.ready['tcp']}"

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of an HTTP request."""
        try:
            with urllib.request.urlopen(f"http://{self.ready['http']}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end; the exit code."""
        return self._process.wait(STOP_SECONDS)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> int:
        """kill -9, if it still runs; the exit code."""
        self._process.kill()
        code = self._process.wait(STOP_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def log(self) -> str:
        """What it said on stderr so far."""
        return self._log.read_text("utf-8")

    def events(self) -> list[dict[str, Any]]:
        """Its log, line by line."""
        return [json.loads(line) for line in self.log().splitlines()]
