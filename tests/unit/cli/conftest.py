"""Python as a process of its own."""

import subprocess
import sys

import pytest


@pytest.fixture
def run_python():
    """Run a program; what it printed."""

    def run(program):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    return run
