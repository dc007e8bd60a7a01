"""Python as a process of its own; commands run in this one."""

import os
import subprocess
import sys

import pytest

from penstock.cli import COMMANDS
from penstock.cli.command import Call
from penstock.cli.output import Output


@pytest.fixture
def run_python():
    """Run a program; what it printed."""

    def run(program):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    return run


@pytest.fixture
def said():
    """Run a command line against a fake client; what it printed."""

    async def run(client, *argv):
        name = " ".join(argv[:2])
        options = COMMANDS[name].parse(argv[2:])
        reader, writer = os.pipe()
        try:
            await COMMANDS[name].run(Call(client, options, Output(json=options.json, fd=writer)))
            os.close(writer)
            writer = -1
            with os.fdopen(reader, "rb", closefd=False) as out:
                return out.read().decode()
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)

    return run
