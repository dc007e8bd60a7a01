"""The first sync that fails is the last: nothing is confirmed after it, and nothing that was is missing when
memory has been forgotten.

`python -m tests.disk.fsyncgate` is the same by hand, with more runs.
"""

from pathlib import Path

import pytest

from tests.disk.fsyncgate import BEFORE, RETRYING, runs
from tests.disk.powercut import STORAGE_FAILED

pytestmark = pytest.mark.root

RUNS, SEED = 5, 1


@pytest.mark.covers(
    *("enqueue", "receive/lease", "ack", "produce", "fetch", "offsets"),
    *("failed write/sync",),
)
def test_broker_ends_with_the_first_failed_sync_and_has_all_it_confirmed(tmp_path: Path) -> None:
    outcomes = runs(RUNS, SEED, tmp_path, None, print)
    assert [outcome.code for outcome in outcomes] == [STORAGE_FAILED] * RUNS
    assert [outcome.lost for outcome in outcomes] == [[]] * RUNS
    assert min(outcome.confirmed for outcome in outcomes) >= BEFORE


def test_broker_that_syncs_once_more_loses_what_it_confirmed(tmp_path: Path) -> None:
    (outcome,) = runs(1, SEED, tmp_path, RETRYING, print)
    assert outcome.code is None
    assert outcome.lost
