"""Penstock itself: the broker of this project by its own public client."""

import asyncio
from typing import get_args

import penstock
from penstock.views import Taken
from penstock_loadtest.adapter import Adapter, Arrived, Bodies
from penstock_loadtest.scenarios import DELAY_SECONDS, Feature

PARTITIONS = 8
"""Of a topic with keys."""
RECEIVERS = 4
"""Long polls in flight on one queue: one is answered while the others are handled."""
RECEIVE = RECORDS = 1_000
WAIT_SECONDS = 20.0
TIMEOUT_SECONDS = 120.0


class Penstock(Adapter):
    """Queues by `receive` in batches, or `consume` and `async with message`; topics as member of a group."""

    features = frozenset(get_args(Feature))

    async def open(self) -> None:
        self._client = await penstock.connect(self.url, name=f"loadtest {self.name}", timeout=TIMEOUT_SECONDS)
        self._queues = [self._client.queue(name) for name in self.names()]
        feature = self.flow.feature
        compression = feature if feature in ("lz4", "zstd") else None
        self._topic = self._client.topic(self.name, compression=compression)
        self._waiting: set[asyncio.Future[penstock.Messages[bytes]]] = set()
        self._consumers: list[penstock.Consumer[bytes] | penstock.TopicConsumer[bytes]] = []

    async def close(self) -> None:
        await self._client.close()

    def names(self) -> list[str]:
        return [f"{self.name}-0"] if self.flow.feature else super().names()

    async def create(self) -> None:
        if self.flow.kind == "topic":
            await self._client.create_topic(self.name, partitions=self._partitions)
        else:
            create = self._client.create_queue
            await asyncio.gather(*(create(name, max_messages=None, max_bytes=None) for name in self.names()))

    async def delete(self) -> None:
        if self.flow.kind == "topic":
            await self._client.delete_topic(self.name)
        else:
            await asyncio.gather(*(self._client.delete_queue(name) for name in self.names()))

    @property
    def _partitions(self) -> int:
        return self.flow.partitions or (PARTITIONS if self.flow.lanes > 1 else 1)

    # Publish

    async def publish(self, lane: int, bodies: list[bytes]) -> None:
        receipt: penstock.Receipt | penstock.RecordMetadata
        if self.flow.kind == "topic":
            receipt = await self._produce(lane, bodies)
        elif self.flow.feature:
            receipt = await self._enqueue(lane, bodies)
        elif len(bodies) == 1:
            receipt = await self._queues[lane].enqueue(bodies[0])
        else:
            receipt = (await self._queues[lane].enqueue_many(bodies))[0]
        self.durability = receipt.durability

    async def _enqueue(self, lane: int, bodies: list[bytes]) -> penstock.Receipt:
        """Messages that are more than plain."""
        queue = self._queues[0]
        match self.flow.feature:
            case "groups":
                return await queue.enqueue(bodies[0], message_group=f"group-{lane}")
            case "priority":
                return await queue.enqueue(bodies[0], priority=lane)
            case "delay":
                made = [penstock.Outgoing(body, delay=DELAY_SECONDS) for body in bodies]
            case _:
                made = [penstock.Outgoing(body, dedup_id=body[4:16].hex()) for body in bodies]
        return (await queue.enqueue_many(made))[0]

    async def _produce(self, lane: int, bodies: list[bytes]) -> penstock.RecordMetadata:
        partition = lane if self.flow.partitions else None
        key = f"key-{lane}" if partition is None and self.flow.lanes > 1 else None
        if len(bodies) == 1:
            return await self._topic.produce(bodies[0], key=key, partition=partition)
        if key is None:
            return (await self._topic.produce_many(bodies, partition=partition))[0]
        return (await self._topic.produce_many([penstock.Outgoing(body, key=key) for body in bodies]))[0]

    # Consume

    async def consume(self, reader: int, arrived: Arrived) -> None:
        if self.flow.kind == "topic":
            await self._read(f"{self.name}-{reader}", arrived)
        elif self.flow.style == "handler":
            await asyncio.gather(*(self._handle(queue, arrived) for queue in self._queues))
        else:
            receivers = RECEIVERS if len(self._queues) == 1 else 1
            await asyncio.gather(
                *(self._receive(queue, arrived) for queue in self._queues for _ in range(receivers))
            )

    async def _receive(self, queue: penstock.Queue[bytes], arrived: Arrived) -> None:
        while not self.stopped:
            waiting = asyncio.ensure_future(queue.receive(RECEIVE, wait=WAIT_SECONDS))
            self._waiting.add(waiting)
            await asyncio.wait([waiting])
            self._waiting.discard(waiting)
            if waiting.cancelled():
                return
            messages = waiting.result()
            if messages:
                await arrived(self._bodies(messages), len(messages))
                await messages.ack()

    def _bodies(self, messages: penstock.Messages[bytes]) -> Bodies:
        if self.flow.style == "messages":
            return [message.raw for message in messages]
        return [run.batch.bodies() for run in messages.runs]

    async def _handle(self, queue: penstock.Queue[bytes], arrived: Arrived) -> None:
        async with queue.consume() as consumer:
            self._consumers.append(consumer)
            async for message in consumer:
                async with message:
                    await arrived((message.raw,), 1)

    async def _read(self, group: str, arrived: Arrived) -> None:
        async with self._topic.consumer(group, auto_commit=True) as consumer:
            self._consumers.append(consumer)
            if self.flow.style == "messages":
                async for record in consumer:
                    await arrived((record.raw,), 1)
                return
            async for records in consumer.batches(RECORDS):
                assert isinstance(records, Taken)
                await arrived(records.bodies(), len(records))

    def stop(self) -> None:
        super().stop()
        for consumer in self._consumers:
            consumer.stop()
        for waiting in self._waiting:
            waiting.cancel()
