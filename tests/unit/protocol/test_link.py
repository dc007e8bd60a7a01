"""The link lets through what its table allows and fails for good on everything else."""

import itertools
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.wire import Wire
from tests.format.examples import EXAMPLES, buffers

from penstock_protocol.errors import BadFrame, Error, Invalid, NotFound, ProtocolError, QueueFull, Unsupported
from penstock_protocol.frame import ERROR, MORE, REPLY, encode_header
from penstock_protocol.limits import FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_HELLO
from penstock_protocol.link import RECEIVE, Link, Received, Role, Sort, State, failure_of
from penstock_protocol.messages import schema
from penstock_protocol.messages.queues import CreateQueue, Deliver, Enqueue, Receive
from penstock_protocol.messages.session import MAGIC, Done, Failure, Hello, Ping, Pong, Welcome
from penstock_protocol.verbs import BY_CODE, BY_REQUEST, VERBS

HELLO = Hello(MAGIC, 1, 1, bytes(16), 7)
WELCOME = Welcome(1, "test", bytes(16), 1, False, 0, 0, {})
SENT: dict[Sort, tuple[int, int, Any]] = {
    Sort.HELLO: (1, 0, HELLO),
    Sort.WELCOME: (1, REPLY, WELCOME),
    Sort.REQUEST: (2, 0, Ping()),
    Sort.REPLY: (2, REPLY, Pong(1)),
    Sort.ERROR: (2, REPLY | ERROR, Failure(1, "no", "", None, {})),
    Sort.PUSH: (24, 0, Deliver(1, 0, b"")),
}


def frame(verb: int, flags: int, message: Any, correlation: int = 1) -> bytes:
    fields, payload = schema.encode(message)
    assert isinstance(payload, bytes | bytearray)
    return encode_header(verb, flags, correlation, len(fields), len(payload)) + fields + payload


def in_state(role: Role, state: State) -> Link:
    link = Link(role)
    link.state = state
    return link


def received(link: Link, data: bytes) -> list[Received]:
    return list(link.receive(data))


# the table


@pytest.mark.parametrize(
    ("role", "state", "sort"),
    list(itertools.product(Role, State, Sort)),
    ids=lambda part: part.value,
)
def test_every_frame_in_every_state_is_let_through_as_the_table_says(
    role: Role, state: State, sort: Sort
) -> None:
    link = in_state(role, state)
    verb, flags, message = SENT[sort]
    after = RECEIVE.get((role, state, sort))
    if after is None:
        with pytest.raises(ProtocolError):
            received(link, frame(verb, flags, message))
        assert link.state is State.FAILED
        return
    (found,) = received(link, frame(verb, flags, message))
    assert link.state is after
    assert found.verb.code == verb
    assert found.correlation == 1
    assert found.is_reply == bool(flags)
    assert isinstance(found.message, NotFound) if sort is Sort.ERROR else found.message == message


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_broker_asks_only_for_ping_and_pushes_only_deliveries(verb: Any) -> None:
    message = next(example.message for example in EXAMPLES if type(example.message) is verb.request)
    link = in_state(Role.CLIENT, State.OPEN)
    if verb.name in ("PING", "DELIVER"):
        assert received(link, frame(verb.code, 0, message))[0].message == message
        return
    with pytest.raises(ProtocolError):
        received(link, frame(verb.code, 0, message))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.reply], ids=lambda verb: verb.name)
def test_client_answers_nothing_but_ping(verb: Any) -> None:
    message = next(
        example.message for example in EXAMPLES if example.to == verb.name and not example.is_error
    )
    link = in_state(Role.SERVER, State.OPEN)
    if verb.name == "PING":
        assert received(link, frame(verb.code, REPLY, message))[0].message == message
        return
    with pytest.raises(ProtocolError):
        received(link, frame(verb.code, REPLY, message))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if not verb.reply], ids=lambda verb: verb.name)
def test_reply_to_a_verb_without_one_fails_the_link(verb: Any) -> None:
    with pytest.raises(ProtocolError, match=f"{verb.name} has no reply"):
        received(in_state(Role.CLIENT, State.OPEN), frame(verb.code, REPLY, Done()))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.reply], ids=lambda verb: verb.name)
@pytest.mark.parametrize("role", Role)
def test_only_what_may_be_answered_in_parts_gets_more_than_one_reply(role: Role, verb: Any) -> None:
    message = next(
        example.message for example in EXAMPLES if example.to == verb.name and not example.is_error
    )
    link = in_state(role, State.OPEN)
    if verb.name == "FETCH" and role is Role.CLIENT:
        found = received(link, frame(33, REPLY | MORE, message) + frame(33, REPLY, message))
        assert [(each.is_reply, each.is_last) for each in found] == [(True, False), (True, True)]
        return
    why = "does not ask for FETCH" if verb.name == "FETCH" else f"{verb.name} is not answered in parts"
    with pytest.raises(ProtocolError, match=why):
        received(link, frame(verb.code, REPLY | MORE, message))
    assert link.state is State.FAILED


# the handshake


def test_messages_before_hello_fail_the_link() -> None:
    link = Link(Role.SERVER)
    with pytest.raises(ProtocolError, match="not allowed in state start"):
        received(link, frame(16, 0, Enqueue("q", b"")))
    with pytest.raises(ProtocolError, match="failed earlier"):
        received(link, frame(1, 0, HELLO))


def test_requests_may_follow_hello_in_one_piece() -> None:
    found = received(Link(Role.SERVER), frame(1, 0, HELLO) + frame(2, 0, Ping()) + frame(2, 0, Ping()))
    assert [item.verb.name for item in found] == ["HELLO", "PING", "PING"]


def test_frames_before_hello_are_small() -> None:
    size = FRAME_BYTES_MAX_BEFORE_HELLO + 1
    with pytest.raises(ProtocolError, match="allowed are 16 to 4096"):
        received(Link(Role.SERVER), encode_header(1, 0, 1, 0, size - 16))


def test_large_frame_may_follow_hello_in_the_same_piece() -> None:
    link = Link(Role.SERVER)
    enqueue = frame(16, 0, Enqueue("q", bytes(10_000)))
    assert [item.verb.name for item in received(link, frame(1, 0, HELLO) + enqueue)] == ["HELLO", "ENQUEUE"]
    with pytest.raises(ProtocolError, match=f"allowed are 16 to {FRAME_BYTES_MAX}"):
        received(link, encode_header(16, 0, 1, 0, FRAME_BYTES_MAX - 15))


def test_malformed_hello_fails_the_link() -> None:
    link = Link(Role.SERVER)
    with pytest.raises(ProtocolError, match="Hello takes 5 to 7 fields"):
        received(link, frame(1, 0, Ping()))
    assert link.state is State.FAILED


def test_refused_handshake_reaches_the_client_and_ends_its_link() -> None:
    link = Link(Role.CLIENT)
    refusal = Link(Role.SERVER).reply(BY_REQUEST[Hello], 1, Unsupported("wire version 9"))
    (found,) = received(link, b"".join(refusal))
    assert isinstance(found.message, Unsupported)
    assert link.state is State.FAILED
    with pytest.raises(ProtocolError, match="failed earlier"):
        received(link, frame(2, REPLY, Pong()))


def test_anything_behind_a_refused_handshake_fails() -> None:
    frames = Link(Role.CLIENT).receive(frame(*SENT[Sort.ERROR]) + frame(2, REPLY, Pong()))
    assert isinstance(next(frames).message, NotFound)
    with pytest.raises(ProtocolError, match="not allowed in state failed"):
        next(frames)


# content


def test_request_with_wrong_content_is_answered_and_the_link_lives() -> None:
    link = in_state(Role.SERVER, State.OPEN)
    first, second = received(link, frame(17, 0, Ping(), 5) + frame(17, 0, Receive("q", 1, 0), 6))
    assert isinstance(first.message, Invalid)
    assert (first.verb.name, first.correlation, first.is_reply) == ("RECEIVE", 5, False)
    assert second.message == Receive("q", 1, 0)


@pytest.mark.parametrize(
    ("verb", "flags"), [(16, REPLY), (16, REPLY | ERROR), (24, 0)], ids=["reply", "error", "push"]
)
def test_wrong_content_from_a_broker_fails_the_link(verb: int, flags: int) -> None:
    link = in_state(Role.CLIENT, State.OPEN)
    with pytest.raises(ProtocolError, match="takes"):
        received(link, frame(verb, flags, Ping()))
    assert link.state is State.FAILED


def test_unknown_verb_is_unsupported_and_the_link_lives() -> None:
    link = in_state(Role.SERVER, State.OPEN)
    (found,) = received(link, frame(200, 0, Ping(), 9))
    assert isinstance(found.message, Unsupported)
    assert (found.correlation, found.is_reply, link.state) == (9, False, State.OPEN)


@pytest.mark.parametrize(
    ("state", "flags"), [(State.START, 0), (State.OPEN, REPLY), (State.OPEN, REPLY | ERROR)]
)
def test_unknown_verb_elsewhere_fails_the_link(state: State, flags: int) -> None:
    for role in Role:
        with pytest.raises(ProtocolError, match="verb 200 is unknown"):
            received(in_state(role, state), frame(200, flags, Ping()))


def test_begun_frame_is_seen() -> None:
    link = Link(Role.SERVER)
    assert received(link, frame(1, 0, HELLO)[:10]) == []
    assert link.partial


# errors


def test_error_reply_carries_everything_of_an_error() -> None:
    wire = Wire()
    wire.shake_hands()
    error = QueueFull("emails is full", hint="wait", retry_after=1.5, detail={"messages": 7})
    wire.server.reply(BY_CODE[16], 3, error)
    (found,) = wire.client.receive()
    assert isinstance(found.message, QueueFull)
    assert vars(found.message) == vars(error)


def test_error_without_a_code_is_a_bad_frame_on_the_wire() -> None:
    assert failure_of(Error("odd")) == Failure(BadFrame.code, "odd", Error.advice, None, {})


def test_long_texts_of_an_error_are_cut_to_what_a_frame_may_hold() -> None:
    failure = failure_of(NotFound("ü" * 50_000, hint="ü" * 50_000))
    fields, _ = schema.encode(failure)
    assert schema.decode(Failure, fields, memoryview(b"")) == failure


# the way


@pytest.mark.parametrize("seed", range(10))
def test_conversation_survives_any_pieces(seed: int) -> None:
    wire, random = Wire(), Random(seed)
    wire.shake_hands()
    requests = [example for example in EXAMPLES if not example.to and not example.verb.pushed][1:]
    replies = [example for example in EXAMPLES if example.to or example.verb.pushed][1:]
    for example in requests:
        wire.client.send(buffers(example))
    for example in replies:
        wire.server.send(buffers(example))
    asked = wire.server.receive_in_pieces(random)
    answered = wire.client.receive_in_pieces(random)
    assert [item.message for item in asked] == [example.message for example in requests]
    assert [item.verb for item in answered] == [example.verb for example in replies]


def test_several_buffers_are_one_payload() -> None:
    wire = Wire()
    wire.shake_hands()
    wire.client.request(Enqueue("q", (b"abc", memoryview(b"def"), b"")), 4)
    (found,) = wire.server.receive()
    assert found.message == Enqueue("q", memoryview(b"abcdef"))


def test_request_without_payload_is_one_buffer() -> None:
    assert len(Link(Role.CLIENT).request(CreateQueue("q", {}, "keep"), 1)) == 1


@given(
    st.lists(st.binary(max_size=60), max_size=6),
    st.sampled_from(Role),
    st.sampled_from([State.START, State.OPEN]),
)
def test_garbage_is_a_protocol_error_or_a_message(pieces: list[bytes], role: Role, state: State) -> None:
    link = in_state(role, state)
    try:
        for piece in pieces:
            received(link, piece)
    except ProtocolError:
        assert link.state is State.FAILED


@given(st.binary(max_size=60), st.integers(0, 255), st.integers(0, 3), st.sampled_from(Role))
def test_any_fields_in_a_sound_frame_are_a_protocol_error_or_a_message(
    fields: bytes, verb: int, flags: int, role: Role
) -> None:
    link = in_state(role, State.OPEN)
    try:
        found = received(link, encode_header(verb, flags, 1, len(fields), 0) + fields)
    except ProtocolError:
        assert link.state is State.FAILED
    else:
        assert len(found) == 1
