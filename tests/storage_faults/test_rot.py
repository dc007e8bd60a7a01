"""Whatever rots, in any file: it is said, or it makes no difference; no wrong byte is shown.

All mutants by hand: make rot
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.storage_faults.bounds import small
from tests.storage_faults.crash_states import Tally
from tests.storage_faults.rot import Directory, directories, run

from penstock_broker.storage import blocks, checkpoint, entries, reads, segment

SHARE = 0.03
PARTS = 4
MUTANTS_MIN = 5_000 // PARTS
SEED = 1
THIN = 20
"""What must be noticed is looked for everywhere at once."""


@pytest.fixture(autouse=True)
def _bounds() -> Iterator[None]:
    with small():
        yield


def directory(name: str) -> Directory:
    return next(each for each in directories() if each.name == name)


@pytest.mark.covers(
    *("enqueue", "ack", "produce", "fetch", "offsets", "archive", "checkpoint"),
    *("rot", "checkpoint damaged", "index damaged"),
)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", ["killed", "stopped"])
def test_every_damage_is_said_or_makes_no_difference(name: str, part: int) -> None:
    tally = Tally()
    run(directory(name), SEED, tally, SHARE, part=part, parts=PARTS)
    print(dict(tally.counts))
    assert tally.violations == []
    assert tally.counts["mutants"] >= MUTANTS_MIN
    assert {"refused", "corrupt", "no effect"} <= set(tally.counts)
    lost = {"end cut", "last block vanished"} & set(tally.counts)
    assert bool(lost) == (name == "killed"), "a journal that was closed in order has no open end"


# ---- What must be noticed


def nothing_is_checked_in(module: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """Whatever a module compares with a checksum, fits."""

    class Fits(int):
        def __eq__(self, _: object) -> bool:
            return True

        def __ne__(self, _: object) -> bool:
            return False

        __hash__ = int.__hash__

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        whole = module.crc32
        monkeypatch.setattr(module, "crc32", lambda *args: Fits(whole(*args)))

    return patch


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (blocks, "journal"),
        (checkpoint, "checkpoint"),
        (entries, "journal"),
        (reads, "segment"),
        (segment, "segment"),
    ],
)
def test_broker_that_checks_nothing_is_noticed(
    module: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = directory("killed")
    nothing_is_checked_in(module)(monkeypatch)
    tally = Tally()
    for part in range(THIN):
        if not tally.violations:
            run(sound, SEED, tally, SHARE, kind=kind, part=part, parts=THIN, violations_max=1)
    assert tally.violations
