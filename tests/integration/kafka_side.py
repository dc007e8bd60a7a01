"""Kafka through librdkafka and, where the producer in Java is meant, its console producer; in the words of
streams.py."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic
from tests.integration.sides import Refused
from tests.integration.streams import TURN_SECONDS, Place, Said, Stored, becomes

import penstock
from penstock import Outgoing
from penstock_loadtest.peers import kafka
from penstock_loadtest.peers.server import program

SECONDS = 20
MS = 1000
SETTINGS = """
auto.create.topics.enable=true
group.min.session.timeout.ms=500
log.cleaner.backoff.ms=100
log.initial.task.delay.ms=100
log.retention.check.interval.ms=200
offsets.topic.num.partitions=1
transaction.state.log.num.partitions=1
"""
"""Quick to clean up, and to miss a member."""
TOPIC: dict[str, Any] = {
    "cleanup": lambda name: {"cleanup.policy": "compact,delete" if name == "both" else name},
    "retention_bytes": lambda size: {"retention.bytes": size},
    "tombstone_retention": lambda seconds: {"delete.retention.ms": round(seconds * MS)},
    "segment_bytes": lambda size: {"segment.bytes": size},
    "dirty_ratio": lambda share: {"min.cleanable.dirty.ratio": share},
}
ASSIGNORS = {"sticky": "cooperative-sticky", "range": "range", "round_robin": "roundrobin"}


class Server(kafka.Server):
    """A node that cleans up at once."""

    def spawn(self, *command: str, environment: dict[str, str] | None = None) -> None:
        with (self.directory / "server.properties").open("a") as properties:
            properties.write(SETTINGS)
        super().spawn(*command, environment=environment)


class Kafka:
    """A producer and an administrator; consumers as they are asked for."""

    name = "kafka"

    def __init__(self, url: str) -> None:
        self.servers = url.removeprefix("kafka://")
        self.settings: dict[str, Any] = {"bootstrap.servers": self.servers, "log_level": 0}
        self.admin = AdminClient(self.settings)
        self._begun: list[Any] = []
        self.producer = Producer({**self.settings, "partitioner": "murmur2_random", "linger.ms": 1})

    async def create(self, topic: str, partitions: int = 1, **settings: Any) -> None:
        config: dict[str, Any] = {}
        for name, value in settings.items():
            config |= TOPIC[name](value)
        await _result(self.admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic])

        async def is_known() -> bool:
            listed = await asyncio.to_thread(self.admin.list_topics, timeout=SECONDS)
            return topic in listed.topics

        await becomes(is_known)  # what was created shows a moment later

    async def alter(self, topic: str, partitions: int) -> None:
        await _result(self.admin.create_partitions([NewPartitions(topic, partitions)])[topic])

    async def count(self, topic: str) -> int:
        listed = await asyncio.to_thread(self.admin.list_topics, timeout=SECONDS)
        if topic not in listed.topics:
            raise Refused(topic)
        return len(listed.topics[topic].partitions)

    async def produce(self, topic: str, *records: Outgoing, partitioner: str = "") -> list[Place]:
        places: dict[int, Place] = {}
        errors: list[KafkaError] = []

        def confirmed(index: int) -> Any:
            def done(error: KafkaError | None, message: Any) -> None:
                if error is None:
                    places[index] = Place(message.partition(), message.offset())
                else:
                    errors.append(error)

            return done

        producer = Producer({**self.settings, "partitioner": partitioner}) if partitioner else self.producer
        for index, record in enumerate(records):
            options: dict[str, Any] = {"callback": confirmed(index)}
            if record.headers is not None:
                options["headers"] = dict(record.headers)
            if record.partition is not None:
                options["partition"] = record.partition
            if record.timestamp is not None:
                options["timestamp"] = round(record.timestamp.timestamp() * MS)
            try:
                producer.produce(topic, record.body, record.key, **options)
            except KafkaException as error:
                raise Refused(str(error)) from error
        await asyncio.to_thread(producer.flush, SECONDS)
        if errors:
            raise Refused(str(errors[0]))
        return [places[index] for index in range(len(records))]

    async def produce_in_java(self, topic: str, keys: Sequence[str]) -> None:
        """By Kafka's own producer, which chooses the partitions; each value is its key."""
        java = (program("java") or "java", "-Xmx256m", "-cp", f"{kafka.JARS}/*")
        options = ("--bootstrap-server", self.servers, "--topic", topic)
        properties = ("--property", "parse.key=true", "--property", "key.separator=|")
        await asyncio.to_thread(
            subprocess.run,
            [*java, "kafka.tools.ConsoleProducer", *options, *properties],
            input="".join(f"{key}|{key}\n" for key in keys).encode(),
            capture_output=True,
            check=True,
            timeout=60,
        )

    def named_producer(self, name: str) -> Producer:
        """A producer that nobody else has the name of."""
        return Producer({**self.settings, "transactional.id": name, "transaction.timeout.ms": 10 * MS})

    async def produce_named(self, producer: Any, topic: str, body: bytes) -> None:
        """One record, as a transaction."""
        await asyncio.to_thread(self._produce_named, producer, topic, body)

    def _produce_named(self, producer: Any, topic: str, body: bytes) -> None:
        try:
            if producer not in self._begun:
                producer.init_transactions(SECONDS)
                self._begun.append(producer)
            producer.begin_transaction()
            producer.produce(topic, body)
            producer.commit_transaction(SECONDS)
        except KafkaException as error:
            raise Refused(str(error)) from error

    async def fetch(self, topic: str, partition: int = 0, offset: int = 0) -> list[Stored]:
        return await asyncio.to_thread(self._fetch, topic, partition, offset)

    def _fetch(self, topic: str, partition: int, offset: int) -> list[Stored]:
        found: list[Stored] = []
        consumer = self._consumer("nobody", **{"enable.partition.eof": True, "auto.offset.reset": "error"})
        try:
            consumer.assign([TopicPartition(topic, partition, offset)])
            while True:
                message = consumer.poll(SECONDS)
                assert message is not None
                error = message.error()
                if error is None:
                    found.append(_stored(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    return found
                elif error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:  # it is quite new
                    raise Refused(str(error))
        finally:
            consumer.close()

    async def span(self, topic: str, partition: int = 0) -> tuple[int, int]:
        consumer = self._consumer("nobody")
        try:
            place = TopicPartition(topic, partition)
            found: tuple[int, int] = await asyncio.to_thread(consumer.get_watermark_offsets, place, SECONDS)
            return found
        finally:
            consumer.close()

    async def offset_at(self, topic: str, instant: datetime, partition: int = 0) -> int:
        consumer = self._consumer("nobody")
        try:
            place = TopicPartition(topic, partition, round(instant.timestamp() * MS))
            (found,) = await asyncio.to_thread(consumer.offsets_for_times, [place], SECONDS)
        finally:
            consumer.close()
        offset: int = found.offset
        return (await self.span(topic, partition))[1] if offset < 0 else offset

    async def commit(
        self, group: str, topic: str, offsets: Mapping[int, int], metadata: str | None = None
    ) -> None:
        places = [TopicPartition(topic, n, offset, metadata or "") for n, offset in offsets.items()]
        request = ConsumerGroupTopicPartitions(group, places)

        async def is_taken() -> bool:
            done = await _result(self.admin.alter_consumer_group_offsets([request])[group])
            errors = [place.error for place in done.topic_partitions if place.error is not None]
            if any(error.code() != KafkaError.COORDINATOR_LOAD_IN_PROGRESS for error in errors):
                raise Refused(str(errors[0]))
            return not errors

        await becomes(is_taken)

    async def committed(self, group: str, topic: str) -> dict[int, tuple[int, str]]:
        request = ConsumerGroupTopicPartitions(group)
        done = await _result(self.admin.list_consumer_group_offsets([request])[group])
        return {
            place.partition: (place.offset, place.metadata or "")
            for place in done.topic_partitions
            if place.topic == topic and place.offset >= 0
        }

    async def delete_group(self, group: str) -> None:
        await _result(self.admin.delete_consumer_groups([group])[group])

    def _consumer(self, group: str, **settings: Any) -> Any:
        return Consumer({**self.settings, "group.id": group, "enable.auto.commit": False, **settings})

    @asynccontextmanager
    async def member(
        self,
        name: str,
        group: str,
        topics: Sequence[str],
        said: list[Said] | None = None,
        *,
        start: str = "earliest",
        assignor: str = "sticky",
        instance: str | None = None,
        auto_commit: bool = False,
        session: float = 10.0,
        poll_interval: float = 300.0,
    ) -> AsyncIterator["Member"]:
        settings: dict[str, Any] = {
            "auto.offset.reset": start,
            "client.id": name,
            "enable.auto.commit": auto_commit,
            "heartbeat.interval.ms": 200,
            "max.poll.interval.ms": round(poll_interval * MS),
            "partition.assignment.strategy": ASSIGNORS[assignor],
            "session.timeout.ms": round(session * MS),
        }
        if instance is not None:
            settings["group.instance.id"] = instance
        member = Member(self._consumer(group, **settings), name, said)
        member.consumer.subscribe(
            list(topics), on_assign=member.assigned, on_revoke=member.revoked, on_lost=member.lost
        )
        try:
            yield member
        finally:
            await asyncio.to_thread(member.consumer.close)

    @asynccontextmanager
    async def reading(
        self, group: str, topic: str, *, partitions: Sequence[int], start: int | str = "earliest"
    ) -> AsyncIterator["Member"]:
        member = Member(self._consumer(group, **{"auto.offset.reset": "earliest"}), "reader", None)
        offset = {"offset": start} if isinstance(start, int) else {}
        member.consumer.assign([TopicPartition(topic, number, **offset) for number in partitions])
        try:
            yield member
        finally:
            await asyncio.to_thread(member.consumer.close)


class Member:
    """A consumer of Kafka."""

    def __init__(self, consumer: Any, name: str, said: list[Said] | None) -> None:
        self.consumer = consumer
        self.name = name
        self.said = [] if said is None else said
        self.read: list[tuple[str, int, int]] = []

    def assigned(self, _: Any, places: list[TopicPartition]) -> None:
        """Callback of librdkafka, in poll()."""
        if places:
            self.said.append(Said(self.name, "assigned", _named(places)))

    def revoked(self, consumer: Any, places: list[TopicPartition]) -> None:
        """Callback of librdkafka, in poll() or close()."""
        if not places:
            return
        self.said.append(Said(self.name, "revoked", _named(places)))
        behind = [place for place in consumer.position(places) if place.offset >= 0]
        if behind:
            with suppress(KafkaException):  # it may have been lost; and a callback must not raise
                consumer.commit(offsets=behind, asynchronous=False)

    def lost(self, _: Any, places: list[TopicPartition]) -> None:
        """Callback of librdkafka, in poll() or close()."""
        self.said.append(Said(self.name, "lost", _named(places)))

    @property
    def assignment(self) -> set[penstock.TopicPartition]:
        return set(_named(self.consumer.assignment()))

    async def turn(self) -> None:
        message = await asyncio.to_thread(self.consumer.poll, TURN_SECONDS)
        if message is None:
            return
        if message.error():
            raise Refused(str(message.error()))
        self.read.append((message.topic(), message.partition(), message.offset()))

    async def commit(self, metadata: str | None = None) -> None:
        places = [place for place in self.consumer.position(self.consumer.assignment()) if place.offset >= 0]
        if metadata is not None:
            places = [TopicPartition(p.topic, p.partition, p.offset, metadata) for p in places]
        await self.store(places)

    async def store(self, places: list[TopicPartition]) -> None:
        """Commit these offsets as a member."""
        try:
            await asyncio.to_thread(self.consumer.commit, offsets=places, asynchronous=False)
        except KafkaException as error:
            raise Refused(str(error)) from error

    async def seek(self, place: penstock.TopicPartition, offset: int) -> None:
        self.consumer.seek(TopicPartition(*place, offset))

    async def pause(self, place: penstock.TopicPartition) -> None:
        self.consumer.pause([TopicPartition(*place)])

    async def resume(self, place: penstock.TopicPartition) -> None:
        self.consumer.resume([TopicPartition(*place)])


def _named(places: list[TopicPartition]) -> frozenset[penstock.TopicPartition]:
    return frozenset(penstock.TopicPartition(place.topic, place.partition) for place in places)


def _stored(message: Any) -> Stored:
    headers = dict(message.headers() or ())
    instant = datetime.fromtimestamp(message.timestamp()[1] / MS, UTC)
    return Stored(message.offset(), message.key(), message.value(), headers, instant)


async def _result(future: Any) -> Any:
    try:
        return await asyncio.to_thread(future.result, SECONDS)
    except KafkaException as error:
        raise Refused(str(error)) from error
