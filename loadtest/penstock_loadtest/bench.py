"""The figures of the README: one broker, one producer and one consumer process, every confirm after a sync.

`python -m penstock_loadtest.bench [SCENARIO …] [--scale 0.1]`. Each figure comes with a ratio: to the bare
disk (the same bytes by pwrite and fdatasync, one after the other) measured in the same run, or to another
scenario of it. Nothing is asserted here: machines differ, and are shared.
"""

import argparse
import asyncio
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from queue import Empty
from typing import Any, NamedTuple

import penstock
from penstock_loadtest.broker import Broker, Usage

NAME = "bench"
READY = "ready"
READY_SECONDS_MAX = 60.0
PIPELINE = 16
"""Calls of one client process in flight."""
RECEIVERS = 4
QUEUES = 1_000
WARM_UP_BYTES = 1 << 30
"""Sent through the broker before a full-scale measurement: from then on journal files are recycled."""
KIB = 1024
MIB = 1024 * KIB

Work = Callable[[penstock.Client, int, int, int], Awaitable[None]]
"""What a client process does: (client, messages, body bytes, messages per call)."""


class Row(NamedTuple):
    """One line of the table."""

    scenario: str
    figure: str
    ratio: str
    broker: str


# ---- Client processes


async def enqueue(client: penstock.Client, messages: int, size: int, per_call: int) -> None:
    """Fill the queue, `PIPELINE` calls of `per_call` messages in flight."""
    queue = client.queue(NAME)
    bodies = [os.urandom(size)] * per_call
    await _repeat(messages // per_call, lambda: queue.enqueue_many(bodies))


async def produce(client: penstock.Client, messages: int, size: int, per_call: int) -> None:
    """The same into the topic."""
    topic = client.topic(NAME)
    bodies = [os.urandom(size)] * per_call
    await _repeat(messages // per_call, lambda: topic.produce_many(bodies))


async def spread(client: penstock.Client, messages: int, size: int, per_call: int) -> None:
    """One call to each of many queues in turn, all in flight; `per_call` rounds."""
    queues = [client.queue(f"{NAME}-{n}") for n in range(QUEUES)]
    body = os.urandom(size)
    for _ in range(messages // QUEUES):
        await asyncio.gather(*(queue.enqueue(body) for queue in queues))


async def together(client: penstock.Client, messages: int, size: int, per_call: int) -> None:
    """The same number of calls in flight, all to one queue."""
    queue = client.queue(NAME)
    body = os.urandom(size)
    for _ in range(messages // QUEUES):
        await asyncio.gather(*(queue.enqueue_many([body]) for _ in range(QUEUES)))


async def receive(client: penstock.Client, messages: int, size: int, per_call: int) -> None:
    """Receive and ack until that many came."""
    queue = client.queue(NAME)
    left = messages

    async def receiver() -> None:
        nonlocal left
        while left > 0:
            batch = await queue.receive(KIB, wait=1.0)
            left -= len(batch)
            if batch:
                await batch.ack()

    await asyncio.gather(*(receiver() for _ in range(RECEIVERS)))


async def _repeat(times: int, call: Callable[[], Awaitable[object]]) -> None:
    left = iter(range(times))

    async def caller() -> None:
        for _ in left:
            await call()

    await asyncio.gather(*(caller() for _ in range(PIPELINE)))


def client_process(work: Work, url: str, arguments: tuple[int, int, int], go: Any, times: Any) -> None:
    """Connect, wait for the start, work, report seconds from start to end."""

    async def run() -> None:
        async with penstock.connect(url, timeout=120.0) as client:
            times.put(READY)
            await asyncio.to_thread(go.wait)
            began = time.monotonic()
            await work(client, *arguments)
            times.put((began, time.monotonic()))

    _runner()(run())


def _runner() -> Callable[[Any], Any]:
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


class Measured(NamedTuple):
    """What one scenario took."""

    seconds: float
    before: Usage
    after: Usage

    def cpu_us(self, messages: int) -> float:
        """Broker CPU per message, µs."""
        return (self.after.cpu - self.before.cpu) / messages * 1e6


def measure(broker: Broker, messages: int, size: int, per_call: int, *works: Work) -> Measured:
    """Run each work in a process of its own, all at once."""
    context = multiprocessing.get_context("spawn")
    go, times = context.Event(), context.Queue()
    arguments = (messages, size, per_call)
    processes = [
        context.Process(target=client_process, args=(work, broker.url, arguments, go, times))
        for work in works
    ]
    for process in processes:
        process.start()
    try:
        assert [times.get(timeout=READY_SECONDS_MAX) for _ in processes] == [READY] * len(processes)
    except Empty:
        sys.exit("a client process did not come as far as its connection")
    before = broker.usage()
    go.set()
    for process in processes:
        process.join()
        if process.exitcode:
            sys.exit(f"a client process ended with {process.exitcode}")
    after = broker.usage()
    spans = [times.get(timeout=5) for _ in processes]
    return Measured(max(end for _, end in spans) - min(begin for begin, _ in spans), before, after)


def prepare(broker: Broker, *, queues: int = 0) -> None:
    """Make the queues and the topic of a scenario, without limits."""

    async def make() -> None:
        async with penstock.connect(broker.url) as client:
            names = [NAME, *(f"{NAME}-{n}" for n in range(queues))]
            for name in names:
                await client.create_queue(name, max_messages=None, max_bytes=None)
            await client.create_topic(NAME)

    asyncio.run(make())


# ---- Scenarios


def bare_disk(size: int, per_call: int) -> float:
    """Messages per second that pwrite + fdatasync of the same batches manage, one after the other."""
    data = os.urandom(size * per_call)
    directory = os.path.dirname(Broker().directory)
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        fd = file.fileno()
        length = 64 * MIB
        os.pwrite(fd, bytes(length), 0)
        os.fsync(fd)
        began = time.monotonic()
        writes = 0
        while time.monotonic() - began < 1.0:
            os.pwrite(fd, data, writes * len(data) % (length - len(data)))
            os.fdatasync(fd)
            writes += 1
        return writes * per_call / (time.monotonic() - began)


def _throughput(scenario: str, scale: float, full: int, size: int, per_call: int, *works: Work) -> Row:
    messages = int(full * scale)
    with Broker() as broker:
        prepare(broker)
        if scale >= 1:
            measure(broker, WARM_UP_BYTES // (size * per_call) * per_call, size, per_call, enqueue, receive)
        took = measure(broker, messages, size, per_call, *works)
    rate = messages / took.seconds
    bare = bare_disk(size, per_call)
    anon = took.after.rss_anon / MIB
    return Row(
        scenario,
        f"{rate:,.0f}/s",
        f"{rate / bare:.2f} × bare disk",
        f"{took.cpu_us(messages):.2f} µs/message, RssAnon {anon:.0f} MiB",
    )


def queue_1k(scale: float) -> Row:
    """Enqueue, receive and ack 1 KiB in hundreds."""
    return _throughput("queue, 1 KiB × 100, end to end", scale, 2_000_000, KIB, 100, enqueue, receive)


def queue_100b(scale: float) -> Row:
    """Enqueue, receive and ack 100 B in two hundreds."""
    return _throughput("queue, 100 B × 200, end to end", scale, 4_000_000, 100, 200, enqueue, receive)


def topic_1k(scale: float) -> Row:
    """Produce 1 KiB in hundreds."""
    return _throughput("topic, 1 KiB × 100, produce", scale, 400_000, KIB, 100, produce)


def many_queues(scale: float) -> Row:
    """One message to each of 1,000 queues in turn, against as many calls to one queue."""
    messages = max(QUEUES, int(100_000 * scale) // QUEUES * QUEUES)
    with Broker() as broker:
        prepare(broker, queues=QUEUES)
        one = measure(broker, messages, KIB, 1, together)
        many = measure(broker, messages, KIB, 1, spread)
    return Row(
        f"1 KiB to each of {QUEUES:,} queues in turn",
        f"{messages / many.seconds:,.0f}/s",
        f"{many.seconds / one.seconds:.2f} × the time of one queue",
        f"{many.cpu_us(messages):.1f} µs/message",
    )


def backlog(scale: float) -> Row:
    """A plain backlog of 100-byte messages: its memory, and a start after kill -9."""
    messages = int(5_000_000 * scale)
    with Broker() as broker:
        prepare(broker)
        took = measure(broker, messages, 100, 1_000, enqueue)
        broker.kill()
        broker.start()
        again = broker.usage()
        found = asyncio.run(_ready(broker.url))
    assert found == messages, f"{found:,} of {messages:,} messages are there after the start"
    return Row(
        f"backlog of {messages:,} × 100 B",
        f"{messages / took.seconds:,.0f}/s in",
        f"start after kill -9: {broker.start_seconds:.1f} s",
        f"RssAnon {took.after.rss_anon / MIB:.0f} MiB, after the start {again.rss_anon / MIB:.0f} MiB",
    )


async def _ready(url: str) -> int:
    async with penstock.connect(url) as client:
        return (await client.queue(NAME).stats()).ready


SCENARIOS = {
    "queue-1k": queue_1k,
    "queue-100b": queue_100b,
    "topic-1k": topic_1k,
    "many-queues": many_queues,
    "backlog": backlog,
}


def main() -> int:
    """Run the named scenarios, all without a name, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m penstock_loadtest.bench", description=__doc__)
    parser.add_argument("scenario", nargs="*", choices=[*SCENARIOS, []], help="all by default")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the full number of messages")
    arguments = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("penstock", "uvloop", "msgpack"))
    machine = f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}"
    print(f"durability fsync; {machine}, {versions}")
    print(f"{'scenario':34}  {'figure':>14}  {'ratio':30}  broker")
    for name in arguments.scenario or SCENARIOS:
        print("{:34}  {:>14}  {:30}  {}".format(*SCENARIOS[name](arguments.scale)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
