"""`penstock …` as a process, with what a user would look at: exit code, stdout, one line on stderr."""

import json
import os
import select
import subprocess
import sys
from typing import Any

from tests.integration.process import BrokerProcess

PENSTOCK = [sys.executable, "-c", "import sys; from penstock.cli import main; sys.exit(main())"]
SECONDS = 60


class Cli:
    """`penstock …` against one broker."""

    def __init__(self, broker: BrokerProcess) -> None:
        host, port = broker.address
        self.environ = {**os.environ, "PENSTOCK_URL": f"penstock://{host}:{port}"}
        self.started: list[subprocess.Popen[bytes]] = []

    def run(self, *argv: str | bytes, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end."""
        return subprocess.run(
            [*PENSTOCK, *argv],
            input=stdin,
            env=self.environ,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )

    def __call__(self, *argv: str | bytes, stdin: bytes = b"") -> bytes:
        """What a command prints that succeeds and has nothing to complain about."""
        done = self.run(*argv, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout

    def objects(self, *argv: str | bytes, stdin: bytes = b"") -> list[dict[str, Any]]:
        """What it prints with `--json`."""
        return [json.loads(line) for line in self(*argv, "--json", stdin=stdin).splitlines()]

    def fails(self, *argv: str | bytes, stdin: bytes = b"") -> tuple[int, str]:
        """Exit code and the one line on stderr of a command that prints nothing else."""
        done = self.run(*argv, stdin=stdin)
        assert done.stdout == b""
        assert done.stderr.startswith(b"penstock: ")
        assert done.stderr.count(b"\n") == 1
        return done.returncode, done.stderr.decode()

    def start(self, *argv: str) -> "subprocess.Popen[bytes]":
        """A command that goes on, with pipes on all sides."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [*PENSTOCK, *argv], bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, env=self.environ
        )
        self.started.append(process)
        return process

    def stats(self, queue: str) -> dict[str, int]:
        """The counts of a queue."""
        counts: dict[str, int] = self.objects("queue", "describe", queue)[0]["stats"]
        return counts


def line(process: "subprocess.Popen[bytes]") -> bytes:
    """The next line it prints; nothing behind it is read."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], SECONDS)
    assert ready, "nothing was printed"
    printed = process.stdout.readline()
    assert printed, "it ended"
    return printed


def say(process: "subprocess.Popen[bytes]", text: bytes) -> None:
    """Write to its stdin."""
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


def ended(process: "subprocess.Popen[bytes]") -> tuple[int, bytes]:
    """Its exit code and what it said on stderr."""
    _, err = process.communicate(timeout=SECONDS)
    return process.returncode, err
