"""One vocabulary for Penstock and those people come from, so that the same steps can be taken with both: the
tests of the pages "Coming from …" ask each what it does, and want one answer.

The words are Penstock's. What a test says about others is what their server did, not what somebody remembers.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import penstock
from penstock import Consumer, Message, Outgoing

NO_DEAD_LETTERS = {"dead_letter": None, "max_attempts": None, "max_deliveries": None}
POLL_SECONDS = 0.05
UNTIL_SECONDS = 15.0


class Refused(Exception):
    """The broker did not do it."""


class Taken(NamedTuple):
    """A message in hand. `delivery`: how often it was handed out, None if nobody tells."""

    text: str
    redelivered: bool
    delivery: int | None
    headers: dict[str, Any]
    raw: Any


class Counts(NamedTuple):
    """Messages of a queue; None if nobody tells."""

    ready: int
    in_flight: int | None = None
    delayed: int | None = None


class Penstock:
    """Penstock through its client."""

    name = "penstock"

    def __init__(self, client: penstock.Client, url: str) -> None:
        self.client = client
        self._url = url

    @asynccontextmanager
    async def another(self) -> AsyncIterator["Penstock"]:
        """One more connection to the same broker."""
        async with penstock.connect(self._url) as client:
            yield Penstock(client, self._url)

    async def declare(self, queue: str, **settings: Any) -> None:
        """Create a queue."""
        for ignored in ("priorities", "fifo"):  # every queue has them
            settings.pop(ignored, None)
        await self._refusable(self.client.create_queue(queue, **settings))

    async def publish(self, queue: str, body: str, **options: Any) -> Any:
        """Enqueue; the receipt."""
        return await self._refusable(self.client.queue(queue).enqueue(body, **options))

    async def publish_many(self, queue: str, items: list[tuple[str, dict[str, Any]]]) -> None:
        """Enqueue several at once."""
        outgoing = [Outgoing(body, **options) for body, options in items]
        await self._refusable(self.client.queue(queue).enqueue_many(outgoing))

    async def take(
        self, queue: str, most: int = 1, wait: float = 0.0, visibility_timeout: float | None = None
    ) -> list[Taken]:
        """Receive up to `most`."""
        messages = await self._refusable(
            self.client.queue(queue).receive(most, wait=wait, visibility_timeout=visibility_timeout)
        )
        return [_taken(message) for message in messages]

    async def ack(self, *taken: Taken) -> None:
        """Done."""
        await self._refusable(self._queue(taken).ack(each.raw for each in taken))

    async def release(self, *taken: Taken) -> None:
        """Not tried: back at once."""
        await self._refusable(self._queue(taken).release(each.raw for each in taken))

    async def fail(self, *taken: Taken) -> None:
        """Tried in vain: back at once, here by asking for it."""
        await self._refusable(self._queue(taken).nack([each.raw for each in taken], delay=0))

    async def bury(self, *taken: Taken) -> None:
        """To the dead letters."""
        await self._refusable(self._queue(taken).dead_letter(each.raw for each in taken))

    async def extend(self, taken: Taken, seconds: float) -> None:
        """The lease ends `seconds` from now."""
        await self._refusable(taken.raw.extend(seconds))

    async def counts(self, queue: str) -> Counts:
        """Messages by state. Refused if there is no such queue."""
        stats = (await self._refusable(self.client.describe_queue(queue))).stats
        return Counts(stats.ready, stats.in_flight, stats.delayed)

    async def purge(self, queue: str) -> int:
        """Throw away what is not in flight; how many those were."""
        purged: int = await self._refusable(self.client.queue(queue).purge())
        return purged

    async def delete(self, queue: str) -> None:
        """Delete it with its messages."""
        await self._refusable(self.client.delete_queue(queue))

    @asynccontextmanager
    async def consuming(self, queue: str, **options: Any) -> AsyncIterator["Consuming"]:
        """A consumer."""
        async with self.client.queue(queue).consume(**options) as consumer:
            yield Consuming(consumer)

    async def request(self, queue: str, body: str, answer: Callable[[str], str]) -> str:
        """Ask, let a worker answer, and return that."""

        async def handle(message: Message[bytes]) -> None:
            await message.reply(answer(message.text))

        worker = asyncio.ensure_future(self.client.queue(queue).work(handle))
        got = await self.client.queue(queue).request(body, timeout=10)
        worker.cancel()
        await asyncio.wait([worker])
        return got.text

    def _queue(self, taken: Iterable[Taken]) -> "penstock.Queue[bytes]":
        return self.client.queue(next(iter(taken)).raw.queue)

    async def _refusable(self, call: Any) -> Any:
        try:
            return await call
        except penstock.Refused as error:
            raise Refused(str(error)) from error


class Consuming:
    """What a consumer of Penstock brings."""

    def __init__(self, consumer: Consumer[bytes]) -> None:
        self.consumer = consumer

    async def arrived(self, count: int, within: float = 5.0) -> list[Taken]:
        """Up to `count` messages, as many as come in time."""
        taken: list[Taken] = []
        try:
            async with asyncio.timeout(within):
                while len(taken) < count:
                    taken.append(_taken(await anext(self.consumer)))
        except TimeoutError:
            pass
        return taken


def _taken(message: Message[bytes]) -> Taken:
    return Taken(message.text, message.redelivered, message.delivery, message.headers, message)


async def until(side: Any, queue: str, counts: Counts) -> None:
    """Wait until the queue has come to that, as far as it tells."""
    seen: Counts | None = None
    try:
        async with asyncio.timeout(UNTIL_SECONDS):
            while True:
                seen = await side.counts(queue)
                pairs = zip(seen, counts, strict=True)
                if all(None in pair or pair[0] == pair[1] for pair in pairs):
                    return
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise AssertionError(f"{queue}: {seen}, not {counts}") from None


async def drain(side: Any, queue: str, count: int, wait: float = 5.0) -> list[str]:
    """Take and ack that many, one by one; fewer, if no more come."""
    texts: list[str] = []
    while len(texts) < count:
        taken = await side.take(queue, wait=wait)
        if not taken:
            break
        texts += [each.text for each in taken]
        await side.ack(*taken)
    return texts


async def dead_letters(side: Any, queue: str, **settings: Any) -> str:
    """A queue, and one for its dead letters, whose name is returned."""
    dead = f"{queue}-dead"
    await side.declare(dead, **(NO_DEAD_LETTERS if side.name == "penstock" else {}))
    await side.declare(queue, dead_letter=dead, **settings)
    return dead


async def gone(side: Any, queue: str, ask_every: float = 0.2) -> None:
    """Wait until there is no such queue. To ask may be a use of it."""
    async with asyncio.timeout(UNTIL_SECONDS):
        while True:
            try:
                await side.counts(queue)
            except Refused:
                return
            await asyncio.sleep(ask_every)
