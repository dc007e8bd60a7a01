"""A topic in memory, for handles and consumers that think it is a broker's."""

import asyncio
from typing import Any

from tests.fakes.client_wire import LOG, FakeClient, Part, delivered, payload_of

from penstock import codecs
from penstock.errors import OffsetOutOfRange
from penstock.topic import Topic
from penstock.topic_consumer import TopicConsumer
from penstock_protocol.batch import Kind
from penstock_protocol.messages.queues import Confirm
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document, Done
from penstock_protocol.messages.topics import (
    At,
    Commit,
    DescribeTopic,
    Fetch,
    Fetched,
    Offset,
    OffsetReply,
    Offsets,
)

APPENDED = 1_700_000_000_000


class Publisher:
    """Confirms everything at once, at offset 40."""

    def __init__(self) -> None:
        self.published: list[tuple[Any, bytes, dict[Kind, Any]]] = []
        self.error: Exception | None = None

    async def publish(self, to: Any, body: bytes, cells: Any, view: Any, **options: Any) -> Any:
        address = to() if callable(to) else to
        self.published.append((address, body, dict(cells)))
        if self.error is not None:
            raise self.error
        confirm = Confirm(address.partition, 40, 1, False, "fsync", 0, APPENDED, LOG.bytes)
        return view(confirm, 0)


class Broker(FakeClient):
    """A topic in memory."""

    def __init__(self, partitions: int = 1) -> None:
        super().__init__()
        self.publisher = Publisher()
        self.logs: list[list[bytes]] = [[] for _ in range(partitions)]
        self.starts = [0] * partitions
        self.gone: set[int] = set()
        """Offsets compacted away."""
        self.committed: dict[int, tuple[int, str]] = {}
        self.keyed = False
        """Whether a record's key is what stands before the colon of its value."""
        self.parts = 1_000_000
        """After so many parts a reply is the last, however little of the request is used up."""
        self.times: dict[int, int] = {}
        """Offset → when it was appended, if not at the usual time."""
        self._parted = 0
        self.wire.answers = {
            DescribeTopic: lambda _: document({"partitions": [{}] * len(self.logs)}),
            Offsets: lambda _: document([[p, *stored, APPENDED] for p, stored in self.committed.items()]),
            Offset: self._offset,
            Commit: self._commit,
            Fetch: self._fetch,
        }

    def _offset(self, request: Offset) -> OffsetReply:
        return OffsetReply(0 if request.at == At.EARLIEST else len(self.logs[request.partition]))

    def _commit(self, request: Commit) -> Done:
        for partition, offset, metadata in request.offsets:
            self.committed[partition] = offset, metadata
        return Done()

    def _fetch(self, request: Fetch) -> Any:
        """Answered at once if there are records, or when there are."""
        log, start = self.logs[request.partition], self.starts[request.partition]
        if not start <= request.offset <= len(log):
            return OffsetOutOfRange("gone", detail={"start": start, "end": len(log)})
        alone = request.offset in self.times
        bodies = log[request.offset :][: 1 if alone else min(request.records, 10)]
        if not bodies:
            return None
        kept = [index for index in range(len(bodies)) if request.offset + index not in self.gone]
        parts = []
        if kept:
            stamps = {"first": request.offset, "partition": request.partition, "token": 0}
            stamps["time"] = self.times.get(request.offset, APPENDED)
            cells = (
                [[(Kind.KEY, pack_document(body.partition(b":")[0]))] for body in bodies]
                if self.keyed
                else ()
            )
            parts.append(delivered(*bodies, kept=kept, cells=cells, **stamps))
        slices, payload = payload_of(*parts)
        behind, left = request.offset + len(bodies), request.records - len(bodies)
        fetched = Fetched(slices, start, len(log), behind, payload)
        self._parted = (self._parted + 1) % self.parts
        if not request.in_parts or not left or not self._parted:
            return fetched
        return Part(fetched, request._replace(offset=behind, records=left))

    def append(self, *bodies: bytes, partition: int = 0) -> None:
        self.logs[partition] += bodies
        self.wire.answer(Fetch)

    def topic(
        self, codec: codecs.Codec[Any] = codecs.raw, *, name: str = "lines", **options: Any
    ) -> Topic[Any]:
        client: Any = self
        return Topic(client, name, codec, **options)

    def consumer(self, *partitions: int, group: str | None = "readers", **options: Any) -> TopicConsumer[Any]:
        return self.topic().consumer(group, partitions=partitions or (0,), **options)


class Held:
    """A handler that stays with the record at one offset until it may go on."""

    def __init__(self, at: int = 0) -> None:
        self.handled: list[int] = []
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self._at = at

    async def __call__(self, record: Any) -> None:
        if record.offset == self._at:
            self.begun.set()
            await self.go_on.wait()
        self.handled.append(record.offset)


def document(value: Any) -> Document:
    return Document(memoryview(pack_document(value)))
