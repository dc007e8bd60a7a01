"""The broker and peers that are many, silent, slow, or not ours at all."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from tests.integration.process import BrokerProcess
from tests.integration.raw import RawClient

from penstock_protocol.errors import BadFrame, Busy, NotFound
from penstock_protocol.frame import HEADER
from penstock_protocol.link import Link, Role
from penstock_protocol.messages.queues import Enqueue, Receive
from penstock_protocol.messages.session import Ping, Pong

StartBroker = Callable[..., BrokerProcess]

IDLE = 2_000
IDLE_BYTES_MAX = 16 << 10
ASSEMBLED_BYTES_MAX = 112 << 20
"""The budget of 64 MiB, what the 24 peers had sent before they asked for room, and what a growing
buffer holds twice for a moment; without a budget it would be 144 MiB and more."""
UNREAD_BYTES_MAX = 24 << 20
"""1 MiB of unsent bytes, one frame, and what a turn had handed out before it heard of the mark."""


def anonymous_bytes(broker: BrokerProcess) -> int:
    """RssAnon of the process."""
    status = Path(f"/proc/{broker.pid}/status").read_text("ascii")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), id="TLS"),
        pytest.param(bytes(4096), id="zeros"),
        pytest.param(b"\xff" * 4096, id="ones"),
        pytest.param(HEADER.pack(1 << 31, 1, 0, 1, 0, 0), id="a claim of 2 GiB"),
        pytest.param(Random(7).randbytes(3_000), id="random bytes"),
    ],
)
def test_garbage_is_answered_and_closed_and_others_are_served(broker: BrokerProcess, garbage: bytes) -> None:
    before = anonymous_bytes(broker)
    with RawClient(broker.address) as good, RawClient(broker.address, hello=False) as bad:
        bad.socket.sendall(garbage)
        received = bad.next()
        assert received is not None
        assert (type(received.message), received.correlation) == (BadFrame, 0)
        assert bad.next() is None
        assert isinstance(good.ask(Ping()), Pong)
    assert anonymous_bytes(broker) - before < 8 << 20
    assert 'penstock_connections_dropped_total{reason="bad_frame"} 1.0' in broker.get("/metrics")[1]


def test_thousands_of_idle_connections_cost_little_and_slow_nobody_down(broker: BrokerProcess) -> None:
    with ExitStack() as stack:
        before = anonymous_bytes(broker)
        idle = [stack.enter_context(RawClient(broker.address)) for _ in range(IDLE)]
        each = (anonymous_bytes(broker) - before) / IDLE
        print(f"{each:,.0f} bytes of anonymous memory per idle connection")
        assert each < IDLE_BYTES_MAX
        assert f"penstock_connections {IDLE}.0" in broker.get("/metrics")[1]
        idle[0].create_queue("jobs")
        idle[0].enqueue("jobs", b"one")
        assert idle[-1].receive("jobs") == [b"one"]
    assert broker.stop() == 0


def test_connection_beyond_the_limit_is_told_so(start_broker: StartBroker) -> None:
    broker = start_broker("--set", "server.connections_max=2").wait_ready()
    with ExitStack() as stack:
        first, _ = (stack.enter_context(RawClient(broker.address)) for _ in range(2))
        third = stack.enter_context(RawClient(broker.address, hello=False))
        received = third.next()
        assert received is not None
        assert isinstance(received.message, Busy)
        assert third.next() is None
        assert isinstance(first.ask(Ping()), Pong)


def test_peer_that_does_not_read_takes_little_memory_and_holds_nobody_up(broker: BrokerProcess) -> None:
    with RawClient(broker.address) as good, RawClient(broker.address) as slow:
        good.create_queue("jobs")
        for _ in range(64):
            good.enqueue("jobs", bytes(1 << 20))
        before = anonymous_bytes(broker)
        for _ in range(48):
            slow.send(Receive("jobs", 1, 0))
        assert len(good.receive("jobs", 1)) == 1
        assert anonymous_bytes(broker) - before < UNREAD_BYTES_MAX
        for _ in range(48):
            assert slow.next() is not None


def test_many_large_frames_at_once_take_turns_and_all_arrive(broker: BrokerProcess) -> None:
    frame = b"".join(Link(Role.CLIENT).request(Enqueue("jobs", bytes(6 << 20)), 9))
    with ExitStack() as stack:
        peers = [stack.enter_context(RawClient(broker.address)) for _ in range(24)]
        before = anonymous_bytes(broker)
        for peer in peers:
            peer.socket.sendall(frame[: 1 << 20])
        with ThreadPoolExecutor(len(peers)) as threads:
            rest = [threads.submit(peer.socket.sendall, frame[1 << 20 :]) for peer in peers]
            answers = [peer.next() for peer in peers]
            assert [sent.result() for sent in rest] == [None] * len(peers)
        assert all(answer is not None and isinstance(answer.message, NotFound) for answer in answers)
        assert anonymous_bytes(broker) - before < ASSEMBLED_BYTES_MAX


def test_requests_show_up_in_the_metrics(broker: BrokerProcess) -> None:
    with RawClient(broker.address) as client:
        client.create_queue("jobs")
        client.enqueue("jobs", b"one", b"two")
        client.receive("jobs", 1)
    text = broker.get("/metrics")[1]
    assert 'penstock_requests_total{code="OK",verb="ENQUEUE"} 1.0' in text
    assert 'penstock_queue_messages{queue="jobs",state="ready"} 1.0' in text
    assert 'penstock_queue_messages{queue="jobs",state="in_flight"} 1.0' in text
    assert "penstock_request_seconds_count" in text
    assert "penstock_journal_sync_seconds_count" in text
