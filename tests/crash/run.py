"""kill -9 over the real process, again and again, while clients work; then the checker judges what they saw.

    python -m tests.crash.run [--cycles N] [--seed S] [--directory DIR]

A cycle lasts until the broker has made proven progress, and by chance a bit longer; then the broker is killed
and started again, one time in five with a life in between that ends in its recovery. After the last cycle of
an era everything is drained and read once more, and the history of the era is checked. The seed chooses what
the clients do and when the broker dies; the machine has its say, too: the same seed is not the same run.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import NamedTuple

import penstock
from tests.crash import consumers, features, field, producers, readers
from tests.crash.field import PARTITIONS, Field
from tests.crash.ledger import asked
from tests.crash.lives import Lives
from tests.sim.checker import Anomaly, check
from tests.sim.history import Record, line_of

PRODUCERS, CONSUMERS = ("p0", "p1", "p2", "p3", "p4"), ("c0", "c1", "c2", "c3", "c4", "c5")
GROUPS = ("stream", "batch")
EVERYBODY = {*PRODUCERS, *CONSUMERS, *GROUPS}
"""Each of them must get somewhere in every cycle."""
CYCLE_SECONDS, DRAIN_SECONDS, LOOK_SECONDS = 60.0, 120.0, 0.2
ERA_CYCLES = 50
"""Then the history is judged, and another begins over the same data: memory stays bounded."""
ALLOWED = {"Busy", "Closing", "NotFound", "Disconnected"}
"""What calls may be refused with (`NotFound`: the dead-letter queue before its first message)."""


class Era:
    """One queue and one topic over some cycles."""

    def __init__(self, lives: Lives, number: int, random: Random) -> None:
        self.field = Field(lives.address, number, random)
        self.files: set[str] = set()
        """What was in the data directory at the end."""
        self.allowed = ALLOWED | lives.excused
        self._lives = lives
        self._random = random
        self._ledger = self.field.ledger
        self._recorder = self.field.recorder("run")
        self._readers = [readers.Reader(self.field, group) for group in GROUPS]

    async def run(self, cycles: int, say: Callable[[str], None]) -> None:
        """All of it. What the clients saw is in the ledger then."""
        async with self.field.connect() as client:
            await self._create(client)
            self.field.up.set()
            async with asyncio.TaskGroup() as tasks:
                sending = [tasks.create_task(work) for work in self._sending()]
                taking = [tasks.create_task(work) for work in self._taking()]
                for cycle in range(cycles):
                    say(f"cycle {cycle + 1}: {await self.cycle()}")
                self.field.idle.set()
                await asyncio.wait(sending)
                say(f"drain: {await self._drain(client)}")
                self.field.end()
                await asyncio.wait(taking)
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._close_books(client)
            self.files = self._lives.files()
            await self._tidy_up(client)

    async def _create(self, client: penstock.Client) -> None:
        await client.create_queue(
            self.field.jobs,
            visibility_timeout=field.LEASE_SECONDS,
            max_attempts=field.MAX_ATTEMPTS,
            max_deliveries=field.MAX_DELIVERIES,
            retry=field.RETRY,
        )
        await client.create_topic(self.field.topic, partitions=PARTITIONS)
        self._recorder.note(
            "settings",
            queue=self.field.jobs,
            dead_letter=self.field.dead,
            max_attempts=field.MAX_ATTEMPTS,
            max_deliveries=field.MAX_DELIVERIES,
            lease=field.LEASE_SECONDS,
            backoff=field.BACKOFF_SECONDS,
        )
        await features.create(client, self.field, self._recorder)

    def _sending(self) -> list[Coroutine[None, None, None]]:
        works = (
            *(producers.one_by_one, producers.in_batches, producers.raw, producers.raw),
            features.publish,
        )
        return [work(self.field, name) for name, work in zip(PRODUCERS, works, strict=True)]

    def _taking(self) -> list[Coroutine[None, None, None]]:
        works = (
            *(consumers.receive, consumers.receive_raw, consumers.take_pushed, consumers.take_pushed),
            *(features.receive, features.receive_records),
        )
        streaming, batching = self._readers
        takers = [work(self.field, name) for name, work in zip(CONSUMERS, works, strict=True)]
        return [*takers, streaming.consume(), batching.fetch()]

    # ---- A cycle

    async def cycle(self) -> str:
        """Wait for progress, and a bit longer, and kill the broker; what was done. Raises `AssertionError`
        if too little was."""
        began, confirmed, settled = time.monotonic(), self._ledger.confirmed, self._ledger.settled
        lives = self._lives
        more = self._random.uniform(1, 2)
        self._ledger.succeeded.clear()

        def is_proven() -> bool:
            confirms, settles = self._ledger.confirmed - confirmed, self._ledger.settled - settled
            enough = confirms >= lives.confirms_min * more and settles >= lives.settles_min * more
            return enough and self._ledger.succeeded >= EVERYBODY

        proven = await self._ledger.until(is_proven, CYCLE_SECONDS)
        confirms, settles = self._ledger.confirmed - confirmed, self._ledger.settled - settled
        progress = f"{confirms:,} confirms and {settles:,} settles in {time.monotonic() - began:.1f} s"
        idle = EVERYBODY - self._ledger.succeeded
        assert proven, f"only {progress}; nothing came of {sorted(idle) or 'nobody'}"
        return f"{progress}, down for {await self._kill():.1f} s"

    async def _kill(self) -> float:
        """Kill the broker, start it again, look at once what it knows; how long it was away, in seconds."""
        began = time.monotonic()
        self.field.up.clear()
        await self._lives.kill()
        self._recorder.note("crash")
        while self._random.random() < 0.2:
            await self._lives.die_young()
            self._recorder.note("crash")
        await self._lives.start()
        down = time.monotonic() - began
        await asyncio.to_thread(readers.look, self.field, self._recorder, GROUPS)
        self.field.up.set()
        return down

    # ---- The end

    async def _drain(self, client: penstock.Client) -> str:
        """Until everything was taken and read; how long that took. Raises `AssertionError`: what is left."""
        began = time.monotonic()
        while left := await self._left(client):
            errors = [record["error"] for record in self._ledger.records[-1_000:] if "error" in record]
            assert time.monotonic() - began < DRAIN_SECONDS, f"nobody took or read {left}: {errors[-3:]}"
            await self._ledger.until(lambda: False, LOOK_SECONDS)
        return f"{time.monotonic() - began:.1f} s"

    async def _left(self, client: penstock.Client) -> dict[str, object]:
        """Queues that are not empty, and readers that are not at the end, with where they are."""
        left: dict[str, object] = {}
        for each in await client.list_queues(self.field.jobs):
            stats = await client.queue(each.name).stats()
            if stats.ready + stats.delayed + stats.in_flight + stats.waiting:
                left[each.name] = stats
        ends = await self._ends(client)
        for group, reader in zip(GROUPS, self._readers, strict=True):
            if reader.position != ends:
                left[group] = f"at {reader.position} of {ends}"
        return left

    async def _ends(self, client: penstock.Client) -> list[int]:
        topic = client.topic(self.field.topic)
        return [await topic.offset(partition, "latest") for partition in range(PARTITIONS)]

    async def _close_books(self, client: penstock.Client) -> None:
        """Nobody is busy any more: what the broker counts, what it still has, and that nothing is left."""
        await readers.audit(self.field, client, await self._ends(client))
        for partition in range(PARTITIONS):
            self._recorder.note("drained", log=self.field.log(partition))
        for queue in self._queues:
            self._recorder.note("drained", queue=queue)
            with asked(self._recorder, "stats", queue=queue) as answer:
                stats = await client.queue(queue).stats()
                states = stats.ready, stats.delayed, stats.in_flight, stats.waiting, stats.settled_total
                answer.update(
                    zip(("ready", "delayed", "in_flight", "waiting", "settled"), states, strict=True)
                )
                answer["total"] = sum(states)

    @property
    def _queues(self) -> tuple[str, ...]:
        plain = self.field.jobs, self.field.dead
        return (
            *plain,
            self.field.special,
            self.field.special_dead,
            self.field.records,
            self.field.records_dead,
        )

    async def _tidy_up(self, client: penstock.Client) -> None:
        for queue in self._queues:
            await client.delete_queue(queue)
        await client.delete_topic(self.field.topic)


class Judged(Exception):
    """The history of an era shows what it must not show."""

    def __init__(self, anomalies: list[Anomaly], path: Path) -> None:
        named = Counter(anomaly.name for anomaly in anomalies)
        examples = [": ".join(anomaly) for anomaly in anomalies[:10]]
        super().__init__("\n".join([f"{dict(named)} in {path}", *examples]))


class Evidence(NamedTuple):
    """The history of an era, and the names of the files that were in the data directory then."""

    records: list[Record]
    files: set[str]


async def run(
    directory: Path,
    cycles: int,
    seed: int,
    say: Callable[[str], None] = print,
    lives_in: Callable[[Path, Random], Lives] = Lives,
) -> Evidence:
    """Run eras of at most 50 cycles and judge each; the evidence of the last one. Raises `Judged`, or
    `AssertionError` for a broker that stalls or ends by itself. What is left in `directory` tells why."""
    random = Random(seed)
    lives = lives_in(directory, random)
    try:
        await lives.start()
        for number, first in enumerate(range(0, cycles, ERA_CYCLES)):
            era = Era(lives, number, random)
            path = directory / f"history-{number}.jsonl"
            try:
                await era.run(min(ERA_CYCLES, cycles - first), say)
            finally:
                path.write_text("".join(map(line_of, era.field.ledger.records)))
            say(f"era {number + 1}: {summary(era, lives)}")
            judge(era, path)
        lives.stop()
    finally:
        lives.end()
    return Evidence(era.field.ledger.records, era.files)


def judge(era: Era, path: Path) -> None:
    """Raise what is wrong with an era."""
    anomalies = check(era.field.ledger.records)
    if anomalies:
        raise Judged(anomalies, path)
    unexpected = era.field.ledger.refusals.keys() - era.allowed
    assert not unexpected, f"refused with {unexpected}: see {path}"


def summary(era: Era, lives: Lives) -> str:
    """What was done in an era."""
    done = ", ".join(f"{count:,} {what}" for what, count in sorted(era.field.ledger.done.items()) if count)
    refused = ", ".join(f"{count:,} {what}" for what, count in era.field.ledger.refusals.items())
    cut = f"{lives.count} lives so far, {lives.cut_short} ended in recovery"
    return f"{len(era.field.ledger.records):,} records ({done}); refused: {refused or 'none'}; {cut}"


def main() -> None:
    """Run by hand; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.run", description=__doc__)
    parser.add_argument("--cycles", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="a new one for data and evidence, which are kept")
    given = parser.parse_args()
    directory = given.directory or Path(tempfile.mkdtemp()) / "penstock-kill"
    directory.mkdir(parents=True)
    logging.getLogger("penstock").setLevel(logging.ERROR)  # that settles come too late is what happens here
    print(f"seed {given.seed}, evidence in {directory}")
    wrong: list[Exception] = []
    try:
        asyncio.run(run(directory, given.cycles, given.seed))
    except* (Judged, AssertionError, TimeoutError) as group:
        wrong += group.exceptions
    print(*wrong or ["nothing confirmed was lost, nothing acked came back"], sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
