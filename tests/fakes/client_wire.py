"""What the client's upper half stands on, without a socket: the test plays the broker.

`wire.asked` holds what was asked, in order, each to be answered by `wire.answers` (unless with None) or by
the test.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from penstock import codecs
from penstock.errors import Error
from penstock.queue import Queue
from penstock.settle import Settler
from penstock_protocol.batch import BatchBuilder, BatchView, Kind
from penstock_protocol.checksum import Buffer
from penstock_protocol.cuts import picked
from penstock_protocol.messages.queues import Deliver
from penstock_protocol.slices import Slice, encode_slice

LOG = UUID("01234567-89ab-cdef-0123-456789abcdef")
NOW_MS = 1_700_000_000_000


class Part(NamedTuple):
    """An answer that is not the last, and what is left to be answered."""

    reply: Any
    rest: Any


class Asked:
    """One request or post (`is_request` False)."""

    def __init__(self, message: Any, on_reply: Callable[[Any], None]) -> None:
        self.message = message
        self.rest = message
        """What of it was not answered yet."""
        self.on_late: Callable[[Any], None] | None = None
        self.on_resend: Callable[[], None] | None = None
        self.part: Callable[[Any], None] | None = None
        """Takes a part of the answer, if it may come in parts."""
        self.timeout: float | None = None
        self.is_request = False
        self.answered = False
        self._on_reply = on_reply

    def reply(self, message: Any) -> None:
        """Answer it, once; a post with None if its socket was lost."""
        assert not self.answered
        self.answered = True
        self._on_reply(message)


class FakeWire:
    """The surface of `connection.Wire`."""

    def __init__(self) -> None:
        self.connected = True
        self.closed = False
        self.connections = 1
        self.timeout = 30.0
        self.asked: list[Asked] = []
        self.sent: list[Any] = []
        self.events: list[Any] = []
        self.answers: dict[type, Callable[[Any], Any]] = {}
        self.subscriptions: dict[int, tuple[Callable[[Any], None], Callable[[], None]]] = {}
        self._asking = asyncio.Event()

    async def request(
        self,
        message: Any,
        *,
        timeout: float | None = None,
        on_late: Callable[[Any], None] | None = None,
        on_resend: Callable[[], None] | None = None,
        on_part: Callable[[Any], None] | None = None,
    ) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        asked = Asked(message, lambda reply: None if future.cancelled() else future.set_result(reply))
        asked.is_request = True
        asked.timeout, asked.on_late, asked.on_resend = timeout, on_late, on_resend
        if on_part is not None:
            asked.part = lambda reply: None if future.done() else on_part(reply)
        self._ask(asked)
        reply = await future
        if isinstance(reply, Error):
            raise reply
        return reply

    def post(self, message: Any, on_reply: Callable[[Any], None]) -> bool:
        if self.connected:
            self._ask(Asked(message, on_reply))
        return self.connected

    def _ask(self, asked: Asked) -> None:
        self.asked.append(asked)
        self._asking.set()
        self._answer(asked)

    def _answer(self, asked: Asked) -> None:
        answer = self.answers.get(type(asked.message), lambda _: None)(asked.rest)
        while isinstance(answer, Part):
            assert asked.part is not None, "it did not ask for parts"
            asked.rest = answer.rest
            asked.part(answer.reply)
            answer = self.answers[type(asked.message)](asked.rest)
        if answer is not None:
            asked.reply(answer)

    def answer(self, kind: type) -> None:
        """Answer what waits of one kind and can be answered now."""
        for asked in self.asked:
            if not asked.answered and isinstance(asked.message, kind):
                self._answer(asked)

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def emit(self, event: Any) -> None:
        self.events.append(event)

    def now_ms(self) -> int:
        return NOW_MS

    async def broker_time(self, timeout: float | None = None) -> int:
        return NOW_MS

    def next_subscription(self) -> int:
        return len(self.subscriptions) + 1

    def subscribe(
        self, number: int, on_deliver: Callable[[Any], None], on_connected: Callable[[], None]
    ) -> None:
        self.subscriptions[number] = on_deliver, on_connected

    def unsubscribe(self, number: int) -> None:
        self.subscriptions.pop(number, None)

    async def until(self, kind: type, count: int = 1) -> Any:
        """Wait until `count` of one kind were asked; the last of them."""
        while len(self.of(kind)) < count:
            self._asking.clear()
            await self._asking.wait()
        return self.of(kind)[count - 1]

    def deliver(self, number: int, *parts: tuple[bytes, bytes]) -> None:
        """Push messages to a subscription; without parts, the news that its queue is gone."""
        self.subscriptions[number][0](Deliver(number, *payload_of(*parts)))

    def lose(self) -> None:
        """The socket is gone: what was posted on it is answered by None."""
        self.connected = False
        for asked in self.asked:
            if not asked.answered and not asked.is_request:
                asked.reply(None)

    def reconnect(self) -> None:
        """There is a socket again."""
        self.connected = True
        self.connections += 1
        for _, connected in list(self.subscriptions.values()):
            connected()

    def of(self, kind: type) -> list[Any]:
        """What was asked of one kind, in order."""
        return [asked.message for asked in self.asked if isinstance(asked.message, kind)]

    def last(self, kind: type) -> Asked:
        """The last request of one kind."""
        return next(asked for asked in reversed(self.asked) if isinstance(asked.message, kind))


class FakeClient:
    """What a handle needs of a client."""

    def __init__(self) -> None:
        self.wire: Any = FakeWire()
        self.settler = Settler(self.wire)
        self.consumers: set[Any] = set()
        self.timeout = 30.0

    def new_id(self) -> bytes:
        return bytes(16)

    def chance(self) -> float:
        return 0.5


def queue_of(client: Any, name: str = "jobs") -> Queue[bytes]:
    """A handle over the fakes."""
    return Queue(client, name, codecs.raw)


def delivered(
    *bodies: bytes,
    cells: Sequence[Sequence[tuple[Kind, bytes | int]]] = (),
    kept: Sequence[int] | None = None,
    **stamps: Any,
) -> tuple[bytes, bytes]:
    """One slice and its batch, as bytes. Stamps not given are those of a first delivery. `kept`: which of the
    bodies were not compacted away."""
    builder = BatchBuilder()
    for index, body in enumerate(bodies):
        builder.add(body, cells[index] if cells else ())
    indexes = range(len(bodies)) if kept is None else kept
    batch = bytes(picked(BatchView(builder.encode()), indexes))
    first = stamps["first"] = stamps.get("first", 0) + indexes[0]
    defaults = {
        "token": 7,
        "origin_first": first,
        "time": 1_700_000_000_000,
        "origin_log": LOG.bytes,
        "lease": 30_000,
        "partition": 0,
        "messages": len(indexes),
        "attempt": 1,
        "delivery": 1,
        "flags": 0,
        "batch_length": len(batch),
    }
    return encode_slice(Slice(**{**defaults, **stamps}), BatchView(batch).crc), batch


def payload_of(*parts: tuple[bytes, bytes]) -> tuple[int, Buffer]:
    """(slices, payload) of a delivery made of such parts."""
    return len(parts), memoryview(b"".join([part[0] for part in parts] + [part[1] for part in parts]))


async def turns(count: int = 3) -> None:
    """Let the loop run what is ready, `count` times over."""
    for _ in range(count):
        await asyncio.sleep(0)
