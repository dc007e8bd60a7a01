"""The table of features and faults is what the tests say, and no feature is left out of a common fault."""

import subprocess
import sys

from tests.coverage_table import FAULTS, FEATURES, TABLE

COMMON = ("kill -9", "power cut", "restart", "torn write", "failed write/sync")
"""What can befall every feature that leaves something behind."""


def test_table_is_that_of_the_marks() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.coverage_table", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, f"make it anew: python -m tests.coverage_table\n{done.stdout[-2_000:]}"


def test_every_feature_is_tried_under_every_common_fault() -> None:
    rows = [line.strip("| ").split(" | ") for line in TABLE.read_text("utf-8").splitlines()]
    cells = {row[0]: dict(zip(FAULTS, row[1:], strict=True)) for row in rows if row[0] in FEATURES}
    assert [(f, fault) for f in FEATURES for fault in COMMON if cells[f][fault] == "–"] == []
