"""Crash states: what a power cut or a kill may leave at every sync of every script, recovered twice.

python -m tests.storage_faults.crash_states --states N --seed S [--script NAME]

A script runs once. Before each sync, when most is undecided, the disk is copied as a crash may leave it:
nothing of what was not synced, all, prefixes in the order of writing, random subsets with torn sectors;
and once with its page cache, as a kill leaves it. Each copy is started, judged by the contract, and started
again behind a second power cut, some in the midst of their start: that must show the same.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from random import Random
from threading import Event, RLock
from typing import NamedTuple
from zlib import crc32

from tests.fakes.clock import ManualClock
from tests.fakes.disk import Call, Disk
from tests.model.bench import batch
from tests.storage_faults.bounds import small
from tests.storage_faults.expected import QUEUE, State, difference
from tests.storage_faults.life import PRODUCER_ID, Cut, Life
from tests.storage_faults.observed import observed
from tests.storage_faults.play import Play, Violation, judged
from tests.storage_faults.scripts import SCRIPTS

from penstock_broker.clock import stopwatch
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import topics as t

CUT_SHORT_ONE_IN = 4
"""Of so many states one is cut off in the midst of its start, too."""
START_SYNCS = 8
VIOLATIONS_MAX = 10


class Samples(NamedTuple):
    """How many copies of the disk are taken at a sync: prefixes and random subsets."""

    prefixes: int
    subsets: int


QUICK = Samples(6, 9)
FULL = Samples(1_000, 64)


@dataclass
class Tally:
    """What was tried and what was found."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    @property
    def states(self) -> int:
        """Disks that were started and judged."""
        return self.counts["power cuts"] + self.counts["kills"] + self.counts["cut short while starting"]


class Watched(Disk):
    """A disk that calls `watcher` before each sync, of a file or of names."""

    watcher: Callable[[], None] | None = None

    @classmethod
    def of(cls, disk: Disk, watcher: Callable[[], None] | None) -> "Watched":
        """That disk, watched from now on."""
        watched = cls()
        watched.__dict__.update(disk.__dict__)
        watched.watcher = watcher
        return watched

    def sync(self, name: str) -> Call:
        """Make the content and size of a file durable."""
        self._look()
        return super().sync(name)

    def sync_directory(self) -> Call:
        """Make the names durable."""
        self._look()
        return super().sync_directory()

    def killed(self) -> Disk:
        """A copy of the running machine, cache and all, without its process."""
        running = Event()
        running.set()
        fresh = {self.mutex: RLock(), self.running: running, self.owner: None, self.watcher: None}
        memo: dict[int, object] = {id(old): new for old, new in fresh.items()}
        memo[id(self.calls)] = []
        return deepcopy(self, memo)

    def _look(self) -> None:
        if self.watcher is not None:
            self.watcher()


class CrashStates:
    """All crash states of one script under one seed."""

    def __init__(self, name: str, seed: int, samples: Samples, tally: Tally) -> None:
        self._seed = f"{name} {seed}"
        self._samples = samples
        self._tally = tally
        self._random = Random(f"crashes of {self._seed}")
        self._seen: set[tuple[int, int, str, str]] = set()
        """Disks that were judged, each with how it came about and what was allowed."""
        self.play = Play(Watched.of(Disk(), self._crash), self._seed, watched=self._watched)

    def run(self, script: str) -> None:
        """Play the script, and judge every crash on its way and behind its end."""
        self.play.begin()
        self.play.run(script)
        self._crash()
        self.play.look(self.play.history.behind_kill)

    def _watched(self, disk: Disk) -> Disk:
        return Watched.of(disk, self._crash)

    def _crash(self) -> None:
        """The machine or the process may end here."""
        self._tally.counts["syncs"] += 1
        disk = self.play.disk
        for word, image in disk.crashes(
            self._random, prefixes=self._samples.prefixes, samples=self._samples.subsets
        ):
            self._judge(word, image, "power cuts")
        assert isinstance(disk, Watched)
        self._judge("killed", disk.killed(), "kills")

    def _judge(self, word: str, image: Disk, kind: str) -> None:
        tally, history = self._tally, self.play.history
        allowed = history.behind_kill if kind == "kills" else history.behind_cut
        durable = fingerprint(image.crashed())  # less than what is shown, behind a kill
        known = fingerprint(image), durable, kind, repr(allowed)
        if known in self._seen:
            tally.counts["alike"] += 1
            return
        self._seen.add(known)
        tally.counts[kind] += 1
        cut_short = kind == "power cuts" and not self._random.randrange(CUT_SHORT_ONE_IN)
        again = image.crashed() if cut_short else None
        try:
            state = recovered_twice(image, self.play, allowed)
            if again is not None:
                self._cut_short(again, state)
        except Exception as why:
            where = f"{self._seed}, {self.play.operation}, sync {tally.counts['syncs']}, {word}"
            tally.violations.append(f"{where}: {type(why).__name__}: {why}")

    def _cut_short(self, image: Disk, state: State) -> None:
        """The start itself is cut off before one of its syncs."""
        left = self._random.randrange(1, START_SYNCS + 1)

        def watcher() -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Cut

        watched = Watched.of(image, watcher)
        try:
            life_on(watched, self.play)
            return
        except Cut:
            pass
        self._tally.counts["cut short while starting"] += 1
        life = life_on(watched.crashed(self._random), self.play)
        _check_same(observed(life), state, "cut short while starting")


def recovered_twice(disk: Disk, play: Play, allowed: list[State]) -> State:
    """What is allowed and there, and again behind a power cut. Raises `Violation`."""
    state = judged(life_on(disk, play), allowed)
    life = life_on(disk.crashed(), play)
    _check_same(observed(life), state, "recovered again")
    check_repeats(life, state)
    return state


def life_on(disk: Disk, play: Play) -> Life:
    """A life that goes its own way from the present of the play."""
    return Life(disk, ManualClock(*play.clock.now()), Random(play.random.random()))


def check_repeats(life: Life, state: State) -> None:
    """Every producer's last batch, sent again, is answered with its original place."""
    places = [(place, batches) for place, batches in state.batches.items() if batches]
    requests = []
    for (name, number), batches in places:
        payload = batch(*batches[-1].bodies, producer_id=PRODUCER_ID, sequence=len(batches) - 1)
        requests.append(
            q.Enqueue(name, payload) if number == QUEUE else t.Produce(name, number, None, payload)
        )
    for (place, batches), reply in zip(places, life.ask(*requests), strict=True):
        if not (isinstance(reply, q.Confirm) and reply.duplicate and reply.first == batches[-1].first):
            raise Violation(f"batch {len(batches) - 1} of {place}, sent again, is answered {reply!r}")


def _check_same(found: State, wanted: State, when: str) -> None:
    if found != wanted:
        raise Violation(f"{when}: {difference(found, [wanted])}")


def fingerprint(disk: Disk) -> int:
    """One number for all that is on a disk."""
    total = 0
    for name in sorted(disk.names):
        total = crc32(disk.names[name].shown, crc32(name.encode(), total))
    return total


def run_script(name: str, seed: int, samples: Samples, tally: Tally) -> None:
    """All crash states of one script. What the script itself shows wrong is a violation, too."""
    states = CrashStates(name, seed, samples, tally)
    try:
        with small():
            states.run(SCRIPTS[name])
    except Exception as why:
        tally.violations.append(f"{name} {seed}, {states.play.operation}: {type(why).__name__}: {why}")


def rounds(names: list[str], seed: int) -> Iterator[tuple[str, int]]:
    """Every script under one seed after another."""
    for number in count(seed):
        for name in names:
            yield name, number


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.storage_faults.crash_states", description=__doc__)
    parser.add_argument("--states", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--script", choices=SCRIPTS, metavar="NAME", help="only this one")
    parser.add_argument("--quick", action="store_true", help="few samples at every sync, as in CI")
    given = parser.parse_args()
    tally, began = Tally(), stopwatch()
    for name, seed in rounds([given.script] if given.script else list(SCRIPTS), given.seed):
        run_script(name, seed, QUICK if given.quick else FULL, tally)
        if tally.states >= given.states or len(tally.violations) >= VIOLATIONS_MAX:
            break
    print(*(f"{number:9,} {what}" for what, number in tally.counts.items()), sep="\n")
    print(f"{tally.states:,} states in {stopwatch() - began:.0f} s, {len(tally.violations)} violations")
    print(*tally.violations[:VIOLATIONS_MAX], sep="\n")
    return bool(tally.violations)


if __name__ == "__main__":
    sys.exit(main())
