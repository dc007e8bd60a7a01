"""A demonstration on real text: `make demo [FILES=…]` or `python -m penstock_loadtest.demo [FILE …]`.

Every line of the files goes into a topic, and one job per file into a queue. Two groups read the whole topic,
three worker processes count the words of the files. One worker is killed -9 while it holds a job, and the
broker is killed -9 and started again while lines and jobs are on their way; all clients go on by themselves.

The table at the end proves that every line came through each group, in order, and that every job was done.
Exit code 0 if so, 1 if something is missing, 2 if there is no text to work on.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import penstock
from penstock_loadtest.broker import Broker
from penstock_loadtest.demo_text import Account, Text, Unusable, texts
from penstock_loadtest.demo_worker import JOBS, RESULTS

LINES = "demo.lines"
PARTITIONS = 4
GROUPS = ("index", "archive")
WORKERS = 3
SETTINGS = ("server.session_grace=1s",)
"""A killed worker's jobs are given to others after a second instead of ten."""
STALL_SECONDS = 60.0
"""Nothing moved for that long: what is missing by then is missing."""


def say(who: str, what: str) -> None:
    """One line of the report."""
    print(f"{who:8} {what}", flush=True)


class Progress:
    """Wakes who waits for something to become true whenever something has happened."""

    def __init__(self) -> None:
        self._moved = asyncio.Event()

    def moved(self) -> None:
        """Something has happened."""
        self._moved.set()

    async def until(self, is_reached: Callable[[], bool]) -> bool:
        """Wait for it; False when nothing has moved for a long time."""
        while not is_reached():
            self._moved.clear()
            try:
                await asyncio.wait_for(self._moved.wait(), STALL_SECONDS)
            except TimeoutError:
                return False
        return True


class Demo:
    """One run: what there is to do, and what has been done so far."""

    def __init__(self, files: Sequence[Text], broker: Broker, scratch: Path) -> None:
        self.files = files
        self.total = sum(text.lines for text in files)
        self.sent = Account(PARTITIONS)
        self.read = {group: Account(PARTITIONS) for group in GROUPS}
        self.done: dict[int, list[int]] = defaultdict(list)
        """Job → the number of words found, each time it was done."""
        self.redelivered = 0
        self._broker = broker
        self._trap = scratch / "trap"
        self._progress = Progress()
        self._workers: set[Process] = set()

    async def run(self) -> None:
        """Do it all. Raises what a client could not cope with."""
        async with penstock.connect(self._broker.url) as client:
            topic = await client.create_topic(LINES, partitions=PARTITIONS)
            jobs = await client.create_queue(JOBS)
            results = await client.create_queue(RESULTS)
            async with asyncio.TaskGroup() as tasks:
                readers = [tasks.create_task(self._read(topic, group)) for group in GROUPS]
                workers = [tasks.create_task(self._worker()) for _ in range(WORKERS)]
                collector = tasks.create_task(self._collect(results))
                await self._progress.until(lambda: len(self._workers) == WORKERS)
                await jobs.enqueue_many(self._jobs())
                breaker = tasks.create_task(self._break())
                await self._produce(topic)
                await breaker
                await self._progress.until(self._is_complete)
                for worker in self._workers:
                    worker.terminate()
                await asyncio.wait(workers)
                for task in (*readers, collector):
                    task.cancel()

    def _jobs(self) -> Iterator[penstock.Outgoing]:
        for number, text in enumerate(self.files):
            trap = number == len(self.files) // 2
            yield penstock.Outgoing(text.key, headers={"number": number, "trap": trap})

    def _is_complete(self) -> bool:
        everywhere = all(account.lines == self.sent.lines for account in self.read.values())
        return everywhere and len(self.done) == len(self.files)

    # ---- Who sends and who reads

    async def _produce(self, topic: penstock.Topic[bytes]) -> None:
        for text in self.files:
            for chunk in text.chunks():
                records = [penstock.Outgoing(line, key=text.key) for line in chunk]
                receipts = await topic.produce_many(records)
                for line, receipt in zip(chunk, receipts, strict=True):
                    offset = self.sent.lines[receipt.partition]
                    self.sent.take(receipt.partition, offset, text.key, line)
                self._progress.moved()

    async def _read(self, topic: penstock.Topic[bytes], group: str) -> None:
        account = self.read[group]
        async with topic.consumer(group, partitions=range(PARTITIONS)) as consumer:
            async for records in consumer.batches():
                for record in records:
                    account.take(record.partition, record.offset, record.key or b"", record.raw)
                await consumer.commit()
                self._progress.moved()

    async def _collect(self, results: penstock.Queue[bytes]) -> None:
        async with results.consume() as consumer:
            async for result in consumer:
                async with result:
                    number = result.headers["number"]
                    assert isinstance(number, int)
                    self.done[number].append(int(result.text))
                    self.redelivered += bool(result.headers["redelivered"])
                self._progress.moved()

    # ---- Who dies

    async def _worker(self) -> None:
        """Run a worker to its end; should it fall into the trap, kill it."""
        command = ["-m", "penstock_loadtest.demo_worker", self._broker.url, str(self._trap)]
        worker = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=PIPE)
        assert worker.stdout is not None
        try:
            if await worker.stdout.readline():  # it is at work
                self._workers.add(worker)
                self._progress.moved()
            if number := await worker.stdout.readline():
                worker.kill()
                say("worker", f"{worker.pid} killed -9 while it held the job {self.files[int(number)].name}")
            await worker.wait()
        finally:
            self._workers.discard(worker)
            if worker.returncode is None:
                worker.kill()

    async def _break(self) -> None:
        """Kill the broker half-way, and start it again."""
        await self._progress.until(lambda: 2 * sum(self.sent.lines) >= self.total)
        sent, done, began = sum(self.sent.lines), len(self.done), time.monotonic()
        self._broker.kill()
        await asyncio.to_thread(self._broker.start)
        down = time.monotonic() - began
        half = f"{sent:,} of {self.total:,} lines confirmed and {done:,} of {len(self.files):,} jobs done"
        say("broker", f"killed -9 with {half}; serves again after {down:.1f} s")

    # ---- The end

    def missing(self) -> Iterator[str]:
        """What did not come through, or came through wrong."""
        if sum(self.sent.lines) < self.total:
            yield f"{self.total - sum(self.sent.lines):,} lines were not confirmed"
        for group, account in self.read.items():
            for n in range(PARTITIONS):
                if account.digest(n) != self.sent.digest(n):
                    read, sent = account.lines[n], self.sent.lines[n]
                    yield f"group {group}, partition {n}: {read:,} lines read, {sent:,} sent; they differ"
        for number, text in enumerate(self.files):
            if number not in self.done:
                yield f"job {text.name} was not done"
            elif set(self.done[number]) != {text.words}:
                yield f"job {text.name}: {self.done[number]} words were found; there are {text.words}"

    def table(self) -> Iterator[str]:
        """What came through."""
        yield (
            f"\n{'topic ' + LINES:20}{'sent':>10}" + "".join(f"{group:>10}" for group in GROUPS) + "   digest"
        )
        for n in range(PARTITIONS):
            accounts = [self.sent, *self.read.values()]
            digests = dict.fromkeys(account.digest(n) for account in accounts)
            counts = "".join(f"{account.lines[n]:>10,}" for account in accounts)
            yield f"  partition {n:<8}{counts}   {' ≠ '.join(digests)}"
        times = sum(map(len, self.done.values()))
        yield f"\n{'queue ' + JOBS:20}{'jobs':>10}{'done':>10}{'in all':>10}   marked redelivered"
        yield f"{'':20}{len(self.files):>10,}{len(self.done):>10,}{times:>10,}   {self.redelivered:,}\n"


def describe(files: Sequence[Text]) -> None:
    """Say what goes in."""
    lines, size, cut = (sum(getattr(text, what) for text in files) for what in ("lines", "size", "cut"))
    say("text", f"{len(files):,} files, {lines:,} lines, {size:,} bytes")
    if cut:
        say("", f"lines longer than the 1 MiB that a message may hold were cut: {cut:,} more")


def main() -> int:
    """Run the demonstration; the exit code."""
    about = (__doc__ or "").partition("\n\n")[2]
    parser = argparse.ArgumentParser(prog="python -m penstock_loadtest.demo", description=about)
    parser.add_argument("file", nargs="*", help="text files; none: what git tracks here, and its log")
    arguments = parser.parse_args()
    logging.getLogger("penstock").setLevel(logging.ERROR)  # settles that come too late are part of the show
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as scratch:
        try:
            files = texts(arguments.file, Path(scratch))
        except Unusable as error:
            print(f"demo: {error}", file=sys.stderr)
            return 2
        describe(files)
        with Broker(settings=SETTINGS) as broker:
            say("broker", f"{broker.url}, data in {broker.directory}")
            demo = Demo(files, broker, Path(scratch))
            failures = attempt(demo)
        print(*demo.table(), sep="\n")
    missing = [*failures, *demo.missing()]
    for what in missing:
        print(f"missing: {what}")
    if not missing:
        print("Every line came through both groups in order, and every job was done.")
    return bool(missing)


def attempt(demo: Demo) -> list[str]:
    """Run it; what went wrong, if anything did."""
    failures: list[Exception] = []
    try:
        asyncio.run(demo.run())
    except* (penstock.Error, OSError, RuntimeError) as failed:
        failures += failed.exceptions
    return [f"{type(failure).__name__}: {failure}" for failure in failures]


if __name__ == "__main__":
    sys.exit(main())
