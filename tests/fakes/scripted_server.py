"""A broker made of a test's own answers: a real socket, the real protocol, no decisions.

    async with ScriptedServer() as server, penstock.connect(server.url) as client:
        asking = asyncio.ensure_future(client.describe_queue("jobs"))
        asked = await server.asked(DescribeQueue)
        asked.reply(NotFound("no such queue"))

HELLO is answered at once with `welcome`, PING and GOODBYE too; everything else waits for the test.
"""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar, cast

from penstock_protocol.batch import BatchView
from penstock_protocol.link import Link, Received, Role
from penstock_protocol.messages.queues import Confirm
from penstock_protocol.messages.session import Done, Goodbye, Hello, Ping, Pong, Welcome

M = TypeVar("M")

PATIENCE_SECONDS = 5.0
LOG = bytes(range(16))


async def until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Let the loop run until something has happened."""
    loop = asyncio.get_running_loop()
    happened = loop.create_future()

    def look() -> None:
        if condition():
            happened.set_result(None)
        elif not happened.done():
            loop.call_later(0.001, look)

    look()
    await asyncio.wait_for(happened, seconds)


class Peer(asyncio.Protocol):
    """One connection as the server sees it."""

    def __init__(self, server: "ScriptedServer") -> None:
        self._server = server
        self._link = Link(Role.SERVER)
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._server.peers.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.peers.remove(self)

    def data_received(self, data: bytes) -> None:
        for received in self._link.receive(data):
            if received.is_reply:
                self._server.pongs.append(received.message)
            else:
                self._server.received(Asked(self, received))

    def reply(self, received: Received, message: Any, *, is_last: bool = True) -> None:
        if not self.transport.is_closing():
            reply = self._link.reply(received.verb, received.correlation, message, is_last=is_last)
            self.transport.writelines(reply)

    def push(self, message: Any) -> None:
        self.transport.writelines(self._link.request(message, 0))


class Asked:
    """One request. `reply` with a message, or with an `Error` for an error reply."""

    def __init__(self, peer: Peer, received: Received) -> None:
        self.peer = peer
        self.message = received.message
        self.correlation = received.correlation
        self._received = received

    def reply(self, message: Any) -> None:
        self.peer.reply(self._received, message)

    def part(self, message: Any) -> None:
        """Reply, but not for the last time."""
        self.peer.reply(self._received, message, is_last=False)

    @property
    def batch(self) -> BatchView:
        """The batch of a publish."""
        return BatchView(self.message.payload)

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of a publish."""
        batch = self.batch
        starts = [0, *batch.ends()]
        bodies = batch.bodies()
        return [bytes(bodies[start:end]) for start, end in pairwise(starts)]

    def confirm(self, first: int = 0, *, duplicate: bool = False, credit: int | None = None) -> None:
        """Answer a publish: its messages are durable from offset `first` on."""
        batch, partition = self.batch, getattr(self.message, "partition", 0)
        back = batch.length if credit is None else credit
        self.reply(Confirm(partition, first, batch.count, duplicate, "fsync", back, 1_000, LOG))


class ScriptedServer:
    """Listens on a port of its own. `hellos`: of every connection so far. `welcome` may be changed."""

    def __init__(self, *, credit: int = 8 << 20, **limits: int) -> None:
        self.welcome: Any = Welcome(1, "scripted", bytes(16), 1, False, credit, 0, limits)
        self.hellos: list[Hello] = []
        self.peers: list[Peer] = []
        self.pongs: list[Pong] = []
        self.requests: asyncio.Queue[Asked] = asyncio.Queue()
        self.answers: dict[type[Any], Callable[[Asked], None]] = {
            Hello: self._hello,
            Ping: lambda asked: asked.reply(Pong(0)),
            Goodbye: self._goodbye,
        }
        self._server: asyncio.Server | None = None
        self._port = 0

    async def __aenter__(self) -> "ScriptedServer":
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_listening()
        self.cut()

    @property
    def url(self) -> str:
        return f"penstock://127.0.0.1:{self._port}"

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop_listening(self) -> None:
        """Refuse connections; those there are stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def cut(self) -> None:
        """Every connection is lost, with whatever is on its way."""
        for peer in list(self.peers):
            peer.transport.abort()

    def push(self, message: Any) -> None:
        """Send something unasked."""
        self.peers[-1].push(message)

    def received(self, asked: Asked) -> None:
        answer = self.answers.get(type(asked.message))
        if answer is not None:
            answer(asked)
        else:
            self.requests.put_nowait(asked)

    async def asked(self, kind: type[M]) -> Asked:
        """The next request, which has to be of that kind."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            asked = await self.requests.get()
        assert isinstance(asked.message, kind), f"expected {kind.__name__}, got {asked.message}"
        return asked

    def _hello(self, asked: Asked) -> None:
        self.hellos.append(asked.message)
        asked.reply(self.welcome)

    @staticmethod
    def _goodbye(asked: Asked) -> None:
        asked.reply(Done())
        asked.peer.transport.close()
