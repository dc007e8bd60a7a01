"""Four producers: two through the client, which reconnects and repeats; two that speak the bare protocol, a
few batches per connection, and never repeat anything."""

import asyncio

import penstock
from penstock_protocol.messages.topics import Produce
from tests.crash.bare import Bare
from tests.crash.field import BATCH_MAX, PARTITIONS, Field, values
from tests.crash.ledger import asked
from tests.integration.raw import RawClient
from tests.sim.features import encoded

CONCURRENT = 16
BATCHES_PER_CONNECTION = 6


async def one_by_one(field: Field, process: str) -> None:
    """Many calls at once, which the client gathers."""
    new, recorder = values(process), field.recorder(process)
    async with field.connect() as client:
        queue, topic = client.queue(field.jobs), client.topic(field.topic)

        async def enqueue(value: str) -> None:
            with asked(recorder, "enqueue", queue=field.jobs, values=[value]) as answer:
                answer["first"] = (await queue.enqueue(field.body(value))).offset

        async def produce(value: str) -> None:
            partition = field.random.randrange(PARTITIONS)
            with asked(recorder, "produce", log=field.log(partition), values=[value]) as answer:
                answer["first"] = (await topic.produce(field.body(value), partition=partition)).offset

        while not field.idle.is_set():
            await field.room()
            await asyncio.gather(*map(enqueue, new(CONCURRENT)), *map(produce, new(CONCURRENT)))


async def in_batches(field: Field, process: str) -> None:
    """One batch a call."""
    new, recorder, random = values(process), field.recorder(process), field.random
    async with field.connect() as client:
        queue, topic = client.queue(field.jobs), client.topic(field.topic)
        while not field.idle.is_set():
            await field.room()
            some = new(random.randint(1, BATCH_MAX))
            with asked(recorder, "enqueue", queue=field.jobs, values=some) as answer:
                answer["first"] = first(await queue.enqueue_many(map(field.body, some)))
            some, partition = new(random.randint(1, BATCH_MAX)), random.randrange(PARTITIONS)
            records = [penstock.Outgoing(field.body(value), partition=partition) for value in some]
            with asked(recorder, "produce", log=field.log(partition), values=some) as answer:
                answer["first"] = first(await topic.produce_many(records))


def first(receipts: penstock.Receipts[penstock.Receipt] | penstock.Receipts[penstock.RecordMetadata]) -> int:
    """The offset of the first message of one batch."""
    assert [receipt.offset - receipts[0].offset for receipt in receipts] == list(range(len(receipts)))
    return receipts[0].offset


async def raw(field: Field, process: str) -> None:
    """A new connection for every few batches."""
    await RawSender(field, process).send()


class RawSender(Bare):
    """To the queue and to the topic by turns."""

    def work(self, client: RawClient) -> None:
        """A few batches each."""
        for _ in range(self.random.randint(1, BATCHES_PER_CONNECTION)):
            some = self.new(self.random.randint(1, BATCH_MAX))
            if not (self.enqueue(client, self.field.jobs, some) and self._produce(client)):
                break

    def _produce(self, client: RawClient) -> bool:
        some = self.new(self.random.randint(1, BATCH_MAX))
        partition = self.random.randrange(PARTITIONS)
        batch = bytes(encoded([self.field.body(value) for value in some]))
        with asked(self.recorder, "produce", log=self.field.log(partition), values=some) as answer:
            answer["first"] = client.ask(Produce(self.field.topic, partition, None, batch)).first
        return "first" in answer
