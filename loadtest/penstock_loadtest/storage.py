"""The figures of the storage engine, each against a broker of its own.

    amplification   bytes given to write per payload byte: consumers that keep up; everything retained
    pace            publish → receive beside a producer whose bytes the archiver moves, and the loop's lag
    recovery        start after kill -9 with much retained, in many queues, with many messages unsettled

`python -m penstock_loadtest.storage [NAME …] [--scale 0.1]`: durability fsync, bodies of 1 KiB in hundreds.
Nothing is asserted: machines differ, and are shared.
"""

import argparse
import asyncio
import multiprocessing
import os
import re
import time
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine
from statistics import quantiles
from typing import Any

import penstock
from penstock_loadtest.agent import runner
from penstock_loadtest.broker import Broker

KIB, GIB = 1 << 10, 1 << 30
PER_CALL = 100
IN_FLIGHT = 16
MESSAGES = 4 * GIB // KIB
QUEUES = 1_000
UNSETTLED = 1_000_000
RATE = 400
"""Calls per second, of 100 KiB each."""
RETAINED = 10 * GIB
QUIET_SECONDS = 75.0
"""From the last publish on until nothing moves any more: files are archived when they are 60 s old."""

Say = Callable[[str], None]


def samples(broker: Broker) -> dict[str, float]:
    """The broker's metrics by name and labels."""
    with urllib.request.urlopen(f"{broker.http}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for line in lines if line[0] != "#" for name, value in [line.rsplit(" ", 1)]}


def written(broker: Broker) -> float:
    """Bytes given to write per payload byte so far."""
    found = samples(broker)
    return found["penstock_disk_written_bytes_total"] / found["penstock_payload_bytes_total"]


def lag(broker: Broker, share: float) -> float:
    """Upper bound in seconds of that share of the loop's lags."""
    found = samples(broker)
    buckets = [
        (float(bound[1]), count)
        for name, count in found.items()
        if (bound := re.fullmatch(r'penstock_loop_lag_seconds_bucket\{le="(.*)"\}', name))
    ]
    total = found["penstock_loop_lag_seconds_count"]
    return next(bound for bound, count in sorted(buckets) if count >= share * total)


async def in_flight(calls: int, call: Callable[[int], Awaitable[object]], at_once: int = IN_FLIGHT) -> None:
    """That many calls, `at_once` at a time."""
    numbers = iter(range(calls))

    async def worker() -> None:
        for number in numbers:
            await call(number)

    await asyncio.gather(*(worker() for _ in range(at_once)))


# ---- Amplification


async def amplification(scale: float, say: Say) -> None:
    """Both ends of what the storage engine writes."""
    messages = round(MESSAGES * scale)
    with Broker() as broker:
        async with penstock.connect(broker.url) as client:
            await _kept_up(client, messages)
        say(f"amplification, consumers keep up        {written(broker):.3f}")
    with Broker() as broker:
        async with penstock.connect(broker.url) as client:
            topic = await client.create_topic("retained", retention=None)
            bodies = [os.urandom(KIB)] * PER_CALL
            await in_flight(messages // PER_CALL, lambda _: topic.produce_many(bodies))
            await asyncio.sleep(QUIET_SECONDS)
        say(f"amplification, everything retained      {written(broker):.3f}")


async def _kept_up(client: penstock.Client, messages: int) -> None:
    queue = await client.create_queue("kept-up", max_messages=None, max_bytes=None)
    bodies = [os.urandom(KIB)] * PER_CALL
    left = messages // PER_CALL * PER_CALL

    async def consume() -> None:
        nonlocal left
        while left > 0:
            got = await queue.receive(1_000, wait=1.0)
            left -= len(got)
            if got:
                await got.ack()

    enqueue = in_flight(messages // PER_CALL, lambda _: queue.enqueue_many(bodies))
    await asyncio.gather(enqueue, *(consume() for _ in range(4)))


# ---- Pace


async def pace(scale: float, say: Say) -> None:
    """Single messages at 200/s through a queue, beside 40 MB/s into a topic that keeps all of it."""
    seconds = 60 * scale
    with Broker() as broker:
        async with penstock.connect(broker.url) as client:
            await client.create_topic("retained", retention=None)
            queue = await client.create_queue("measured")
            half = GIB * 9 // 16  # from here on the archiver works
            await asyncio.to_thread(_filled, broker.url, half, RATE * 4)
            latency: list[float] = []
            moving = asyncio.to_thread(_filled, broker.url, round(RATE * PER_CALL * KIB * seconds), RATE)
            await asyncio.gather(moving, _measure(queue, seconds, latency))
        cuts = quantiles(latency, n=100)
        say(
            f"beside the archiver, publish → receive  p50 {cuts[49] * 1e3:.2f} ms, "
            f"p99 {cuts[98] * 1e3:.2f} ms; loop lag p99.9 ≤ {lag(broker, 0.999) * 1e3:.1f} ms"
        )


def _filled(url: str, size: int, rate: int) -> None:
    """Fill the topic from a process of its own, to its end."""
    process = multiprocessing.get_context("spawn").Process(target=_fill_from, args=(url, size, rate))
    process.start()
    process.join()


def _fill_from(url: str, size: int, rate: int) -> None:
    async def fill() -> None:
        async with penstock.connect(url) as client:
            await _fill(client.topic("retained"), size, rate=rate)

    asyncio.run(fill())


async def _fill(topic: penstock.Topic[bytes], size: int, *, rate: float) -> None:
    """Calls of 100 KiB, `rate` per second."""
    bodies = [os.urandom(KIB)] * PER_CALL
    began = time.monotonic()
    for number in range(size // (KIB * PER_CALL)):
        await topic.produce_many(bodies)
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))


async def _measure(queue: penstock.Queue[bytes], seconds: float, latency: list[float]) -> None:
    async def publish() -> None:
        began = time.monotonic()
        for number in range(round(200 * seconds)):
            await asyncio.sleep(max(0.0, began + number / 200 - time.monotonic()))
            await queue.enqueue(str(time.monotonic()))

    publishing = asyncio.create_task(publish())
    async with queue.consume() as consumer:
        async for message in consumer:
            latency.append(time.monotonic() - float(message.text))
            await message.ack()
            if publishing.done() and not (await queue.stats()).ready:
                break


# ---- Recovery


async def recovery(scale: float, say: Say) -> None:
    """Fill, kill -9, start."""
    queues, unsettled = max(1, round(QUEUES * scale)), round(UNSETTLED * scale)
    with Broker() as broker:
        async with penstock.connect(broker.url) as client:
            topic = await client.create_topic("retained", retention=None)
            names = [f"queue-{number}" for number in range(queues)]
            made = [await client.create_queue(name, max_messages=None, max_bytes=None) for name in names]
            bodies = [os.urandom(KIB)] * PER_CALL
            await in_flight(round(RETAINED * scale) // (KIB * PER_CALL), lambda _: topic.produce_many(bodies))
            await in_flight(unsettled // PER_CALL, lambda number: made[number % queues].enqueue_many(bodies))
        size = sum(entry.stat().st_size for entry in os.scandir(broker.directory))
        broker.kill()
        broker.start()
        anon = broker.usage().rss_anon
        async with penstock.connect(broker.url) as client:
            ready = sum([(await client.queue(name).stats()).ready for name in names])
            got = await client.queue(names[0]).receive(100)
        say(
            f"start after kill -9 with {size / GIB:.1f} GiB, {queues:,} queues, {ready:,} unsettled: "
            f"{broker.start_seconds:.1f} s, RssAnon {anon >> 20} MiB; first receive {len(got)}"
        )


Figure = Callable[[float, Say], Coroutine[Any, Any, None]]
FIGURES: dict[str, Figure] = {"amplification": amplification, "pace": pace, "recovery": recovery}


def measure(figures: dict[str, Figure], module: str, about: str | None) -> None:
    """What `python -m penstock_loadtest.MODULE` does: the figures asked for, or all."""
    parser = argparse.ArgumentParser(prog=f"python -m penstock_loadtest.{module}", description=about)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--scale", type=float, default=1.0, help="a part of the messages")
    options = parser.parse_args()
    for name in options.names or figures:
        runner()(figures[name](options.scale, lambda line: print(line, flush=True)))


if __name__ == "__main__":
    measure(FIGURES, "storage", __doc__)
