"""A core that does what a test says, and a transport that keeps what it is given."""

import asyncio
from collections.abc import Callable
from typing import Any

from penstock_broker.clock import Now
from penstock_broker.facts import NodeFacts, StorageFacts
from penstock_broker.meters import Histogram
from penstock_broker.outputs import Output
from penstock_broker.session import Connection
from penstock_broker.storage.files import Job
from penstock_protocol.link import Link, Received, Role
from penstock_protocol.messages.session import MAGIC, Hello, Ping, Pong, Welcome
from penstock_protocol.verbs import Verb

HELLO = Hello(MAGIC, 1, 1, bytes(16), 7, "test")
WELCOME = Welcome(1, "penstock", bytes(16), 1, False, 0, 0, {})
FACTS = NodeFacts(
    queues=[],
    partitions=[],
    groups=[],
    members=[],
    connections=0,
    sessions=0,
    payload_bytes=0,
    storage=StorageFacts(0, 0, 0, 0, {}, {}, 0),
    disk_full=False,
    recovery_seconds=0.0,
    boot=1,
    waits=Histogram(),
    services=Histogram(),
    durability="fsync",
)


class ScriptedCore:
    """Records every call; hands out what was put into `outputs`; `answer` may put more there."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.outputs: list[Output] = []
        self.deadline: int | None = None
        self.answer: Callable[[Connection, Verb, int, Any], None] = lambda *_: None
        self.error: Exception | None = None
        self.ready = True
        self.stopped = False
        self.node_facts = FACTS

    def connected(self, peer: object) -> Connection:
        self.calls.append(("connected",))
        return Connection(peer)

    def handle(self, connection: Connection, verb: Verb, correlation: int, message: Any, now: Now) -> None:
        self.calls.append(("handle", verb.name, correlation, message))
        if self.error is not None:
            raise self.error
        self.answer(connection, verb, correlation, message)

    def disconnected(self, connection: Connection, now: Now) -> None:
        self.calls.append(("disconnected",))

    def blocked(self, connection: Connection, blocked: bool, now: Now) -> None:
        self.calls.append(("blocked", blocked))

    def done(self, job: Job, result: object, now: Now) -> None:
        self.calls.append(("done", job, result))

    def tick(self, now: Now) -> int | None:
        self.calls.append(("tick", now))
        return self.deadline

    def drain(self, now: Now) -> list[Output]:
        outputs, self.outputs = self.outputs, []
        return outputs

    def stop(self, now: Now) -> None:
        self.calls.append(("stop",))
        self.stopped = True

    def facts(self, now: Now) -> NodeFacts:
        return self.node_facts

    def named(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of `name`."""
        return [call[1:] for call in self.calls if call[0] == name]


class KeptTransport(asyncio.Transport):
    """A socket whose other side reads when the test says so."""

    def __init__(self, host: str = "192.0.2.1") -> None:
        super().__init__({"peername": (host, 50_000)})
        self.writes: list[bytes] = []
        self.unsent = 0
        self.reading = True
        self.closed = False
        self.aborted = False
        self.high = 0

    def writelines(self, buffers: Any) -> None:
        self.writes.append(b"".join(bytes(buffer) for buffer in buffers))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high or 0

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class Client:
    """The client's side of a kept transport."""

    def __init__(self, peer: asyncio.BufferedProtocol, transport: KeptTransport) -> None:
        self.link = Link(Role.CLIENT)
        self.peer = peer
        self.transport = transport
        self._read = 0

    def feed(self, data: bytes) -> None:
        """Bytes arrive at the broker, in as many reads as its buffer needs."""
        while data:
            buffer = self.peer.get_buffer(-1)
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            self.peer.buffer_updated(size)
            data = data[size:]

    def ask(self, message: Any, correlation: int = 1) -> None:
        """A request arrives in one piece."""
        self.feed(b"".join(self.link.request(message, correlation)))

    def received(self) -> list[Received]:
        """What the broker has written since the last look."""
        new = self.transport.writes[self._read :]
        self._read = len(self.transport.writes)
        return [received for data in new for received in self.link.receive(data)]


def pong_to(received: Received) -> bytes:
    """The reply to a PING of the broker."""
    assert received.message == Ping()
    return b"".join(Link(Role.CLIENT).reply(received.verb, received.correlation, Pong(1)))
