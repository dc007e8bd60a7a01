"""RabbitMQ: pika on asyncio; persistent messages, publisher confirms, 1,000 of them in flight; prefetch of
1,000, acks in hundreds.

A queue is a durable queue, of the classic or the quorum type. A topic is a fanout exchange with a queue per
reader; keys go along as routing keys and order nothing.
"""

import asyncio
from collections import deque
from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.spec import Basic

from penstock_loadtest.adapter import Adapter, Arrived
from penstock_loadtest.broker import free_port
from penstock_loadtest.peers.server import INSTALL, PeerServer, program

CONFIRMS_IN_FLIGHT = 1_000
PREFETCH = 1_000
ACK_MANY = 100
SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
OPEN_SECONDS_MAX = 30.0


class Server(PeerServer):
    """A node with a port mapper of its own, so that nothing of it stays behind."""

    PROGRAM = "rabbitmq-server"

    @classmethod
    def missing(cls) -> str | None:
        found = program(SERVER) and program("epmd")
        return None if found else f"{cls.PROGRAM} is not installed: {INSTALL}"

    def versions(self) -> dict[str, str]:
        found = (self.directory / "log").read_text(errors="replace").partition("RabbitMQ ")[2].split()
        return {"rabbitmq": found[0] if found else "?"}

    def launch(self) -> None:
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/?heartbeat=600"
        mapper, distribution = str(free_port()), str(free_port())
        self.spawn(program("epmd") or "epmd", "-address", "127.0.0.1", "-port", mapper)
        here = str(self.directory)
        (self.directory / "rabbitmq.conf").write_text("vm_memory_high_watermark.relative = 0.6\n")
        self.spawn(
            SERVER,
            environment={
                "HOME": here,
                "ERL_EPMD_PORT": mapper,
                "ERL_EPMD_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODENAME": f"loadtest{self.port}@localhost",
                "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODE_PORT": str(self.port),
                "RABBITMQ_DIST_PORT": distribution,
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
                "RABBITMQ_CONFIG_FILE": f"{here}/rabbitmq",
                "RABBITMQ_MNESIA_BASE": here,
                "RABBITMQ_LOG_BASE": here,
                "RABBITMQ_LOGS": "-",
                "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/plugins",
                "RABBITMQ_PID_FILE": f"{here}/pid",
                "RABBITMQ_FEATURE_FLAGS_FILE": f"{here}/flags",
            },
        )


class Classic(Adapter):
    """Queues of the classic type."""

    TYPE = "classic"

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Any] = loop.create_future()
        self._connection = AsyncioConnection(
            pika.URLParameters(self.url),
            on_open_callback=opened.set_result,
            on_open_error_callback=lambda _, error: opened.set_exception(ConnectionError(str(error))),
            on_close_callback=self._closed,
            custom_ioloop=loop,
        )
        async with asyncio.timeout(OPEN_SECONDS_MAX):
            await opened
            self._channel: Any = await self._call(
                lambda done: self._connection.channel(on_open_callback=done)
            )
            await self._call(lambda done: self._channel.confirm_delivery(self._confirmed, done))
        self._failure: asyncio.Future[None] = loop.create_future()
        self._room = asyncio.Semaphore(max(1, CONFIRMS_IN_FLIGHT // self.flow.batch))
        self._sent = 0
        self._unconfirmed: dict[int, list[Any]] = {}
        self._oldest = 1
        self._properties = pika.BasicProperties(delivery_mode=2)

    async def _call(self, method: Any) -> Any:
        """The answer of a method that takes a callback."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        method(answer.set_result)
        return await answer

    def _closed(self, _: Any, reason: BaseException) -> None:
        for call in self._unconfirmed.values():
            if not call[1].done():
                call[1].set_exception(ConnectionError(str(reason)))
        if not self._failure.done():
            self._failure.set_exception(ConnectionError(str(reason)))
            self._failure.exception()

    async def close(self) -> None:
        if self._connection.is_open:
            self._connection.close()
            await asyncio.wait([self._failure], timeout=5)

    def _queue(self, name: str, reader: int) -> str:
        return name if self.flow.kind == "queue" else f"{name}-{reader}"

    async def create(self) -> None:
        channel = self._channel
        for name in self._places():
            for reader in range(self.flow.readers):
                queue = self._queue(name, reader)
                arguments = {"x-queue-type": self.TYPE}
                await self._call(
                    lambda done, queue=queue, arguments=arguments: channel.queue_declare(
                        queue, durable=True, arguments=arguments, callback=done
                    )
                )
        if self.flow.kind == "topic":
            await self._call(
                lambda done: channel.exchange_declare(self.name, "fanout", durable=True, callback=done)
            )
            for reader in range(self.flow.readers):
                queue = self._queue(self.name, reader)
                await self._call(
                    lambda done, queue=queue: channel.queue_bind(queue, self.name, callback=done)
                )

    def _places(self) -> list[str]:
        return self.names() if self.flow.kind == "queue" else [self.name]

    async def delete(self) -> None:
        for name in self._places():
            for reader in range(self.flow.readers):
                queue = self._queue(name, reader)
                await self._call(lambda done, queue=queue: self._channel.queue_delete(queue, callback=done))
        if self.flow.kind == "topic":
            await self._call(lambda done: self._channel.exchange_delete(self.name, callback=done))

    # Publish

    async def publish(self, lane: int, bodies: list[bytes]) -> None:
        exchange, key = (self.name, str(lane)) if self.flow.kind == "topic" else ("", f"{self.name}-{lane}")
        async with self._room:
            call: list[Any] = [len(bodies), asyncio.get_running_loop().create_future()]
            for body in bodies:
                self._sent += 1
                self._unconfirmed[self._sent] = call
                self._channel.basic_publish(exchange, key, body, self._properties)
            await call[1]

    def _confirmed(self, frame: Any) -> None:
        method = frame.method
        positive = isinstance(method, Basic.Ack)
        tags = range(self._oldest, method.delivery_tag + 1) if method.multiple else (method.delivery_tag,)
        for tag in tags:
            call = self._unconfirmed.pop(tag, None)
            if call is None or call[1].done():
                continue
            call[0] -= 1
            if not positive:
                call[1].set_exception(OSError("RabbitMQ refused a message"))
            elif not call[0]:
                call[1].set_result(None)
        while self._oldest <= self._sent and self._oldest not in self._unconfirmed:
            self._oldest += 1

    # Consume

    async def consume(self, reader: int, arrived: Arrived) -> None:
        channel, came, wake = self._channel, deque[tuple[int, bytes]](), asyncio.Event()
        self._wake = wake

        def delivered(_: Any, method: Any, __: Any, body: bytes) -> None:
            came.append((method.delivery_tag, body))
            wake.set()

        await self._call(lambda done: channel.basic_qos(prefetch_count=PREFETCH, callback=done))
        for name in self._places():
            channel.basic_consume(self._queue(name, reader), delivered)
        while not self.stopped:
            await wake.wait()
            wake.clear()
            if self._failure.done():
                self._failure.result()
            while came:
                some = [came.popleft() for _ in range(min(ACK_MANY, len(came)))]
                await arrived([body for _, body in some], len(some))
                channel.basic_ack(some[-1][0], multiple=True)

    def stop(self) -> None:
        super().stop()
        self._wake.set()


class Quorum(Classic):
    """Queues of the quorum type."""

    TYPE = "quorum"
