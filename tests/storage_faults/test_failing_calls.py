"""Whichever call fails, and however: nothing is confirmed that is lost, nothing refused that appears, and
the next start is clean. By hand, each call in every way, in another order of jobs: make failing-calls SEED=2
"""

from collections.abc import Callable
from typing import Any

import pytest
from tests.fakes.disk import Disk
from tests.storage_faults.crash_states import Tally
from tests.storage_faults.failing_calls import FAULTS, STALL, run_script
from tests.storage_faults.scripts import SCRIPTS

from penstock_broker.core import Core
from penstock_broker.storage.files import Job

PARTS = 8
RUNS_MIN = 2_000 // PARTS
SEED = 1


@pytest.mark.covers(
    *("enqueue", "receive/lease", "ack", "nack/retry", "dead letter", "purge"),
    *("create/alter/delete", "produce", "offsets", "producer dedup", "archive", "evacuation"),
    *("checkpoint", "durability modes"),
    *("failed write/sync", "read error", "stalled disk", "disk full"),
)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_call_may_fail(part: int) -> None:
    tally = Tally()
    for name in list(SCRIPTS)[part::PARTS]:
        run_script(name, SEED, tally, quick=True)
    print(f"{tally.counts.total():,} runs: {dict(tally.counts)}")
    assert tally.violations == []
    assert tally.counts.total() >= RUNS_MIN
    assert set(tally.counts) == {*FAULTS, STALL}


# ---- What must be noticed


def failed_writes_are_taken_for_done(patch: pytest.MonkeyPatch) -> None:
    whole = Core.done

    def done(core: Core, job: Job, result: object, *rest: Any) -> None:
        whole(core, job, None if isinstance(result, OSError) and "journal" in job.name else result, *rest)

    patch.setattr(Core, "done", done)


def failed_syncs_are_tried_again(patch: pytest.MonkeyPatch) -> None:
    whole = Disk.sync

    def sync(disk: Disk, name: str) -> Any:
        try:
            return whole(disk, name)
        except OSError:
            return whole(disk, name)

    patch.setattr(Disk, "sync", sync)


@pytest.mark.parametrize("broken", [failed_writes_are_taken_for_done, failed_syncs_are_tried_again])
def test_broker_that_breaks_the_contract_is_noticed(
    broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    tally = Tally()
    for name in SCRIPTS:
        run_script(name, SEED, tally, quick=True)
        if tally.violations:
            return
    pytest.fail("nothing was noticed")
