"""Memory that was freed is there for the next block: no page of it is asked of the kernel again."""

import ctypes
import subprocess
import sys

import pytest

BLOCKS = 1_000
BLOCK_BYTES = 256 << 10
PAGES = BLOCKS * BLOCK_BYTES // 4096
PROGRAM = f"""
import resource, sys
from penstock_broker.server import memory
if sys.argv[1] == "kept":
    memory.keep_freed()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range({BLOCKS}):
    bytes(bytearray({BLOCK_BYTES}))
print(faults() - before)
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library is not glibc")
def test_freed_blocks_are_kept_for_the_next_ones() -> None:
    assert faults("kept") < PAGES / 10
