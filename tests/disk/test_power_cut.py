"""What was confirmed survives that the power is cut, whatever else the disk has or has not.

`python -m tests.disk.powercut` is the same by hand, with more cuts, and for xfs.
"""

import asyncio
import time
from pathlib import Path
from random import Random

import pytest

from tests.crash.lives import Lives
from tests.crash.run import run
from tests.disk.books import Books, Values, patiently
from tests.disk.disks import MIB, Disk, disk
from tests.disk.powercut import DISK_BYTES, UNSYNCED, CutLives
from tests.integration.raw import RawClient

pytestmark = pytest.mark.root

CUTS, SEED = 40, 1
CONTROLS = 10
BATCHES = 30
INTERVALS, INTERVAL_SECONDS = 5, 0.2
RUN_SECONDS, LATE_SECONDS = 1.5, 1.2
"""How long a broker that syncs now and then is written to; how long ago everything must be durable: its
interval and a sync, and far more, for the machine may be busy."""


@pytest.mark.covers(
    *("enqueue", "receive/lease", "ack", "produce", "fetch", "offsets", "archive", "checkpoint"),
    *("power cut",),
)
def test_contract_holds_over_power_cuts_under_load(tmp_path: Path) -> None:
    lives: list[CutLives] = []
    with disk(DISK_BYTES) as on:

        def lives_in(directory: Path, random: Random) -> Lives:
            lives.append(CutLives(directory, random, on))
            return lives[-1]

        asyncio.run(run(tmp_path, CUTS, SEED, lives_in=lives_in))
    print(f"{lives[0].count} lives, {lives[0].torn} of them found a block half written")
    assert lives[0].count > CUTS


def kept_over_a_cut(directory: Path, random: Random, on: Disk, script: str | None) -> tuple[Values, Values]:
    """What a broker that runs `script` confirmed, and what the next one has of it after a cut."""
    lives, books = CutLives(directory, random, on), Books()
    try:
        asyncio.run(lives.start(script))
        with RawClient(lives.address) as client:
            books.open(client)
            for _ in range(BATCHES):
                patiently(lambda: books.produce(client))
            lives.fell()
        try:
            asyncio.run(lives.start())
        except AssertionError:  # so little is left that the broker refuses to start
            return books.produced, {}
        with RawClient(lives.address) as client:
            books.open(client)
            return books.produced, books.read(client)
    finally:
        lives.end()


@pytest.mark.parametrize(
    ("script", "losses"),
    [(None, range(1)), (UNSYNCED, range(CONTROLS * 9 // 10, CONTROLS + 1))],
    ids=["never by one that syncs", "in nine cuts of ten by one that does not"],
)
def test_confirmed_records_are_lost(tmp_path: Path, script: str | None, losses: range) -> None:
    random, lost = Random(SEED), 0
    for number in range(CONTROLS if script else CONTROLS // 2):
        directory = tmp_path / str(number)
        directory.mkdir()
        with disk(64 * MIB) as on:
            confirmed, kept = kept_over_a_cut(directory, random, on, script)
        assert len(confirmed) == BATCHES * 10
        lost += not confirmed.items() <= kept.items()
    assert lost in losses


class Unhurried(CutLives):
    """Their syncs may wait."""

    durability = f"interval:{INTERVAL_SECONDS * 1000:.0f}ms"


def lost_of_the_last(directory: Path, random: Random) -> tuple[int, int]:
    """How many records are gone after a cut, of how many confirmed; they must be the last, and young."""
    books = Books()
    with disk(64 * MIB) as on:
        lives = Unhurried(directory, random, on)
        try:
            asyncio.run(lives.start())
            with RawClient(lives.address) as client:
                books.open(client)
                end = time.monotonic() + RUN_SECONDS
                while time.monotonic() < end:
                    patiently(lambda: books.produce(client))
                cut = time.monotonic()
                lives.fell()
            asyncio.run(lives.start())
            with RawClient(lives.address) as client:
                kept = books.read(client)
        finally:
            lives.end()
    assert list(kept.items()) == list(books.produced.items())[: len(kept)], "what is lost is a suffix"
    lost = books.produced.keys() - kept.keys()
    assert min((books.produced_at[offset] for offset in lost), default=cut) > cut - LATE_SECONDS
    return len(lost), len(books.produced)


@pytest.mark.covers("durability modes", "power cut")
def test_interval_mode_loses_no_more_than_the_last_of_what_it_confirmed(tmp_path: Path) -> None:
    random, losses = Random(SEED), []
    for number in range(INTERVALS):
        directory = tmp_path / str(number)
        directory.mkdir()
        losses.append(lost_of_the_last(directory, random))
    print(f"lost, of confirmed: {losses}")
    assert any(lost for lost, _ in losses), "a cut finds something that was not synced yet"
