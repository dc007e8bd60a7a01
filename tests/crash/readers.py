"""Two groups that read the topic and commit where they are, and an audit that reads it all once more."""

from collections.abc import Iterable
from contextlib import AbstractContextManager

import penstock
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.messages.topics import At, Offset, Offsets
from tests.crash.field import PARTITIONS, Field
from tests.crash.ledger import asked
from tests.sim.history import Record, Recorder, value_of

FETCH_MAX = 300
WAIT_SECONDS = 0.3
STAY_MAX = 40
"""Batches that a consumer of the group takes before it leaves and comes back."""


def read(records: Iterable[penstock.Record[bytes]]) -> list[list[object]]:
    """Records as the history has them."""
    return [[record.offset, value_of(record.raw)] for record in records]


class Reader:
    """A group with one member. `position`: the offset it reads next, per partition."""

    def __init__(self, field: Field, group: str) -> None:
        self.position = [0] * PARTITIONS
        self._field = field
        self._group = group
        self._recorder = field.recorder(group)

    def _fields(self, partition: int) -> Record:
        return {"log": self._field.log(partition), "group": self._group}

    async def consume(self) -> None:
        """By the client's consumer, entered again and again where the group left off."""
        assignment = 0
        async with self._field.connect() as client:
            topic = client.topic(self._field.topic)
            while not self._field.over.is_set():
                assignment += 1
                await self._go_back(client)
                async with topic.consumer(self._group, partitions=range(PARTITIONS)) as consumer:
                    with self._field.stopping(consumer.stop), self._field.ledger.refusing(penstock.Corrupt):
                        await self._take(consumer, assignment)

    async def _take(self, consumer: penstock.TopicConsumer[bytes], assignment: int) -> None:
        left = self._field.random.randint(1, STAY_MAX)
        async for records in consumer.batches(FETCH_MAX):
            partition = records[0].partition
            with asked(self._recorder, "poll", **self._fields(partition), assignment=assignment) as answer:
                answer["records"] = read(records)
            self.position[partition] = records[-1].offset + 1
            if self._field.random.random() < 0.7:
                with self._commit(partition):
                    await consumer.commit(records[-1])
            left -= 1
            if not left:
                return

    async def fetch(self) -> None:
        """By single calls."""
        random = self._field.random
        async with self._field.connect() as client:
            topic, group = client.topic(self._field.topic), client.group(self._group)
            while not self._field.over.is_set():
                for partition in range(PARTITIONS):
                    await fetch(self._field, self._recorder, topic, self.position, partition)
                    if random.random() < 0.7:
                        with self._commit(partition):
                            await group.commit(topic.name, {partition: self.position[partition]})
                if random.random() < 0.05:
                    await self._go_back(client)

    def _commit(self, partition: int) -> AbstractContextManager[Record]:
        offset = self.position[partition]
        return asked(self._recorder, "commit", **self._fields(partition), offset=offset, generation=0)

    async def _go_back(self, client: penstock.Client) -> None:
        """To what the group has committed."""
        for partition in range(PARTITIONS):
            with asked(self._recorder, "committed", **self._fields(partition)) as answer:
                offsets = await client.group(self._group).offsets(self._field.topic)
                answer["offset"] = offsets.get(partition)
                self.position[partition] = offsets.get(partition, 0)


async def fetch(
    field: Field, recorder: Recorder, topic: penstock.Topic[bytes], position: list[int], partition: int
) -> None:
    """One fetch, which moves the position."""
    log, offset = field.log(partition), position[partition]
    with asked(recorder, "fetch", log=log, offset=offset) as answer:
        most = field.random.randint(1, FETCH_MAX)
        records = await topic.fetch(partition, offset, max_records=most, wait=WAIT_SECONDS)
        answer["records"], answer["end"] = read(records), records.end
        position[partition] = records.next_offset


def look(field: Field, recorder: Recorder, groups: Iterable[str]) -> None:
    """What a broker that has just started knows of the topic, before much can have changed."""
    with field.connect_raw() as client:
        for partition in range(PARTITIONS):
            log = field.log(partition)
            with asked(recorder, "end", log=log) as answer:
                answer["end"] = client.ask(Offset(field.topic, partition, At.LATEST)).offset
            for group in groups:
                with asked(recorder, "committed", log=log, group=group) as answer:
                    rows = unpack_document(client.ask(Offsets(group, field.topic)).payload)
                    answer["offset"] = next((row[1] for row in rows if row[0] == partition), None)


async def audit(field: Field, client: penstock.Client, ends: list[int]) -> None:
    """Read it all from the start."""
    recorder, topic, position = field.recorder("audit"), client.topic(field.topic), [0] * PARTITIONS
    for partition in range(PARTITIONS):
        while position[partition] < ends[partition]:
            await fetch(field, recorder, topic, position, partition)
