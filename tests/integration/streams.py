"""One vocabulary for topics of Penstock and those of others, as sides.py has one for queues: a test says the
steps once, in Penstock's words, and both have to show what the row says of each."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, NamedTuple

from tests.integration.sides import Refused

import penstock
from penstock import Client, Outgoing, TopicPartition

SECONDS = 30
TURN_SECONDS = 0.05


class Stored(NamedTuple):
    """A record as it is fetched."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, Any]
    timestamp: datetime


class Place(NamedTuple):
    """Where a record went."""

    partition: int
    offset: int


class Said(NamedTuple):
    """A callback of a member: who, whether partitions were "assigned" or "revoked", and which."""

    member: str
    what: str
    places: frozenset[TopicPartition]


class Penstock:
    """Penstock through its client."""

    name = "penstock"

    def __init__(self, client: Client, url: str) -> None:
        self.client = client
        self.url = url

    async def create(self, topic: str, partitions: int = 1, **settings: Any) -> None:
        """Create a topic. Refused if there is one of other settings."""
        await _refusable(self.client.create_topic(topic, partitions=partitions, **settings))

    async def alter(self, topic: str, partitions: int) -> None:
        """Give it that many partitions."""
        await _refusable(self.client.alter_topic(topic, partitions=partitions))

    async def count(self, topic: str) -> int:
        """How many partitions it has. Refused if there is no such topic."""
        return len((await _refusable(self.client.describe_topic(topic))).partitions)

    async def produce(self, topic: str, *records: Outgoing) -> list[Place]:
        """Append them; where they went."""
        receipts = await _refusable(self.client.topic(topic).produce_many(records))
        return [Place(each.partition, each.offset) for each in receipts]

    async def fetch(self, topic: str, partition: int = 0, offset: int = 0) -> list[Stored]:
        """Everything from there to the end."""
        found: list[Stored] = []
        while records := await _refusable(self.client.topic(topic).fetch(partition, offset)):
            found += [Stored(r.offset, r.key, r.value, r.headers, r.timestamp) for r in records]
            offset = records.next_offset
        return found

    async def span(self, topic: str, partition: int = 0) -> tuple[int, int]:
        """First offset kept, and next to be written."""
        described = (await self.client.describe_topic(topic)).partitions[partition]
        return described.start, described.end

    async def offset_at(self, topic: str, instant: datetime, partition: int = 0) -> int:
        """Of the first record at or behind an instant, the end if there is none."""
        return await self.client.topic(topic).offset(partition, instant)

    async def commit(
        self, group: str, topic: str, offsets: Mapping[int, int], metadata: str | None = None
    ) -> None:
        """Commit from outside of the group."""
        await _refusable(self.client.group(group).commit(topic, offsets, metadata=metadata))

    async def committed(self, group: str, topic: str) -> dict[int, tuple[int, str]]:
        """Per partition with a commit, offset and metadata."""
        try:
            offsets = await self.client.group(group).offsets(topic)
        except penstock.NotFound:  # no topic, no offsets
            return {}
        return {number: (int(offset), offset.metadata) for number, offset in offsets.items()}

    async def delete_group(self, group: str) -> None:
        """With its offsets."""
        await _refusable(self.client.group(group).delete())

    @asynccontextmanager
    async def member(
        self, name: str, group: str, topics: Sequence[str], said: list[Said] | None = None, **options: Any
    ) -> AsyncIterator["Member"]:
        """A member of a group, that commits what it has read before it gives a partition away."""
        said = [] if said is None else said
        member = Member(name, said)
        # Options of others, which are settings of the server here, or not there.
        for theirs in ("session", "poll_interval"):
            options.pop(theirs, None)
        consumer = self.client.consumer(
            group, topics=topics, on_assigned=member.assigned, on_revoked=member.revoked, **options
        )
        member.consumer = consumer
        async with consumer:
            yield member

    @asynccontextmanager
    async def reading(self, group: str, topic: str, **options: Any) -> AsyncIterator["Member"]:
        """A consumer of explicit `partitions` with a group to commit for."""
        member = Member("reader", [], numbers=True)
        async with self.client.topic(topic).consumer(group, **options) as consumer:
            member.consumer = consumer
            yield member


class Member:
    """A consumer of Penstock. `read`: the places of what it was handed out."""

    consumer: Any

    def __init__(self, name: str, said: list[Said], *, numbers: bool = False) -> None:
        self.name = name
        self.said = said
        self._numbers = numbers
        self.read: list[tuple[str, int, int]] = []

    def assigned(self, places: Sequence[TopicPartition]) -> None:
        """Callback of the consumer."""
        self.said.append(Said(self.name, "assigned", frozenset(places)))

    async def revoked(self, places: Sequence[TopicPartition]) -> None:
        """Callback of the consumer."""
        self.said.append(Said(self.name, "revoked", frozenset(places)))
        with suppress(penstock.Stale):  # it may have been lost
            await self.consumer.commit()

    @property
    def assignment(self) -> set[TopicPartition]:
        """What it reads now."""
        return {TopicPartition(*place) for place in self.consumer.assignment}

    async def turn(self) -> None:
        """Read one record, if one comes soon."""
        with suppress(TimeoutError):
            async with asyncio.timeout(TURN_SECONDS):
                record = await anext(self.consumer)
                self.read.append((record.topic, record.partition, record.offset))

    async def commit(self, metadata: str | None = None) -> None:
        """What was read."""
        await _refusable(self.consumer.commit(metadata=metadata))

    async def seek(self, place: TopicPartition, offset: int) -> None:
        """Go on there."""
        self.consumer.seek(self._meant(place), offset)

    async def pause(self, place: TopicPartition) -> None:
        """Read nothing of it."""
        self.consumer.pause(self._meant(place))

    async def resume(self, place: TopicPartition) -> None:
        """The inverse."""
        self.consumer.resume(self._meant(place))

    def _meant(self, place: TopicPartition) -> TopicPartition | int:
        return place.partition if self._numbers else place


async def turns(until: Callable[[], bool], *members: Any) -> None:
    """Let them read in turn until that holds."""
    async with asyncio.timeout(SECONDS):
        while not until():
            for member in members:
                await member.turn()


async def becomes(until: Callable[[], Awaitable[bool]]) -> None:
    """Wait until that holds."""
    async with asyncio.timeout(SECONDS):
        while True:
            if await until():
                return
            await asyncio.sleep(TURN_SECONDS)


async def _refusable(call: Any) -> Any:
    try:
        return await call
    except penstock.Refused as error:
        raise Refused(str(error)) from error
