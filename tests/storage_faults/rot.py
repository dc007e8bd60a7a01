"""Rot: every byte of every file changed, every truncation, sectors zeroed, swapped, stale, lost.

python -m tests.storage_faults.rot [--share 0.1] --seed S

A mutant is a directory with one damage. A broker started on it must refuse, saying why, or show exactly what
it showed before, but for offsets that it says are damaged: no wrong byte, nothing dropped in silence.
"""

import argparse
import sys
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from tests.fakes.clock import ManualClock
from tests.fakes.disk import SECTOR_BYTES, Disk
from tests.storage_faults.bounds import small
from tests.storage_faults.crash_states import VIOLATIONS_MAX, Tally
from tests.storage_faults.expected import State, difference
from tests.storage_faults.life import Life
from tests.storage_faults.observed import observed
from tests.storage_faults.play import Play, check
from tests.storage_faults.survey import Survey, hidden, surveyed

from penstock_broker.clock import stopwatch
from penstock_broker.storage.files import StorageError

BEFORE = (
    "create jobs; topic log 2; enqueue jobs 3x300 2x200 1x700; produce log/0 3x300; archive",
    "produce log/1 2x900; commit g log/0 2; create b; enqueue b 2x1500; ack jobs 2; nack jobs 1; bury jobs 1",
    "checkpoint; enqueue jobs 4x400; produce log/0 2x500; ack b 1; archive; checkpoint",
    "commit g log/1 1; enqueue jobs 2x300; nack jobs 1; produce log/1 1x400; ack jobs 1; commit g log/0 3;"
    "enqueue jobs 1x30; commit g log/1 2",
)
LAST = "enqueue b 1x100"
"""In the last block: no later one proves it."""
VANISHED = ("zeroed", "lost")
"""Damages that make the last block as if it had never been written."""
ALIKE = 16
BIT, ZERO, ONES = "bit", "0x00", "0xff"


class Directory(NamedTuple):
    """A disk to be damaged: what is on it, what it shows, what it showed before each change that nothing
    but its newest file proves, newest first, and what its sectors held before."""

    name: str
    disk: Disk
    clock: ManualClock
    shown: State
    earlier: list[State]
    before: list[dict[str, bytes]]

    def life(self, mutant: "Mutant | None" = None) -> Life:
        """A broker on a copy of it, with that damage."""
        disk = self.disk.crashed()
        if mutant is not None and mutant.content is None:
            disk.truncate(mutant.name, mutant.offset)
        elif mutant is not None:
            disk.damage(mutant.name, mutant.offset, mutant.content)
        return Life(disk, ManualClock(*self.clock.now()), Random(1))

    def blanks(self) -> set[tuple[str, int]]:
        """File and number of every sector that is all zeros."""
        return {
            (name, at // SECTOR_BYTES)
            for name, image in _images(self.disk).items()
            for at in range(0, len(image), SECTOR_BYTES)
            if not any(image[at : at + SECTOR_BYTES])
        }


class Mutant(NamedTuple):
    """One damage: `content` at `offset` of a file; None: the file ends there."""

    what: str
    name: str
    offset: int
    content: bytes | None


def directories() -> Iterator[Directory]:
    """One of a broker that was killed, and one of a broker that stopped in order."""
    for name in ("killed", "stopped"):
        play = Play(Disk(), "rot")
        play.begin()
        before = []
        for line in BEFORE:
            play.run(line)
            before.append(_images(play.disk))
        play.run(LAST)
        earlier = play.history.every[:-1]
        if name == "stopped":
            play.end()
            earlier = []
        directory = Directory(name, play.disk.crashed(), play.clock, play.history.last, earlier[::-1], before)
        assert observed(directory.life()) == directory.shown
        yield directory


def _images(disk: Disk) -> dict[str, bytes]:
    return {name: bytes(inode.stored) for name, inode in disk.names.items()}


# ---- Damages


def mutants(directory: Directory) -> Iterator[Mutant]:
    """Every one, in a fixed order."""
    images = _images(directory.disk)
    for name, image in sorted(images.items()):
        yield from _bytes(name, image)
        yield from (Mutant("truncated", name, size, None) for size in range(len(image)))
        for at in range(0, len(image), SECTOR_BYTES):
            for what, content in _sectors(directory, images, name, at):
                if content != image[at : at + len(content)]:
                    yield Mutant(what, name, at, content)


def _bytes(name: str, image: bytes) -> Iterator[Mutant]:
    for at, byte in enumerate(image):
        yield Mutant(BIT, name, at, bytes([byte ^ 1 << at % 8]))
        if byte:
            yield Mutant(ZERO, name, at, b"\0")
        if byte != 0xFF:
            yield Mutant(ONES, name, at, b"\xff")


def _sectors(
    directory: Directory, images: dict[str, bytes], name: str, at: int
) -> Iterator[tuple[str, bytes]]:
    """What a whole sector may be instead: zeros, its neighbour, one of another file, what it was."""
    image = images[name]
    size = min(SECTOR_BYTES, len(image) - at)
    yield "zeroed", bytes(size)
    yield "swapped", image[at + size : at + 2 * size] + image[at : at + size]
    kind = name.rstrip("0123456789")
    for other, foreign in images.items():
        if other != name and other.startswith(kind):
            yield "stale", foreign[at : at + size]
    for former in {before[name][at : at + size] for before in directory.before if name in before}:
        yield "lost", former


# ---- Judging


def judge(directory: Directory, mutant: Mutant) -> str:
    """What became of it, in a word. Raises `Violation` if that breaks the contract."""
    is_checkpoint = mutant.name.startswith("checkpoint")
    try:
        life = directory.life(mutant)
    except StorageError as refusal:
        check(not is_checkpoint, f"a damaged checkpoint refuses the start: {refusal}")
        return "refused"
    found = surveyed(life, lambda: directory.life(mutant), directory.shown)
    if isinstance(found, Survey):
        check(not is_checkpoint, "a damaged checkpoint makes something corrupt")
        unsaid = hidden(found, directory.shown)
        check(not unsaid, f"hidden: {unsaid}")
        return "corrupt"
    if found == directory.shown:
        return "no effect"
    cut_short = mutant.content is None
    check(found in directory.earlier[: None if cut_short else 1], difference(found, [directory.shown]))
    said = life.core.report.torn is not None
    check(said or mutant.what in VANISHED, "the last block is cut in silence")
    return "end cut" if said else "last block vanished"


def run(
    directory: Directory,
    seed: int,
    tally: Tally,
    share: float = 1.0,
    *,
    kind: str = "",
    part: int = 0,
    parts: int = 1,
    violations_max: int = VIOLATIONS_MAX,
) -> None:
    """Mutants of one directory: that share of them, of files whose names begin with `kind`, evenly over all
    that is there, beginning where the seed says; of them one in so many `parts`. Where all of a sector is
    zero, one byte is like the other, so a share takes fewer of them."""
    blanks = directory.blanks() if share < 1 else set()
    reached = (part + Random(seed).random()) / parts
    for mutant in mutants(directory):
        if not mutant.name.startswith(kind):
            continue
        blank = (mutant.name, mutant.offset // SECTOR_BYTES) in blanks
        reached += share / parts / (ALIKE if blank else 1)
        if reached < 1:
            continue
        reached -= 1
        tally.counts["mutants"] += 1
        try:
            tally.counts[judge(directory, mutant)] += 1
        except Exception as why:
            where = f"{directory.name}: {mutant.what} {mutant.name} {mutant.offset}"
            tally.violations.append(f"{where}: {type(why).__name__}: {why}")
            if len(tally.violations) >= violations_max:
                return


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.storage_faults.rot", description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of all mutants (default: all)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    tally, began = Tally(), stopwatch()
    with small():
        for directory in directories():
            run(directory, given.seed, tally, given.share)
    print(*(f"{number:9,} {what}" for what, number in tally.counts.items()), sep="\n")
    print(f"{stopwatch() - began:.0f} s, {len(tally.violations)} violations")
    print(*tally.violations[:VIOLATIONS_MAX], sep="\n")
    return bool(tally.violations)


if __name__ == "__main__":
    sys.exit(main())
