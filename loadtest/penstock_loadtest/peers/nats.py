"""NATS JetStream: nats-py; one inbox for all confirms, so that many publishes are in flight; explicit acks.

A queue is a subject of a stream on disk; each reader has a durable push consumer of its own, shared by its
processes as a queue group. Keys are subjects, too.
"""

import asyncio
from typing import Any, NamedTuple

import nats
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

from penstock_loadtest.adapter import Adapter, Arrived
from penstock_loadtest.peers.server import PeerServer, program

ACKS_PENDING_MAX = 5_000
PENDING_BYTES_MAX = 1 << 30


class Server(PeerServer):
    """nats-server with JetStream."""

    PROGRAM = "nats-server"

    def launch(self) -> None:
        self.url = f"nats://127.0.0.1:{self.port}"
        (self.directory / "nats.conf").write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'max_payload: 8MB\njetstream {{ store_dir: "{self.directory}", max_file_store: 100GB }}\n'
        )
        self.spawn(program(self.PROGRAM) or self.PROGRAM, "-c", str(self.directory / "nats.conf"))


class Waiting(NamedTuple):
    """A publish call whose confirms are counted down in `left`."""

    left: list[int]
    done: "asyncio.Future[None]"


class JetStream(Adapter):
    """One stream per flow, one subject per queue or key."""

    async def open(self) -> None:
        self._nats: Any = await nats.connect(self.url, pending_size=1 << 26)
        self._stream: Any = self._nats.jetstream()
        self._subjects = [name.replace("-", ".") for name in self.names()]
        self._inbox = self._nats.new_inbox()
        self._waiting: dict[str, Waiting] = {}
        self._calls = 0
        await self._nats.subscribe(f"{self._inbox}.*", cb=self._confirmed, pending_msgs_limit=-1)

    async def close(self) -> None:
        await self._nats.close()

    async def create(self) -> None:
        retention = RetentionPolicy.WORK_QUEUE if self.flow.kind == "queue" else RetentionPolicy.LIMITS
        prefix = self.name.replace("-", ".")
        await self._stream.add_stream(
            StreamConfig(self.name, subjects=[f"{prefix}.>"], storage=StorageType.FILE, retention=retention)
        )

    async def delete(self) -> None:
        await self._stream.delete_stream(self.name)

    async def publish(self, lane: int, bodies: list[bytes]) -> None:
        self._calls += 1
        call = str(self._calls)
        waiting = Waiting([len(bodies)], asyncio.get_running_loop().create_future())
        self._waiting[call] = waiting
        subject, reply = self._subjects[lane], f"{self._inbox}.{call}"
        for body in bodies:
            await self._nats.publish(subject, body, reply=reply)
        await waiting.done

    async def _confirmed(self, message: Msg) -> None:
        call = message.subject.rpartition(".")[2]
        waiting = self._waiting[call]
        if b'"error"' in message.data and not waiting.done.done():
            waiting.done.set_exception(OSError(message.data.decode()))
        waiting.left[0] -= 1
        if not waiting.left[0]:
            del self._waiting[call]
            if not waiting.done.done():
                waiting.done.set_result(None)

    async def consume(self, reader: int, arrived: Arrived) -> None:
        async def handle(message: Msg) -> None:
            await arrived((message.data,), 1)
            await message.ack()

        group = f"reader-{reader}"
        prefix = self.name.replace("-", ".")
        subscription = await self._stream.subscribe(
            f"{prefix}.>",
            queue=group,
            durable=group,
            cb=handle,
            manual_ack=True,
            config=ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=ACKS_PENDING_MAX),
            pending_msgs_limit=-1,
            pending_bytes_limit=PENDING_BYTES_MAX,
        )
        await self.stopping.wait()
        await subscription.unsubscribe()
        await self._nats.flush()
