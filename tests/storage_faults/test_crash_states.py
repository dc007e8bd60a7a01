"""Whatever a power cut or a kill leaves, at any sync of any script: a start brings back what was confirmed,
settles nothing back, makes nothing up, and a second start shows the same.

By hand and for long: make crash-states STATES=1000000 SEED=…
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from tests.fakes.disk import Call, Disk
from tests.storage_faults.crash_states import QUICK, Tally, run_script
from tests.storage_faults.life import Life
from tests.storage_faults.scripts import SCRIPTS

from penstock_broker.storage.engine import Engine

OPERATIONS_MAX = 8
PARTS = 8
STATES_MIN = 2_000
"""Of each part; in all they are 20,000 and more, no two alike."""
SEEDS = (1, 2, 3)
"""Each lets the jobs of a script run in another order."""


def test_scripts_are_forty_or_more_and_short() -> None:
    assert len(SCRIPTS) >= 40
    assert max(script.count(";") + 1 for script in SCRIPTS.values()) <= OPERATIONS_MAX


@pytest.mark.covers(
    *("enqueue", "receive/lease", "ack", "nack/retry", "dead letter", "purge"),
    *("create/alter/delete", "produce", "offsets", "producer dedup", "archive", "evacuation"),
    *("checkpoint", "durability modes"),
    *("kill -9", "power cut", "restart", "torn write"),
)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_crash_state_keeps_the_contract_and_recovers_twice_to_the_same(part: int) -> None:
    tally = Tally()
    for name, seed in product(list(SCRIPTS)[part::PARTS], SEEDS):
        run_script(name, seed, QUICK, tally)
    print(f"{tally.states:,} states: {dict(tally.counts)}")
    assert tally.violations == []
    assert tally.states >= STATES_MIN


# ---- What must be noticed


def nothing_is_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Disk, "honest", False, raising=False)
    whole = Disk.__init__

    def lying(disk: Disk, **options: Any) -> None:
        whole(disk, **options)
        disk.honest = False

    patch.setattr(Disk, "__init__", lying)


def names_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Disk, "sync_directory", lambda disk: Call("sync_directory", "."))


def answers_do_not_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "wait", lambda engine, _, waiter, *__: engine.journal.released.append(waiter))


def a_start_syncs_nothing(patch: pytest.MonkeyPatch) -> None:
    whole = Life.__init__

    def starting(life: Life, disk: Disk, *args: Any) -> None:
        disk.honest = not disk.names
        whole(life, disk, *args)
        disk.honest = True

    patch.setattr(Life, "__init__", starting)


@pytest.mark.parametrize(
    "broken", [nothing_is_synced, names_are_not_synced, answers_do_not_wait, a_start_syncs_nothing]
)
def test_broker_that_breaks_the_contract_is_noticed(
    broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    tally = Tally()
    for name in SCRIPTS:
        run_script(name, SEEDS[0], QUICK, tally)
        if tally.violations:
            return
    pytest.fail("nothing was noticed")
