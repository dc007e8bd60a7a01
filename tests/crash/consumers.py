"""Four consumers of the queue: one receives through the client, one over bare connections, two have messages
pushed to them. Now and then one releases, extends, forgets or dead-letters a message; poison fails each time.

Only a settle that was awaited and came back has a receipt; one that was staged has an unknown ending.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from random import Random

import penstock
from tests.crash.bare import Bare
from tests.crash.field import LEASE_SECONDS, Field, is_poison
from tests.crash.ledger import asked
from tests.integration.raw import RawClient
from tests.sim.history import Record, Recorder, value_of

RECEIVE_MAX = 100
WAIT_SECONDS = 0.5
TASKS = 4
STAY_MAX = 2_000
"""Messages that a push consumer takes before it leaves and comes back."""
RARELY = 0.02


def fate(random: Random, value: str | None) -> str:
    """What becomes of a message."""
    if value is not None and is_poison(value):
        return "nack"
    verbs = ("ack", "release", "extend", "forget", "dead_letter")
    return random.choices(verbs, (1 - 4 * RARELY, *[RARELY] * 4))[0]


def seen(message: penstock.Message[bytes]) -> Record:
    """A message as the history has it."""
    return {
        "value": value_of(message.body),
        "offset": message.offset,
        "token": message.lease_token,
        "attempt": message.attempt,
        "delivery": message.delivery,
        "redelivered": message.redelivered,
        "lease": message.lease_remaining,
    }


def pairs(messages: Iterable[penstock.Message[bytes]]) -> list[list[int]]:
    """Messages as a settle names them in the history."""
    return [[message.offset, message.lease_token] for message in messages]


# ---- By receive


async def receive(field: Field, process: str) -> None:
    """From the queue, and when there is little to do from its dead-letter queue."""
    recorder, random = field.recorder(process), field.random
    async with field.connect() as client:
        queue, dead = client.queue(field.jobs), client.queue(field.dead)
        while not field.over.is_set():
            messages = await received(recorder, random, queue, WAIT_SECONDS)
            fates: dict[str, list[penstock.Message[bytes]]] = defaultdict(list)
            for message in messages:
                fates[fate(random, value_of(message.body))].append(message)
            for verb, some in fates.items():
                await settle(recorder, random, queue, verb, some)
            if not messages or random.random() < 0.1:
                while dead_letters := await received(recorder, random, dead, 0):
                    await settle(recorder, random, dead, "ack", dead_letters)


async def received(
    recorder: Recorder, random: Random, queue: penstock.Queue[bytes], wait: float
) -> list[penstock.Message[bytes]]:
    """What one receive brings."""
    messages: list[penstock.Message[bytes]] = []
    with asked(recorder, "receive", queue=queue.name, wait=wait) as answer:
        messages += await queue.receive(random.randint(1, RECEIVE_MAX), wait=wait)
        answer["messages"] = [seen(message) for message in messages]
    return messages


async def settle(
    recorder: Recorder,
    random: Random,
    queue: penstock.Queue[bytes],
    verb: str,
    messages: list[penstock.Message[bytes]],
) -> None:
    """Do it to all of them in one call, and wait for the receipt."""
    if not messages or verb == "forget":
        return
    fields: Record = {"queue": queue.name, "messages": pairs(messages)}
    delay = random.choice((0.0, 0.2, None))
    if verb == "nack":
        fields["delay"] = delay
    if verb == "extend":
        fields["lease"] = LEASE_SECONDS / 2
    with asked(recorder, verb, **fields):
        match verb:
            case "ack":
                await queue.ack(messages)
            case "nack":
                await queue.nack(messages, delay, "poison")
            case "release":
                await queue.release(messages)
            case "dead_letter":
                await queue.dead_letter(messages, "by chance")
            case "extend":
                await queue.extend(messages, LEASE_SECONDS / 2)


# ---- By push


async def take_pushed(field: Field, process: str) -> None:
    """Several tasks share one consumer, which is left and entered again from time to time."""
    recorder = field.recorder(process)
    async with field.connect() as client:
        while not field.over.is_set():
            since = asyncio.get_running_loop().time()  # from here on messages may be on their way
            async with client.queue(field.jobs).consume() as consumer:
                handler = PushHandler(field, recorder, consumer, since)
                with field.stopping(consumer.stop):
                    await asyncio.gather(*(handler.run() for _ in range(TASKS)))
            recorder.note("disconnect")


class PushHandler:
    """What is done with the messages of one consumer, until it has had enough."""

    def __init__(
        self, field: Field, recorder: Recorder, consumer: penstock.Consumer[bytes], since: float
    ) -> None:
        self._field = field
        self._recorder = recorder
        self._consumer = consumer
        self._since = since
        self._left = field.random.randint(1, STAY_MAX)

    async def run(self) -> None:
        """One of the tasks."""
        async for message in self._consumer:
            self._left -= 1
            if self._left == 0:
                self._recorder.note("disconnect")  # from now on what was not pushed yet goes to others
                self._consumer.stop()
            await self._handle(message)

    async def _handle(self, message: penstock.Message[bytes]) -> None:
        record, random, queue = seen(message), self._field.random, self._field.jobs
        value = record["value"]
        since = max(self._since, self._field.ledger.enqueued.get(value, 0.0))
        self._recorder.note("deliver", queue=queue, messages=[record], since=since)
        verb = "nack" if value is not None and is_poison(value) else "ack"
        delay: Record = {"delay": 0.0} if verb == "nack" else {}
        try:
            async with message:
                if random.random() < 0.3:  # staged: nobody hears how it ends
                    self._recorder.invoke(verb, queue=queue, messages=pairs([message]), **delay)
                    if verb == "nack":
                        raise penstock.Retry(0)
                else:
                    with asked(self._recorder, verb, queue=queue, messages=pairs([message]), **delay):
                        await (message.nack(0, "poison") if verb == "nack" else message.ack())
        except penstock.Retry:
            return


# ---- Over bare connections


async def receive_raw(field: Field, process: str) -> None:
    """A connection for every receive and its settles; sometimes it is lost in between."""
    await RawReceiver(field, process).take()


class RawReceiver(Bare):
    """From the queue."""

    def work(self, client: RawClient) -> None:
        """One receive."""
        queue = self.field.jobs
        found = self.receive(client, queue, self.random.randint(1, RECEIVE_MAX), WAIT_SECONDS)
        if self.random.random() > RARELY:
            self.settle(client, queue, "ack", [each for each in found if not is_poison(each["value"])])
            poison = [each for each in found if is_poison(each["value"])]
            self.settle(client, queue, "nack", poison, self.random.choice((0, 200, None)))
