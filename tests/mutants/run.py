"""Runs the bank of mutants: each must be noticed by the test that is named for it.

python -m tests.mutants.run [--only NAME] [--jobs N]

Every killer must pass on the source as it is, and fail, by a judgement of its own, with the mutant in it.
Exit code 1 if one survived.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from tests.mutants.bank import BANK
from tests.mutants.mutant import Mutant
from tests.mutants.tree import Tree, Verdict

KILLED = {Verdict.FAILED: "killed", Verdict.PASSED: "SURVIVED", Verdict.BROKE: "BROKEN"}


@contextmanager
def trees(count: int) -> Iterator["SimpleQueue[Tree]"]:
    """Copies of the source, for as many to work in."""
    with TemporaryDirectory(prefix="penstock-mutants-") as directory:
        free: SimpleQueue[Tree] = SimpleQueue()
        for number in range(count):
            free.put(Tree(Path(directory, str(number))))
        yield free


def judge(mutant: Mutant, free: "SimpleQueue[Tree]") -> tuple[Verdict, str]:
    """What its killer says of a mutant."""
    tree = free.get()
    try:
        with tree.with_bug(mutant):
            return tree.run([mutant.killer])
    finally:
        free.put(tree)


def run(mutants: Sequence[Mutant], jobs: int) -> bool:
    """Judge mutants, a line each; True if all of them are killed."""
    with trees(jobs) as free, ThreadPoolExecutor(jobs) as threads:
        tree = free.get()
        verdict, why = tree.run(dict.fromkeys(mutant.killer for mutant in mutants))
        free.put(tree)
        if verdict is not Verdict.PASSED:
            print(f"without any mutant a killer {verdict.value}: {why}")
            return False
        width = max(len(mutant.name) for mutant in mutants)
        killed = 0
        judged = threads.map(lambda mutant: judge(mutant, free), mutants)
        for mutant, (verdict, why) in zip(mutants, judged, strict=True):
            print(f"{mutant.name:{width}}  {KILLED[verdict]:8}  {mutant.killer}", flush=True)
            if verdict is Verdict.FAILED:
                killed += 1
            elif why:
                print(why)
    print(f"{killed} of {len(mutants)} killed")
    return killed == len(mutants)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="those whose name begins so")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at once")
    given = parser.parse_args()
    chosen = [mutant for mutant in BANK if mutant.name.startswith(given.only or "")]
    if not chosen:
        parser.error(f"no mutant's name begins with {given.only!r}")
    return not run(chosen, given.jobs)


if __name__ == "__main__":
    sys.exit(main())
