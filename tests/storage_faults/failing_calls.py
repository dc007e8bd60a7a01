"""Every system call of a script fails once: with EIO, with ENOSPC, behind half of a write; or it stalls.

python -m tests.storage_faults.failing_calls --seed S [--script NAME]

A script runs clean first, which says how many calls it makes; then once for each call and way to fail.
A broker that ends over it is started again, as its machine lives on, with the caches dropped, and behind a
power cut: what is there is what may be, nothing that was refused among it, and it takes messages again.
"""

import argparse
import errno
import sys
from collections.abc import Iterator
from random import Random

from tests.fakes.disk import Call, Disk
from tests.storage_faults.bounds import small
from tests.storage_faults.crash_states import VIOLATIONS_MAX, Tally, Watched, recovered_twice
from tests.storage_faults.play import Play
from tests.storage_faults.scripts import SCRIPTS

from penstock_broker.clock import stopwatch
from penstock_broker.storage.files import StorageFailed

FAULTS = {"EIO": (errno.EIO, False), "ENOSPC": (errno.ENOSPC, False), "short write": (errno.EIO, True)}
STALL = "stall"
KINDS = {"write": (*FAULTS, STALL), "read": ("EIO", STALL)}
"""How a call may fail, by its kind; others in all ways but a short write."""
PROBE = "create probe; enqueue probe 2x100; ack probe 1; wait 60"


class Failing:
    """One run of a script of which one call fails."""

    def __init__(self, name: str, seed: int, fault: str, call: int, *, quick: bool) -> None:
        self._name = name
        self._quick = quick
        self._disk = Watched()
        self.play = Play(self._disk, f"{name} {seed}", calm=fault == STALL)
        self._random = Random(f"{name} {seed} {fault} {call}")
        self._stall = call if fault == STALL else None
        if fault != STALL:
            self._disk.fail(call, *FAULTS[fault][:1], short=FAULTS[fault][1])

    def run(self) -> None:
        """The script, as far as it comes, and what is there then. Raises `Violation` and whatever else."""
        play = self.play
        try:
            try:
                play.begin()
            except OSError:
                play.begin()
            play.life.frozen_at = self._stall
            play.run(SCRIPTS[self._name])
        except StorageFailed:
            play.life.last_words()
        play.disk.heal()
        self._judge()

    def _judge(self) -> None:
        """The machine lives on; it dies; and the broker goes on."""
        disk = Watched.of(self.play.disk, None)
        killed = disk.killed()
        killed.drop_caches()
        images = [killed, disk.crashed(self._random), disk.crashed()]
        for image in [self._random.choice(images)] if self._quick else images:
            recovered_twice(image, self.play, self.play.history.behind_cut)
        self.play.restart(self.play.disk, self.play.history.behind_cut)
        self.play.calm = True
        self.play.run(PROBE)
        self.play.look(self.play.history.behind_kill)


def clean(name: str, seed: int) -> tuple[list[Call], int]:
    """The calls of the script when none fails, and how many of them are those of the first start."""
    play = Play(Disk(), f"{name} {seed}")
    calls = play.disk.calls
    with small():
        play.begin()
        start = len(calls)
        play.run(SCRIPTS[name])
    return calls, start


def failures(name: str, seed: int, *, quick: bool) -> Iterator[tuple[str, int]]:
    """Every way to fail of every call: what fails, and its number. `quick`: two ways of each, in turn; and
    of the first start, which is the same in every script, one call, another one in the next script."""
    calls, start = clean(name, seed)
    turn = list(SCRIPTS).index(name)
    for number, call in enumerate(calls, 1):
        ways = KINDS.get(call.kind, ("EIO", "ENOSPC", STALL))
        if quick and number <= start and number % start != turn % start:
            continue
        first = (number + turn) % len(ways)
        yield from (
            (fault, number) for fault in (*ways, *ways)[first : first + 2 if quick else first + len(ways)]
        )


def run_script(name: str, seed: int, tally: Tally, *, quick: bool = False) -> None:
    """One script with every call failing in every way. `quick`: in two ways, and one of three ends of the
    machine is judged, not all."""
    for fault, number in failures(name, seed, quick=quick):
        failing = Failing(name, seed, fault, number, quick=quick)
        tally.counts[fault] += 1
        try:
            with small():
                failing.run()
        except Exception as why:
            where = f"{name} {seed}, {fault} at call {number}, {failing.play.operation}"
            tally.violations.append(f"{where}: {type(why).__name__}: {why}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.storage_faults.failing_calls", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--script", choices=SCRIPTS, metavar="NAME", help="only this one")
    given = parser.parse_args()
    tally, began = Tally(), stopwatch()
    for name in [given.script] if given.script else SCRIPTS:
        run_script(name, given.seed, tally)
    print(*(f"{number:9,} {what}" for what, number in tally.counts.items()), sep="\n")
    print(f"{tally.counts.total():,} runs in {stopwatch() - began:.0f} s, {len(tally.violations)} violations")
    print(*tally.violations[:VIOLATIONS_MAX], sep="\n")
    return bool(tally.violations)


if __name__ == "__main__":
    sys.exit(main())
