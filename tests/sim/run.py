"""Runs seeds.

python -m tests.sim.run --seed N [--ops M]      one run: its trace hash, what it met, its anomalies
python -m tests.sim.run --seeds A-B [--ops M]   many; exit code 1 if one has an anomaly
"""

import argparse
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.fakes.bounds import bounds_set
from tests.sim.checker import check
from tests.sim.faults import Faults
from tests.sim.finish import Drain
from tests.sim.history import line_of
from tests.sim.workload import Workload
from tests.sim.world import World

OPS = 2_000


class Result(NamedTuple):
    """What became of a run."""

    seed: int
    trace: str
    anomalies: list[str]
    sometimes: Counter[str]


def simulate(seed: int, ops: int = OPS, history: Path | None = None) -> Result:
    """One run. A failed assertion, of the broker's or of the simulator's, is an anomaly too."""
    world = World(seed, ops)
    try:
        _run(world)
        anomalies = [": ".join(anomaly) for anomaly in check(world.records)]
    except Exception:
        anomalies = [traceback.format_exc()]
    if history is not None:
        history.write_text("".join(map(line_of, world.records)))
    return Result(seed, world.trace, anomalies, world.sometimes)


def _run(world: World) -> None:
    with bounds_set([*world.plan.sizes, *world.features.sizes, *world.streams.sizes]):
        world.start()
        faults = Faults(world)
        Workload(world)
        world.run(lambda: world.ops_left <= 0)
        world.calm = True
        faults.end()
        Drain(world).run()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int)
    which.add_argument("--seeds", metavar="A-B", help="both included")
    parser.add_argument("--ops", type=int, default=OPS)
    parser.add_argument("--history", type=Path, help="write the history of the one run there")
    given = parser.parse_args()
    first, last = (given.seed, given.seed) if given.seeds is None else map(int, given.seeds.split("-"))
    sometimes: Counter[str] = Counter()
    failed = []
    for seed in range(first, last + 1):
        result = simulate(seed, given.ops, given.history)
        sometimes += result.sometimes
        if first == last or result.anomalies:
            print(f"seed {seed} ops {given.ops}: trace {result.trace}", *result.anomalies[:20], sep="\n  ")
        if result.anomalies:
            failed.append(seed)
    print(*(f"{count:8} {what}" for what, count in sorted(sometimes.items())), sep="\n")
    print(f"{last - first + 1} runs, {len(failed)} with anomalies: {failed}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
