"""The client object: one connection, its publishes and settles, and what there is to administer.

`connect()` only makes the object; `async with` or `await` opens it. Handles are cheap and hold no state of
the broker's. Everything belongs to the event loop it was opened in.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from random import SystemRandom
from types import TracebackType
from typing import Any, Protocol, TypeVar, Unpack, overload
from uuid import UUID

from penstock import checks, codecs
from penstock.batching import Publisher
from penstock.codecs import Codec
from penstock.compression import Compression
from penstock.connection import Wire
from penstock.endpoint import endpoints, own_name
from penstock.errors import ClientClosed, NotFound
from penstock.events import Event
from penstock.group import Group
from penstock.partitioner import Partitioner
from penstock.queue import Queue
from penstock.requests import Requests
from penstock.schedules import ScheduleDescription, ScheduleSettings, description_of
from penstock.schedules import settings_to_wire as schedule_to_wire
from penstock.settle import Settler
from penstock.topic import Topic
from penstock.topic_consumer import TopicsConsumer, TopicsConsumerOptions
from penstock.values import (
    Duration,
    IfExists,
    PartitionDescription,
    ProducerDescription,
    QueueDescription,
    QueueSettings,
    QueueStats,
    TopicDescription,
    TopicSettings,
    described,
    instant_of,
    queue_settings_from_wire,
    seconds_of,
    settings_to_wire,
    topic_settings_from_wire,
)
from penstock_protocol.limits import LISTING_MAX, MIB
from penstock_protocol.messages.groups import DeleteGroup
from penstock_protocol.messages.queues import AlterQueue, CreateQueue, DeleteQueue, DescribeQueue, ListQueues
from penstock_protocol.messages.schedules import AlterSchedule, DeleteSchedule, ListSchedules
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.messages.topics import (
    AlterTopic,
    CreateTopic,
    DeleteProducer,
    DeleteTopic,
    DescribeTopic,
    ListGroups,
    ListProducers,
    ListTopics,
)

T = TypeVar("T")


class Stoppable(Protocol):
    """What the client ends before it closes: a consumer."""

    def stop(self) -> None:
        """Take nothing more."""
        ...

    async def closed(self) -> None:
        """Return when it has nothing more to say to the broker."""
        ...


def connect(
    url: str | Sequence[str] | None = None,
    *,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    name: str | None = None,
    connect_timeout: Duration = 5.0,
    timeout: Duration = 30.0,
    max_pending_bytes: int = 64 * MIB,
    linger: Duration = 0.0,
    on_event: Callable[[Event], object] | None = None,
) -> "Client":
    """A client, to be opened by `async with` or `await`.

    `url`: `penstock://[token@]host:port`, or several to try in turn; None is $PENSTOCK_URL or
    penstock://127.0.0.1:7420. `token`: None is the URL's, or $PENSTOCK_TOKEN. `tls`: for `penstocks://`; None
    trusts the system's authorities. `name`: how the broker shows this client, in the history of a message for
    instance; None is host:pid. `connect_timeout`: for the first connection; `timeout`: for every call that
    does not say otherwise, retries included. Publishes wait while `max_pending_bytes` are unconfirmed; a
    batch waits `linger` for more messages. `on_event`: see `penstock.events`.

    Opening raises `Disconnected`; malformed arguments raise `Invalid`.
    """
    return Client(
        url,
        token=token,
        tls=tls,
        name=name,
        connect_timeout=connect_timeout,
        timeout=timeout,
        max_pending_bytes=max_pending_bytes,
        linger=linger,
        on_event=on_event,
    )


class Client:
    """See `connect`. `wire`, `publisher`, `settler`, `requests` and `consumers` are for the modules of this
    package."""

    def __init__(
        self,
        url: str | Sequence[str] | None,
        *,
        token: str | None,
        tls: ssl.SSLContext | None,
        name: str | None,
        connect_timeout: Duration,
        timeout: Duration,
        max_pending_bytes: int,
        linger: Duration,
        on_event: Callable[[Event], object] | None,
    ) -> None:
        self.timeout = seconds_of(timeout)
        self._connect_timeout = seconds_of(connect_timeout)
        self._random = SystemRandom()
        self._opened = False
        self.wire = Wire(
            endpoints(url, token),
            random=self._random,
            name=own_name() if name is None else name,
            timeout=self.timeout,
            tls=tls,
            on_event=on_event,
        )
        self.publisher = Publisher(
            self.wire,
            random=self._random,
            timeout=self.timeout,
            max_pending_bytes=max_pending_bytes,
            linger=seconds_of(linger),
        )
        self.settler = Settler(self.wire)
        self.requests = Requests(self)
        self.consumers: set[Stoppable] = set()

    # Life

    def __await__(self) -> Generator[Any, None, "Client"]:
        return self._open().__await__()

    async def _open(self) -> "Client":
        if self.wire.closed:
            raise ClientClosed("the client is closed", hint="call penstock.connect() again")
        if not self._opened:
            self._opened = True
            try:
                await self.wire.open(self._connect_timeout)
            except BaseException:
                await self.wire.close(0)
                raise
        return self

    async def __aenter__(self) -> "Client":
        return await self._open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def flush(self) -> None:
        """Return when every publish and every staged settle so far has its outcome."""
        await asyncio.gather(self.publisher.flush(), self.settler.flush())

    async def close(self, timeout: Duration = 10.0) -> None:
        """Stop consumers, flush publishes and settles for at most `timeout`, release the rest, disconnect.

        What was sent and not confirmed by then raises `OutcomeUnknown` where it is awaited; what was not
        sent raises `ClientClosed`, as every later call does.
        """
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds_of(timeout)):
                    await self._finish()
        finally:
            self.publisher.close()
            await self.wire.close(min(seconds_of(timeout), 1.0))

    async def _finish(self) -> None:
        consumers = list(self.consumers)
        for consumer in consumers:
            consumer.stop()
        for consumer in consumers:
            await consumer.closed()
        await self.flush()

    def new_id(self) -> bytes:
        """16 bytes that nothing else has for a name; for this package."""
        return self._random.randbytes(16)

    def chance(self) -> float:
        """From 0 up to 1; for this package."""
        return self._random.random()

    # Handles

    @overload
    def queue(self, name: str) -> Queue[bytes]: ...
    @overload
    def queue(self, name: str, *, codec: Codec[T]) -> Queue[T]: ...
    def queue(self, name: str, *, codec: Codec[Any] = codecs.raw) -> Queue[Any]:
        """The handle of a queue, whether it exists or not."""
        return Queue(self, name, codec)

    @overload
    def topic(
        self,
        name: str,
        *,
        compression: Compression | None = None,
        partitioner: Partitioner | None = None,
        producer: str | None = None,
    ) -> Topic[bytes]: ...
    @overload
    def topic(
        self,
        name: str,
        *,
        codec: Codec[T],
        compression: Compression | None = None,
        partitioner: Partitioner | None = None,
        producer: str | None = None,
    ) -> Topic[T]: ...
    def topic(
        self,
        name: str,
        *,
        codec: Codec[Any] = codecs.raw,
        compression: Compression | None = None,
        partitioner: Partitioner | None = None,
        producer: str | None = None,
    ) -> Topic[Any]:
        """The handle of a topic, whether it exists or not.

        `compression`: of the values it produces, batch by batch: "lz4" or "zstd"; keys and headers stay as
        they are. Whatever it says, a handle reads every record. `partitioner`: called with the key (or None)
        and the number of partitions, says which; None is Kafka's murmur2, and so is a None it returns.
        `producer`: the name under which it produces; of all instances with that name the last one to begin
        may, the others get `Stale`. Raises `Invalid` for a compression that is not known, or whose library
        is not installed.
        """
        return Topic(self, name, codec, compression=compression, partitioner=partitioner, producer=producer)

    async def list_producers(
        self, prefix: str = "", *, timeout: float | None = None
    ) -> list[ProducerDescription]:
        """The names under which producers were opened, that begin with `prefix`, in order."""
        return [
            ProducerDescription(each["name"], each["epoch"], instant_of(each["opened_at"]), each["client"])
            async for each in self._listed(ListProducers, prefix, timeout)
        ]

    async def delete_producer(self, name: str, *, timeout: float | None = None) -> None:
        """Forget a name; who produces under it gets `Stale`. Raises `NotFound`."""
        await self._delete(DeleteProducer(name), timeout)

    @overload
    def consumer(
        self, group: str, *, topics: Sequence[str], **options: Unpack[TopicsConsumerOptions]
    ) -> TopicsConsumer[bytes]: ...
    @overload
    def consumer(
        self, group: str, *, topics: Sequence[str], codec: Codec[T], **options: Unpack[TopicsConsumerOptions]
    ) -> TopicsConsumer[T]: ...
    def consumer(
        self,
        group: str,
        *,
        topics: Sequence[str],
        codec: Codec[Any] = codecs.raw,
        **options: Unpack[TopicsConsumerOptions],
    ) -> TopicsConsumer[Any]:
        """A member of `group` that reads several topics: names, and patterns (`eu.*.events`: `*` is one word,
        `#` any number; topics made later are found). Everything else as in `Topic.consumer`; partitions are
        `TopicPartition`s."""
        checks.reading(group, options, checks.topic_partition)
        topics = checks.listed("topics", topics, '["orders"]')
        for each in topics:
            checks.name("topic", each)
        return TopicsConsumer(self, group, topics, codec, options)

    def group(self, name: str) -> Group:
        """The handle of a consumer group, whether it exists or not."""
        return Group(self, name)

    # Queues

    async def create_queue(
        self,
        name: str | None,
        *,
        if_exists: IfExists = "check",
        timeout: float | None = None,
        **settings: Unpack[QueueSettings],
    ) -> Queue[bytes]:
        """Create a queue and return its handle; `name` None makes one up.

        If it exists, the settings given are compared (`Conflict`), with `if_exists="alter"` changed, with
        "keep" ignored. Raises `Invalid` for a setting or name that is not allowed.
        """
        chosen = f"queue-{self._random.randbytes(8).hex()}" if name is None else name
        await self._document(CreateQueue(chosen, settings_to_wire(settings), if_exists), timeout)
        return self.queue(chosen)

    async def alter_queue(
        self, name: str, *, timeout: float | None = None, **settings: Unpack[QueueSettings]
    ) -> QueueDescription:
        """Change the settings given, from now on. Raises `NotFound`, `Invalid`."""
        return _queue(await self._document(AlterQueue(name, settings_to_wire(settings)), timeout))

    async def delete_queue(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a queue with its messages. Raises `NotFound`."""
        await self._delete(DeleteQueue(name), timeout)

    async def list_queues(self, prefix: str = "", *, timeout: float | None = None) -> list[QueueDescription]:
        """The queues whose name begins with `prefix`, in name order."""
        return [_queue(each) async for each in self._listed(ListQueues, prefix, timeout)]

    async def describe_queue(self, name: str, *, timeout: float | None = None) -> QueueDescription:
        """Settings and counts of a queue. Raises `NotFound`."""
        return _queue(await self._document(DescribeQueue(name), timeout))

    # Schedules (`Queue.schedule` creates them)

    async def alter_schedule(
        self, name: str, *, timeout: float | None = None, **settings: Unpack[ScheduleSettings]
    ) -> ScheduleDescription:
        """Change the settings given; its next run is worked out anew. `paused=True` pauses it. Raises
        `NotFound`, `Invalid`."""
        return description_of(await self._document(AlterSchedule(name, schedule_to_wire(settings)), timeout))

    async def delete_schedule(self, name: str, *, timeout: float | None = None) -> None:
        """No further run; what was enqueued stays. Raises `NotFound`."""
        await self._delete(DeleteSchedule(name), timeout)

    async def list_schedules(
        self, prefix: str = "", *, runs: int = 1, timeout: float | None = None
    ) -> list[ScheduleDescription]:
        """The schedules whose name begins with `prefix`, in name order, each with its next `runs` runs (at
        most 100)."""
        request = partial(_list_schedules, runs)
        return [description_of(each) async for each in self._listed(request, prefix, timeout)]

    # Topics and groups

    async def create_topic(
        self,
        name: str,
        *,
        if_exists: IfExists = "check",
        timeout: float | None = None,
        **settings: Unpack[TopicSettings],
    ) -> Topic[bytes]:
        """Create a topic and return its handle; everything else as in `create_queue`."""
        await self._document(CreateTopic(name, settings_to_wire(settings), if_exists), timeout)
        return self.topic(name)

    async def alter_topic(
        self, name: str, *, timeout: float | None = None, **settings: Unpack[TopicSettings]
    ) -> TopicDescription:
        """Change the settings given, from now on. Raises `NotFound`, `Invalid`."""
        return _topic(await self._document(AlterTopic(name, settings_to_wire(settings)), timeout))

    async def delete_topic(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a topic with its records and the offsets committed on it. Raises `NotFound`."""
        await self._delete(DeleteTopic(name), timeout)

    async def list_topics(self, prefix: str = "", *, timeout: float | None = None) -> list[TopicDescription]:
        """The topics whose name begins with `prefix`, in name order."""
        return [_topic(each) async for each in self._listed(ListTopics, prefix, timeout)]

    async def describe_topic(self, name: str, *, timeout: float | None = None) -> TopicDescription:
        """Settings and partitions of a topic. Raises `NotFound`."""
        return _topic(await self._document(DescribeTopic(name), timeout))

    async def list_groups(self, prefix: str = "", *, timeout: float | None = None) -> list[str]:
        """Names of the consumer groups that begin with `prefix`, in order."""
        return [each["name"] async for each in self._listed(ListGroups, prefix, timeout)]

    async def delete_group(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a consumer group with its offsets. Raises `Conflict` while it has members, `NotFound`."""
        await self._delete(DeleteGroup(name), timeout)

    async def _document(self, request: Any, timeout: float | None) -> dict[str, Any]:
        checks.administration(request)
        reply = await self.wire.request(request, timeout=timeout)
        document: dict[str, Any] = unpack_document(reply.payload)
        return document

    async def _listed(
        self, request: Callable[[str, str, int], Any], prefix: str, timeout: float | None
    ) -> AsyncIterator[dict[str, Any]]:
        after, more = "", True
        while more:
            page = await self._document(request(prefix, after, LISTING_MAX), timeout)
            for item in page["items"]:
                yield item
                after = item["name"]
            more = page["more"]

    async def _delete(
        self,
        request: DeleteQueue | DeleteTopic | DeleteSchedule | DeleteGroup | DeleteProducer,
        timeout: float | None,
    ) -> None:
        checks.administration(request)
        again = False

        def sent_again() -> None:
            nonlocal again
            again = True

        try:
            await self.wire.request(request, timeout=timeout, on_resend=sent_again)
        except NotFound:
            if not again:  # otherwise the first one did it
                raise


def _list_schedules(runs: int, prefix: str, after: str, limit: int) -> ListSchedules:
    return ListSchedules(prefix, after, limit, runs)


def _queue(document: dict[str, Any]) -> QueueDescription:
    return QueueDescription(
        document["name"],
        UUID(bytes=document["uuid"]),
        document["created"],
        queue_settings_from_wire(document["settings"]),
        described(QueueStats, document["stats"]),
        document.get("corrupt", False),
    )


def _topic(document: dict[str, Any]) -> TopicDescription:
    partitions = [{**each, "uuid": UUID(bytes=each["uuid"])} for each in document["partitions"]]
    return TopicDescription(
        document["name"],
        UUID(bytes=document["uuid"]),
        document["created"],
        topic_settings_from_wire(document["settings"]),
        tuple(described(PartitionDescription, each) for each in partitions),
    )
