"""One socket as the broker sees it: a kept transport, a scripted core, a clock turned by hand."""

import asyncio
from collections.abc import Callable

import pytest
from tests.fakes.clock import ManualClock
from tests.unit.server.scripted import HELLO, Client, ScriptedCore, pong_to

from penstock_broker.meters import Meters
from penstock_broker.outputs import Close, Send
from penstock_broker.server.connection import STUCK_MS, WRITE_BYTES_MAX
from penstock_broker.server.listener import Listener
from penstock_broker.server.loop import Turns
from penstock_broker.session import Connection
from penstock_protocol.errors import BadFrame, Busy, NotFound
from penstock_protocol.frame import HEADER
from penstock_protocol.limits import FRAME_BYTES_MAX
from penstock_protocol.messages.queues import Deliver, Delivery, Enqueue, Receive
from penstock_protocol.messages.session import Done, Goodbye, Ping, Pong
from penstock_protocol.messages.topics import Fetch, Fetched
from penstock_protocol.verbs import BY_REQUEST, Verb

Connect = Callable[..., Client]
Look = Callable[[float], None]


async def turn() -> None:
    """Let the event loop run what is due."""
    for _ in range(3):
        await asyncio.sleep(0)


def names(core: ScriptedCore) -> list[str]:
    return [call[0] for call in core.named("handle")]


# ---- Requests in


async def test_every_request_of_a_read_reaches_the_core_in_order(client: Client, core: ScriptedCore) -> None:
    requests = [client.link.request(Receive("jobs", 1, 0), n) for n in range(2, 5)]
    client.feed(b"".join(b"".join(request) for request in requests))
    assert [(name, correlation) for name, correlation, _ in core.named("handle")[1:]] == [
        ("RECEIVE", 2),
        ("RECEIVE", 3),
        ("RECEIVE", 4),
    ]


async def test_request_that_arrives_byte_by_byte_is_handed_in_once(
    client: Client, core: ScriptedCore
) -> None:
    seen: list[bytes] = []
    core.answer = lambda _, __, ___, message: seen.append(bytes(message.payload))
    for byte in b"".join(bytes(piece) for piece in client.link.request(Enqueue("jobs", b"batch"), 2)):
        client.feed(bytes([byte]))
    assert seen == [b"batch"]


async def test_frame_larger_than_the_receive_buffer_is_handed_in_whole(
    client: Client, core: ScriptedCore
) -> None:
    body = bytes(range(256)) * 8_000
    seen: list[bool] = []
    core.answer = lambda _, __, ___, message: seen.append(message.payload == body)
    client.ask(Enqueue("jobs", body))
    assert seen == [True]


async def test_content_that_is_wrong_reaches_the_core_as_an_error(client: Client, core: ScriptedCore) -> None:
    fields = b"\x91\xa1x"  # one field where RECEIVE takes three
    client.feed(HEADER.pack(16 + len(fields), 9, len(fields), BY_REQUEST[Receive].code, 0, 0) + fields)
    _, correlation, message = core.named("handle")[-1]
    assert (correlation, type(message).__name__) == (9, "Invalid")


async def test_lost_socket_is_told_to_the_core(
    client: Client, core: ScriptedCore, listener: Listener
) -> None:
    client.peer.connection_lost(None)
    assert core.named("disconnected") == [()]
    assert not listener._peers


# ---- Replies out


async def test_outputs_of_a_turn_leave_in_one_write_and_in_order(client: Client, core: ScriptedCore) -> None:
    def answer(connection: Connection, verb: Verb, correlation: int, message: object) -> None:
        core.outputs.append(Send(connection, verb, correlation, Delivery(0, b"")))
        core.outputs.append(Send(connection, BY_REQUEST[Deliver], 0, Deliver(1, 0, (b"a", memoryview(b"b")))))

    core.answer = answer
    before = len(client.transport.writes)
    client.ask(Receive("jobs", 1, 0), 2)
    client.ask(Receive("jobs", 1, 0), 3)
    await turn()
    assert len(client.transport.writes) == before + 1
    got = [(each.verb.name, each.correlation) for each in client.received()]
    assert got == [("RECEIVE", 2), ("DELIVER", 0), ("RECEIVE", 3), ("DELIVER", 0)]


async def test_error_leaves_as_an_error_reply_and_is_counted_by_verb_and_code(
    client: Client, core: ScriptedCore, meters: Meters
) -> None:
    verb = BY_REQUEST[Receive]
    core.answer = lambda connection, verb, correlation, _: core.outputs.append(
        Send(connection, verb, correlation, NotFound("no queue 'jobs'"))
    )
    client.ask(Receive("jobs", 1, 0), 2)
    await turn()
    (received,) = client.received()
    assert isinstance(received.message, NotFound)
    assert meters.requests[verb.code, NotFound.code] == 1
    assert sum(meters.request_seconds[verb.code].counts) == 1


async def test_reply_in_parts_is_one_request_that_took_until_the_first_of_them(
    client: Client, core: ScriptedCore, meters: Meters
) -> None:
    def answer(connection: Connection, verb: Verb, correlation: int, message: object) -> None:
        for is_last in (False, False, True):
            core.outputs.append(Send(connection, verb, correlation, Fetched(0, 0, 0, 0, b""), is_last))

    core.answer = answer
    client.ask(Fetch("clicks", 0, 0, 1, 1, 0, None, True), 2)
    await turn()
    assert [each.is_last for each in client.received()] == [False, False, True]
    assert meters.requests[BY_REQUEST[Fetch].code, 0] == 1
    assert sum(meters.request_seconds[BY_REQUEST[Fetch].code].counts) == 1


async def test_close_of_the_core_comes_behind_what_was_sent_before(
    client: Client, core: ScriptedCore
) -> None:
    def answer(connection: Connection, verb: Verb, correlation: int, message: object) -> None:
        core.outputs.append(Send(connection, verb, correlation, Done()))
        core.outputs.append(Close(connection, "goodbye"))
        core.outputs.append(Send(connection, verb, correlation, Done()))

    core.answer = answer
    client.ask(Goodbye(), 2)
    await turn()
    assert client.transport.closed
    assert client.received()[0].message == Done()


async def test_output_for_a_lost_connection_is_dropped(
    client: Client, core: ScriptedCore, turns: Turns
) -> None:
    client.ask(Receive("jobs", 1, 20_000), 2)
    client.peer.connection_lost(None)
    before = len(client.transport.writes)
    core.outputs.append(Send(client.peer._connection, BY_REQUEST[Receive], 2, Delivery(0, b"")))
    turns.soon()
    await turn()
    assert len(client.transport.writes) == before


# ---- Peers that break the rules


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="another protocol"),
        pytest.param(bytes(64), id="a length of zero"),
        pytest.param(HEADER.pack(4097, 1, 0, 1, 0, 0), id="more than 4 KiB before HELLO"),
        pytest.param(HEADER.pack(16, 1, 0, BY_REQUEST[Ping].code, 0, 0), id="a request before HELLO"),
    ],
)
async def test_garbage_gets_an_error_with_correlation_0_and_the_socket_closes(
    connect: Connect, core: ScriptedCore, meters: Meters, garbage: bytes
) -> None:
    client = connect()
    client.feed(garbage)
    (received,) = client.received()
    assert (type(received.message), received.correlation) == (BadFrame, 0)
    assert client.transport.closed
    assert not core.named("handle")
    assert meters.dropped["bad_frame"] == 1


async def test_claimed_length_beyond_the_limit_is_refused_at_its_header(
    client: Client, core: ScriptedCore
) -> None:
    client.feed(HEADER.pack(FRAME_BYTES_MAX + 1, 2, 0, BY_REQUEST[Enqueue].code, 0, 0))
    assert isinstance(client.received()[0].message, BadFrame)
    assert client.transport.closed


# ---- Peers that wait too long


async def test_silence_before_hello_ends_after_10_seconds(
    connect: Connect, look: Look, meters: Meters
) -> None:
    client = connect()
    look(9)
    assert not client.transport.aborted
    look(1)
    assert client.transport.aborted
    assert meters.dropped["no_hello"] == 1


async def test_begun_frame_must_be_complete_after_30_seconds(
    client: Client, look: Look, meters: Meters
) -> None:
    frame = b"".join(client.link.request(Receive("j" * 100, 1, 0), 2))
    for byte in frame[:30]:
        assert not client.transport.aborted
        client.feed(bytes([byte]))
        look(1)
    assert client.transport.aborted
    assert meters.dropped["unfinished_frame"] == 1


async def test_steady_stream_that_always_ends_inside_a_frame_is_not_dropped(
    client: Client, look: Look
) -> None:
    frame = b"".join(client.link.request(Receive("jobs", 1, 0), 2))
    client.feed(frame[:5])
    for _ in range(100):
        look(1)
        client.feed(frame[5:] + frame[:5])
    assert not client.transport.aborted


async def test_silent_peer_is_pinged_after_30_seconds_and_dropped_after_60(
    client: Client, look: Look, meters: Meters
) -> None:
    look(29)
    assert client.received() == []
    look(1)
    assert [each.message for each in client.received()] == [Ping()]
    look(29)
    assert not client.transport.aborted
    look(1)
    assert client.transport.aborted
    assert meters.dropped["silent"] == 1


async def test_peer_that_answers_pings_stays_and_its_answers_do_not_reach_the_core(
    client: Client, look: Look, core: ScriptedCore
) -> None:
    for _ in range(4):
        look(30)
        (ping,) = client.received()
        client.feed(pong_to(ping))
    assert not client.transport.aborted
    assert names(core) == ["HELLO"]


async def test_ping_of_the_peer_is_a_request_like_any_other(client: Client, core: ScriptedCore) -> None:
    core.answer = lambda connection, verb, correlation, _: core.outputs.append(
        Send(connection, verb, correlation, Pong(5))
    )
    client.ask(Ping(), 3)
    await turn()
    assert [each.message for each in client.received()] == [Pong(5)]


# ---- Peers that do not read


async def test_peer_above_the_mark_is_not_read_from_and_the_core_knows(
    client: Client, core: ScriptedCore
) -> None:
    assert client.transport.high == WRITE_BYTES_MAX
    client.peer.pause_writing()
    assert (client.transport.reading, core.named("blocked")) == (False, [(True,)])
    client.peer.resume_writing()
    assert (client.transport.reading, core.named("blocked")) == (True, [(True,), (False,)])


async def test_stuck_peer_is_dropped_after_30_seconds(client: Client, look: Look, meters: Meters) -> None:
    client.transport.unsent = 2 * WRITE_BYTES_MAX
    client.peer.pause_writing()
    look(29)
    assert not client.transport.aborted
    look(1)
    assert client.transport.aborted
    assert meters.dropped["stuck"] == 1


async def test_slow_peer_that_still_reads_is_not_dropped(client: Client, look: Look) -> None:
    client.transport.unsent = 8 * WRITE_BYTES_MAX
    client.peer.pause_writing()
    for _ in range(10):
        look(20)
        client.transport.unsent -= 1000
    assert not client.transport.aborted


async def test_time_of_a_blocked_peer_does_not_count_as_silence(client: Client, look: Look) -> None:
    look(25)
    client.transport.unsent = 2 * WRITE_BYTES_MAX
    client.peer.pause_writing()
    look(20)
    client.peer.resume_writing()
    look(29)
    assert client.received() == []
    assert not client.transport.aborted


async def test_parting_peer_that_never_takes_the_rest_is_dropped(
    client: Client, look: Look, clock: ManualClock
) -> None:
    client.transport.unsent = 10
    client.peer.close("goodbye")
    look(STUCK_MS / 1000)
    assert client.transport.aborted


# ---- Limits


async def test_more_connections_than_the_limit_are_refused_with_a_hint(
    connect: Connect, core: ScriptedCore, meters: Meters
) -> None:
    clients = [connect(f"192.0.2.{number}") for number in range(5)]
    refused = clients.pop()
    (received,) = refused.received()
    assert isinstance(received.message, Busy)
    assert "server.connections_max" in received.message.hint
    assert refused.transport.closed
    assert not any(client.transport.closed for client in clients)
    assert len(core.named("connected")) == 4
    assert meters.dropped["connections_max"] == 1


async def test_one_address_has_few_connections_before_hello_but_many_after(
    connect: Connect, meters: Meters
) -> None:
    first, _ = connect(), connect()
    assert connect().transport.closed
    first.ask(HELLO)
    assert not connect().transport.closed
    assert meters.dropped["connections_per_address_max"] == 1


async def test_place_of_a_lost_connection_is_free_again(connect: Connect) -> None:
    for _ in range(20):
        client = connect()
        assert not client.transport.closed
        client.peer.connection_lost(None)


# ---- Stopping


async def test_parting_waits_for_every_peer_and_then_drops_the_rest(
    listener: Listener, connect: Connect
) -> None:
    reads, does_not = connect(), connect()
    parting = asyncio.create_task(listener.part(0.05))
    await turn()
    assert reads.transport.closed
    assert does_not.transport.closed
    reads.peer.connection_lost(None)
    await parting
    assert does_not.transport.aborted
    assert not reads.transport.aborted
