"""Kafka: confluent-kafka (librdkafka), idempotent producer, acks=all; one broker in KRaft mode from its jars.

A topic is a topic; a queue is one that a single group reads. Keys choose among eight partitions. Without the
setting `fsync` a confirm means that the broker's page cache has it, which is how Kafka is usually run.
"""

import asyncio
import os
import subprocess
import threading
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from penstock_loadtest.adapter import Adapter, Arrived, Unsupported
from penstock_loadtest.broker import free_port
from penstock_loadtest.peers.server import INSTALL, PeerServer, program

JARS = Path(os.environ.get("PENSTOCK_KAFKA_JARS", Path.home() / ".cache/penstock-peers/kafka"))
PARTITIONS = 8
CONSUME = 500
POLL_SECONDS = 0.1
CALL_SECONDS_MAX = 60.0
FLUSH_SECONDS_MAX = 5.0
PRODUCER: dict[str, str | int | float | bool] = {
    "acks": "all",
    "enable.idempotence": True,
    "batch.size": 1 << 20,
    "message.max.bytes": 8 << 20,
    "queue.buffering.max.messages": 1_000_000,
    "queue.buffering.max.kbytes": 1 << 20,
}
CLUSTER = "cGVuc3RvY2stbG9hZHRlcw"


class Server(PeerServer):
    """One node, broker and controller."""

    PROGRAM = "java"

    @classmethod
    def missing(cls) -> str | None:
        found = program("java") and any(JARS.glob("kafka_*.jar"))
        return None if found else f"java or the jars of Kafka in {JARS} are not there: {INSTALL}"

    def versions(self) -> dict[str, str]:
        jar = next(JARS.glob("kafka_*.jar"))
        return {"kafka": jar.stem.rpartition("-")[2], **super().versions()}

    def launch(self) -> None:
        self.url = f"kafka://127.0.0.1:{self.port}"
        controller = free_port()
        (self.directory / "server.properties").write_text(
            "process.roles=broker,controller\nnode.id=1\n"
            f"controller.quorum.voters=1@127.0.0.1:{controller}\n"
            f"listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}\n"
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.port}\n"
            "controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\n"
            f"log.dirs={self.directory}/data\noffsets.topic.replication.factor=1\n"
            "transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n"
            "group.initial.rebalance.delay.ms=0\nmessage.max.bytes=8388608\n"
            + ("log.flush.interval.messages=1\n" if "fsync" in self._settings else "")
        )
        java = (program("java") or "java", "-Xmx1g", "-cp", f"{JARS}/*")
        subprocess.run(
            [*java, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", "server.properties"],
            check=True,
            capture_output=True,
            cwd=self.directory,
            timeout=CALL_SECONDS_MAX,
        )
        self.spawn(*java, "kafka.Kafka", "server.properties")


class Topics(Adapter):
    """One topic per flow."""

    async def open(self) -> None:
        if self.flow.kind == "queue" and self.flow.lanes > 1:
            raise Unsupported("Kafka is not made for thousands of topics on one small machine")
        address = urlsplit(self.url)
        self._servers: dict[str, str | int | float | bool] = {
            "bootstrap.servers": f"{address.hostname}:{address.port}"
        }
        self._sender: Sender | None = None

    async def close(self) -> None:
        if self._sender is not None:
            await asyncio.to_thread(self._sender.close)

    async def create(self) -> None:
        partitions = PARTITIONS if self.flow.lanes > 1 else 1
        admin = AdminClient(self._servers)  # its answers end with it
        made = admin.create_topics([NewTopic(self.name, partitions, 1)])
        await asyncio.to_thread(made[self.name].result, CALL_SECONDS_MAX)

    async def delete(self) -> None:
        admin = AdminClient(self._servers)
        gone = admin.delete_topics([self.name])
        await asyncio.to_thread(gone[self.name].result, CALL_SECONDS_MAX)

    # Publish

    async def publish(self, lane: int, bodies: list[bytes]) -> None:
        if self._sender is None:
            alone = self.flow.batch == 1 and (self.flow.in_flight == 1 or self.flow.rate is not None)
            self._sender = Sender({**self._servers, "linger.ms": 0 if alone else 5})
        key = f"key-{lane}" if self.flow.lanes > 1 else None
        await self._sender.produce(self.name, key, bodies)

    # Consume

    async def consume(self, reader: int, arrived: Arrived) -> None:
        consumer = Consumer(
            {**self._servers, "group.id": f"{self.name}-{reader}", "auto.offset.reset": "earliest"}
        )
        consumer.subscribe([self.name])
        try:
            while not self.stopped:
                # Waits for one, takes what is there: consume() alone would wait for all.
                messages = consumer.consume(1, POLL_SECONDS)
                messages += consumer.consume(CONSUME, 0) if messages else []
                bodies: list[bytes] = []
                for message in messages:
                    if message.error():
                        raise KafkaException(message.error())
                    bodies.append(message.value() or b"")
                if bodies:
                    await arrived(bodies, len(bodies))
                await asyncio.sleep(0)
        finally:
            consumer.close()


class Sender:
    """A producer. Its confirms are handed over by a thread that waits in librdkafka, outside the GIL."""

    def __init__(self, settings: dict[str, str | int | float | bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._producer = Producer({**PRODUCER, **settings})
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._poll, daemon=True)
        self._poller.start()

    def close(self) -> None:
        """Wait for what is under way, for a while."""
        self._producer.flush(FLUSH_SECONDS_MAX)
        self._closing.set()
        self._poller.join()

    async def produce(self, topic: str, key: str | None, bodies: list[bytes]) -> None:
        """Produce and return when all of them are confirmed."""
        done: asyncio.Future[None] = self._loop.create_future()
        confirmed = partial(self._confirmed, [len(bodies)], done)
        for body in bodies:
            self._producer.produce(topic, body, key, on_delivery=confirmed)
        await done

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(POLL_SECONDS)

    def _confirmed(self, left: list[int], done: "asyncio.Future[None]", error: Any, _: Any) -> None:
        """In the poller's thread."""
        left[0] -= 1
        if error is not None or not left[0]:
            self._loop.call_soon_threadsafe(_settle, done, error)


def _settle(done: "asyncio.Future[None]", error: Any) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(KafkaException(error))
