"""The figures of features at their largest, each against a broker of its own.

    delayed   a million messages delayed by up to a year: memory, and the start after kill -9
    expiry    a million messages that expire at once: how long anybody else waits meanwhile
    acks      a million messages acked one by one in random order: cost at the beginning and at the end
    groups    a million message groups, one after the other, and all at once: memory
    rebalance fifty members over two hundred partitions: how long until each has its share again
    partitions hundreds of 1 KiB to one partition, and in turn to a thousand: the ratio of the rates

`python -m penstock_loadtest.features [NAME …] [--scale 0.1]`: durability fsync, bodies of 100 B in thousands
where nothing else is said.
Nothing is asserted: machines differ, and are shared.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from statistics import median

import penstock
from penstock_loadtest.broker import Broker
from penstock_loadtest.scenarios import TOPIC
from penstock_loadtest.storage import Figure, Say, in_flight, measure

MESSAGES = 1_000_000
PER_CALL = 1_000
BODY = bytes(100)
YEAR_SECONDS = 365 * 86_400
MIB = 1 << 20
EXPIRES_SECONDS = 20.0
ACKS_PER_FRAME = 1_000
PER_ROUND = 10_000
MEMBERS = 50
PARTITIONS = 200
ROUNDS = 40
PER_ROUND_OF_A_TOPIC = 100_000
LEFT_OUT = 8


async def _filled(queue: penstock.Queue[bytes], messages: int, made: Callable[[int], object]) -> None:
    """Enqueue that many messages in thousands."""

    async def call(number: int) -> None:
        first = number * PER_CALL
        await queue.enqueue_many([made(first + index) for index in range(PER_CALL)])

    await in_flight(messages // PER_CALL, call)


def _memory(broker: Broker) -> str:
    return f"{broker.usage().rss_anon / MIB:.0f} MiB RssAnon"


async def delayed(scale: float, say: Say) -> None:
    """Memory of delayed messages, and how soon a broker with them serves."""
    messages = round(MESSAGES * scale)
    chance = random.Random(1)
    with Broker() as broker:
        async with penstock.connect(broker.url) as client:
            queue = await client.create_queue("later", max_messages=None)

            def made(_: int) -> penstock.Outgoing:
                return penstock.Outgoing(BODY, delay=3600 + chance.random() * YEAR_SECONDS)

            await _filled(queue, messages, made)
            held = (await queue.stats()).delayed
            say(f"{held:,} delayed messages          {_memory(broker)}")
        broker.kill()
        broker.start()
        async with penstock.connect(broker.url) as client:
            held = (await client.queue("later").stats()).delayed
        say(f"{held:,} after kill -9             served in {broker.start_seconds:.1f} s, {_memory(broker)}")


async def expiry(scale: float, say: Say) -> None:
    """Everything expires within a second, while somebody else asks the broker all the time."""
    messages = round(MESSAGES * scale)
    with Broker() as broker:
        async with penstock.connect(broker.url) as client, penstock.connect(broker.url) as other:
            for name, spread in (("one time", 0.0), ("times of their own", 1.0)):
                queue = await client.create_queue(None, max_messages=None)
                end = time.time() + EXPIRES_SECONDS
                chance = random.Random(2)

                def made(_: int, end: float = end, spread: float = spread) -> penstock.Outgoing:
                    return penstock.Outgoing(BODY, ttl=end - time.time() + spread * chance.random())  # noqa: B023

                await _filled(queue, messages, made)
                left = (await queue.stats()).ready
                worst = await _asked_until(other, queue, end)
                say(f"{left:,} messages expire at {name:20} longest wait of a request {worst * 1e3:.1f} ms")


async def _asked_until(client: penstock.Client, queue: penstock.Queue[bytes], end: float) -> float:
    """The longest that a small request took until nothing was left."""
    worst = 0.0
    await client.create_queue("asked", if_exists="keep")
    while time.time() < end or (await queue.stats()).ready:
        began = time.monotonic()
        await client.describe_queue("asked")
        worst = max(worst, time.monotonic() - began)
    return worst


async def acks(scale: float, say: Say) -> None:
    """Leases of everything, then acks in random order, a thousand single messages to a frame."""
    messages = round(MESSAGES * scale)
    with Broker() as broker:
        async with penstock.connect(broker.url) as client:
            queue = await client.create_queue("random", max_messages=None, max_in_flight=1_000_000)
            await _filled(queue, messages, lambda _: BODY)
            held: list[penstock.Message[bytes]] = []
            while len(held) < messages:
                held += await queue.receive(10_000, visibility_timeout=3600)
            random.Random(3).shuffle(held)
            costs = [each async for each in _acked(broker, queue, held)]
        tenth = max(1, len(costs) // 10)
        first, last = sum(costs[:tenth]) / tenth, sum(costs[-tenth:]) / tenth
        told = f"{first:.2f} µs of broker CPU each at first, {last:.2f} at last"
        say(f"{messages:,} random acks              {told}")


async def _acked(
    broker: Broker, queue: penstock.Queue[bytes], held: list[penstock.Message[bytes]]
) -> AsyncIterator[float]:
    before = broker.usage().cpu
    share = max(ACKS_PER_FRAME, len(held) // 50)
    for at in range(0, len(held), share):
        for begin in range(at, min(at + share, len(held)), ACKS_PER_FRAME):
            await queue.ack(held[begin : begin + ACKS_PER_FRAME])
        now = broker.usage().cpu
        yield (now - before) / min(share, len(held) - at) * 1e6
        before = now


async def groups(scale: float, say: Say) -> None:
    """A group of its own for every message: settled as they come, and all of them at once."""
    messages = round(MESSAGES * scale)
    with Broker() as broker:
        async with penstock.connect(broker.url) as client:
            queue = await client.create_queue("groups", max_messages=None)
            before = broker.usage().rss_anon
            for first in range(0, messages, PER_ROUND):
                await _filled(queue, PER_ROUND, lambda n, first=first: _of_group(first + n))  # type: ignore[misc]
                await _drained(queue, PER_ROUND)
            grown = (broker.usage().rss_anon - before) / MIB
            say(f"{messages:,} message groups came and went  {grown:+.0f} MiB RssAnon")
            await _filled(queue, messages, _of_group)
            say(f"{messages:,} message groups at a time      {_memory(broker)}")


def _of_group(number: int) -> penstock.Outgoing:
    return penstock.Outgoing(BODY, message_group=f"group-{number}")


async def _drained(queue: penstock.Queue[bytes], messages: int) -> None:
    """Receive and ack that many."""
    while messages > 0:
        got = await queue.receive(1_000, wait=5.0)
        messages -= len(got)
        await got.ack()


async def rebalance(scale: float, say: Say) -> None:
    """All join at once, one more joins, one leaves: until nothing moves any more, and shares are even."""
    members, partitions = max(2, round(MEMBERS * scale)), max(4, round(PARTITIONS * scale))
    with Broker() as broker:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(penstock.connect(broker.url))
            await client.create_topic("shared", partitions=partitions)
            shares = _Shares(partitions)
            stacks = [await stack.enter_async_context(AsyncExitStack()) for _ in range(members + 1)]
            steps = (
                (f"{members} members join", shares.join(broker.url, stacks[:-1])),
                ("one more joins", shares.join(broker.url, stacks[-1:])),
                ("one leaves", shares.leave(stacks[-1])),
            )
            for told, step in steps:
                began = time.monotonic()
                await step
                await shares.settled()
                seconds = time.monotonic() - began
                say(f"{partitions} partitions, {told:20} {seconds:.2f} s until each has its share")


async def partitions(scale: float, say: Say) -> None:
    """One producer, a topic of one partition and one of a thousand, in turns on one broker; the first turns
    of both are left out, in which the journal grows."""
    records = max(TOPIC.batch, round(PER_ROUND_OF_A_TOPIC * scale))
    seconds: dict[int, list[float]] = {1: [], 1_000: []}
    body = bytes(TOPIC.size)
    with Broker() as broker:
        async with penstock.connect(broker.url) as client:
            topics = {n: await client.create_topic(f"of-{n}", partitions=n) for n in seconds}
            for _ in range(ROUNDS):
                for count, topic in topics.items():

                    async def call(
                        number: int, count: int = count, topic: penstock.Topic[bytes] = topic
                    ) -> None:
                        await topic.produce_many([body] * TOPIC.batch, partition=number % count)

                    began = time.monotonic()
                    await in_flight(records // TOPIC.batch, call, TOPIC.in_flight)
                    seconds[count].append(time.monotonic() - began)
    for count, took in seconds.items():
        rates = sorted(records / each for each in took[LEFT_OUT:])
        told = f"{median(rates):,.0f} records/s ({rates[0]:,.0f} to {rates[-1]:,.0f})"
        say(f"{count:5,} partitions               {told}")
    ratios = [one / many for one, many in zip(*seconds.values(), strict=True)][LEFT_OUT:]
    say(f"a thousand against one         {median(ratios):.0%} (median of {len(ratios)} turns)")


class _Shares:
    """Who has which partitions of a topic."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._of: dict[AsyncExitStack, set[int]] = {}
        self._changed = asyncio.Event()

    async def join(self, url: str, members: Sequence[AsyncExitStack]) -> None:
        """One member each, on a connection of its own, until its stack is closed."""
        self._of |= {member: set() for member in members}
        await asyncio.gather(*(self._join(url, member) for member in members))

    async def _join(self, url: str, member: AsyncExitStack) -> None:
        client = await member.enter_async_context(penstock.connect(url))
        mine = self._of[member]

        def has(places: set[int]) -> None:
            mine.clear()
            mine.update(places)
            self._changed.set()

        consumer = client.topic("shared").consumer(
            "group",
            on_assigned=lambda places: has(mine | set(places)),
            on_revoked=lambda places: has(mine - set(places)),
        )
        await member.enter_async_context(consumer)
        reading = asyncio.ensure_future(anext(consumer))
        member.callback(reading.cancel)

    async def leave(self, member: AsyncExitStack) -> None:
        """It closes its consumer and its connection."""
        del self._of[member]
        await member.aclose()

    async def settled(self) -> None:
        """Return when every partition has one owner, and no member two more than another."""
        while not self._is_even():
            self._changed.clear()
            await self._changed.wait()

    def _is_even(self) -> bool:
        sizes = [len(mine) for mine in self._of.values()]
        return sum(sizes) == self._partitions and max(sizes) - min(sizes) <= 1


if __name__ == "__main__":
    figures: dict[str, Figure] = {
        "delayed": delayed,
        "expiry": expiry,
        "acks": acks,
        "groups": groups,
        "rebalance": rebalance,
        "partitions": partitions,
    }
    measure(figures, "features", __doc__)
