"""A listener over a scripted core, a clock turned by hand, and peers on kept transports."""

from collections.abc import Callable

import pytest
from tests.fakes.clock import ManualClock
from tests.unit.server.scripted import HELLO, WELCOME, Client, KeptTransport, ScriptedCore

from penstock_broker.meters import Meters
from penstock_broker.outputs import Send
from penstock_broker.server.connection import Peer
from penstock_broker.server.listener import Listener
from penstock_broker.server.logs import PeerLog
from penstock_broker.server.loop import Turns
from penstock_broker.storage.files import Job
from penstock_protocol.verbs import BY_REQUEST


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def core() -> ScriptedCore:
    return ScriptedCore()


@pytest.fixture
def meters() -> Meters:
    return Meters()


@pytest.fixture
def jobs() -> list[Job]:
    return []


@pytest.fixture
def failures() -> list[Exception]:
    return []


@pytest.fixture
async def turns(
    core: ScriptedCore, clock: ManualClock, meters: Meters, jobs: list[Job], failures: list[Exception]
) -> Turns:
    return Turns(core, clock, meters, jobs.append, after=lambda: None, fail=failures.append)


@pytest.fixture
async def listener(turns: Turns, meters: Meters, clock: ManualClock) -> Listener:
    return Listener(turns, meters, PeerLog(clock), connections_max=4, connections_per_address_max=2)


@pytest.fixture
def connect(listener: Listener) -> Callable[..., Client]:
    """A new connection, before HELLO."""

    def make(host: str = "192.0.2.1") -> Client:
        transport = KeptTransport(host)
        peer = Peer(listener, listener._buffer)
        peer.connection_made(transport)
        return Client(peer, transport)

    return make


@pytest.fixture
def client(connect: Callable[..., Client]) -> Client:
    """A connection that has said HELLO and was welcomed."""
    client = connect()
    client.ask(HELLO)
    client.peer.send([Send(client.peer._connection, BY_REQUEST[type(HELLO)], 1, WELCOME)], 0.0)
    assert [received.message for received in client.received()] == [WELCOME]
    return client


@pytest.fixture
def look(clock: ManualClock, listener: Listener, turns: Turns) -> Callable[[float], None]:
    """Let seconds pass, sweeping once a second as the node does."""

    def after(seconds: float) -> None:
        for _ in range(round(seconds)):
            clock.advance(1000)
            listener.look(turns.read_clock().mono)

    return after
