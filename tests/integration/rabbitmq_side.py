"""RabbitMQ through pika, in the words of sides.py: the right-hand sides are what the page says they are."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any

import pika
from pika.exceptions import AMQPChannelError, NackError, UnroutableError
from tests.integration.sides import POLL_SECONDS, Counts, Refused, Taken

from penstock_loadtest.broker import free_port
from penstock_loadtest.peers import rabbitmq

MS = 1000
OVERFLOW = {"reject": "reject-publish", "drop_oldest": "drop-head", "dead_letter_oldest": "drop-head"}
PROPERTIES = ("headers", "reply_to", "correlation_id", "content_type", "priority", "message_id")
ARGUMENTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "ttl": lambda seconds: {"x-message-ttl": round(seconds * MS)},
    "expires": lambda seconds: {"x-expires": round(seconds * MS)},
    "max_messages": lambda most: {"x-max-length": most},
    "max_bytes": lambda most: {"x-max-length-bytes": most},
    "overflow": lambda name: {"x-overflow": OVERFLOW[name]},
    "dead_letter": lambda name: {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": name},
    "single_active": lambda yes: {"x-single-active-consumer": yes},
    "max_attempts": lambda most: {"x-queue-type": "quorum", "x-delivery-limit": most - 1},
    "priorities": lambda yes: {"x-max-priority": 9} if yes else {},
    "on_expiry": lambda _: {},  # with a dead-letter exchange it is always so
    "retry": lambda _: {},  # there is none
}


class Server(rabbitmq.Server):
    """A node that tells its metrics as well."""

    def launch(self) -> None:
        self.metrics = f"http://127.0.0.1:{(port := free_port())}/metrics"
        self._listen = f"prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {port}\n"
        (self.directory / "plugins").write_text("[rabbitmq_prometheus].")
        super().launch()

    def spawn(self, *command: str, environment: dict[str, str] | None = None) -> None:
        settings = self.directory / "rabbitmq.conf"
        if settings.exists():
            settings.write_text(settings.read_text() + self._listen)
        super().spawn(*command, environment=environment)


class RabbitMQ:
    """One connection; a channel is opened again when an error has closed it."""

    name = "rabbitmq"

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection: Any = pika.BlockingConnection(pika.URLParameters(url))
        self.channel: Any = self._open()

    def _open(self) -> Any:
        channel = self.connection.channel()
        channel.confirm_delivery()
        return channel

    def close(self) -> None:
        if self.connection.is_open:
            self.connection.close()

    @asynccontextmanager
    async def another(self) -> AsyncIterator["RabbitMQ"]:
        other = RabbitMQ(self.url)
        try:
            yield other
        finally:
            other.close()

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        """A method of the channel; a new channel if that closes it."""
        try:
            return getattr(self.channel, method)(*args, **options)
        except (AMQPChannelError, NackError, UnroutableError) as error:
            if not self.channel.is_open:
                self.channel = self._open()
            raise Refused(repr(error)) from error

    async def declare(self, queue: str, *, exclusive: bool = False, **settings: Any) -> None:
        arguments: dict[str, Any] = {}
        for name, value in settings.items():
            arguments |= ARGUMENTS[name](value)
        self.call("queue_declare", queue, durable=not exclusive, exclusive=exclusive, arguments=arguments)

    async def publish(self, queue: str, body: str, *, ttl: float | None = None, **options: Any) -> None:
        given = {name: value for name, value in options.items() if name in PROPERTIES}
        assert given == options
        expiration = None if ttl is None else str(round(ttl * MS))
        properties = pika.BasicProperties(delivery_mode=2, expiration=expiration, **given)
        self.call("basic_publish", "", queue, body.encode(), properties, mandatory=True)

    async def publish_many(self, queue: str, items: list[tuple[str, dict[str, Any]]]) -> None:
        for body, options in items:
            await self.publish(queue, body, **options)

    async def take(self, queue: str, most: int = 1, wait: float = 0.0) -> list[Taken]:
        taken: list[Taken] = []
        end = monotonic() + wait
        while len(taken) < most:
            method, properties, body = self.call("basic_get", queue)
            if method is not None:
                taken.append(_taken(self.channel, method, properties, body))
            elif taken or monotonic() > end:
                break
            else:
                await asyncio.sleep(POLL_SECONDS)
        return taken

    async def ack(self, *taken: Taken) -> None:
        for each in taken:
            self._settle("basic_ack", each)

    async def ack_up_to(self, taken: Taken) -> None:
        """That one, and all before it."""
        self._settle("basic_ack", taken, multiple=True)

    async def release(self, *taken: Taken) -> None:
        for each in taken:
            self._settle("basic_nack", each, requeue=True)

    async def fail(self, *taken: Taken) -> None:
        for each in taken:
            self._settle("basic_reject", each, requeue=True)

    async def bury(self, *taken: Taken) -> None:
        for each in taken:
            self._settle("basic_reject", each, requeue=False)

    def _settle(self, method: str, taken: Taken, **options: Any) -> None:
        channel, tag, _ = taken.raw
        getattr(channel, method)(tag, **options)
        try:
            channel.basic_qos(prefetch_count=0)  # an answer, behind what the broker has to say to the above
        except AMQPChannelError as error:
            if channel is self.channel:
                self.channel = self._open()
            raise Refused(repr(error)) from error

    async def counts(self, queue: str) -> Counts:
        return Counts(self.call("queue_declare", queue, passive=True).method.message_count)

    async def purge(self, queue: str) -> int:
        purged: int = self.call("queue_purge", queue).method.message_count
        return purged

    async def delete(self, queue: str) -> None:
        self.call("queue_delete", queue)

    async def request(self, queue: str, body: str, answer: Callable[[str], str]) -> str:
        asking = Consuming(self.connection)
        self.channel.basic_consume("amq.rabbitmq.reply-to", asking.delivered, auto_ack=True)
        await self.publish(queue, body, reply_to="amq.rabbitmq.reply-to", correlation_id="1")
        (asked,) = await self.take(queue, wait=5)
        to, answered = asked.raw[2].reply_to, pika.BasicProperties(correlation_id=asked.raw[2].correlation_id)
        self.call("basic_publish", "", to, answer(asked.text).encode(), answered)  # mandatory would refuse it
        await self.ack(asked)
        (got,) = await asking.arrived(1)
        assert got.raw[2].correlation_id == "1"
        return got.text

    @asynccontextmanager
    async def consuming(
        self, queue: str, *, prefetch: int = 0, priority: int | None = None, settle: bool = False
    ) -> AsyncIterator["Consuming"]:
        channel = self.connection.channel()
        channel.basic_qos(prefetch_count=prefetch)
        arguments = None if priority is None else {"x-priority": priority}
        consuming = Consuming(self.connection)
        channel.basic_consume(queue, consuming.delivered, auto_ack=settle, arguments=arguments)
        try:
            yield consuming
        finally:
            with suppress(AMQPChannelError):
                channel.close()


class Consuming:
    """What a consumer of RabbitMQ brings."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._came: list[Taken] = []

    def delivered(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        """pika's callback."""
        self._came.append(_taken(channel, method, properties, body))

    async def arrived(self, count: int, within: float = 5.0) -> list[Taken]:
        end = monotonic() + within
        while len(self._came) < count and (left := end - monotonic()) > 0:
            self._connection.process_data_events(min(left, POLL_SECONDS))
        taken, self._came = self._came[:count], self._came[count:]
        return taken


def _taken(channel: Any, method: Any, properties: Any, body: bytes) -> Taken:
    headers = properties.headers or {}
    return Taken(body.decode(), method.redelivered, None, headers, (channel, method.delivery_tag, properties))
