"""Leaving `async with message`, row by row of the table; and the awaited settles."""

import asyncio
from contextlib import nullcontext
from typing import Any

import msgpack
import pytest
from tests.fakes.client_wire import FakeClient, delivered, payload_of, queue_of, turns

from penstock.errors import Invalid, NotFound, OutcomeUnknown, Stale, TooLarge
from penstock.events import SettleFailed, SettleStale
from penstock.message import DeadLetter, Message, Retry
from penstock_protocol.batch import BatchView, Kind
from penstock_protocol.limits import REASON_BYTES_MAX
from penstock_protocol.messages.queues import (
    Ack,
    Checkpoint,
    Delivery,
    Extend,
    Nack,
    Outcome,
    Reply,
    Settled,
)
from penstock_protocol.slices import RANGE_BYTES, Range, decode_ranges, encode_ranges

ALL_WELL = Settled(1, b"")


@pytest.fixture
def client() -> FakeClient:
    made = FakeClient()
    made.wire.answers = {kind: lambda _: ALL_WELL for kind in (Ack, Nack, Extend, Checkpoint, Reply)}
    return made


def received(client: FakeClient, count: int = 1, **stamps: Any) -> list[Message[bytes]]:
    bodies = [b"%d" % i for i in range(count)]
    queue = queue_of(client)
    runs = queue.runs(Delivery(*payload_of(delivered(*bodies, **stamps))))
    return [Message(run, index) for run in runs for index in range(count)]


async def leave_by(message: Message[bytes], error: BaseException | None) -> None:
    async with message:
        if error is not None:
            raise error


async def test_normal_end_acks_staged(client: FakeClient) -> None:
    (message,) = received(client)
    async with message:
        assert client.wire.asked == []
    assert client.wire.asked == []
    await client.settler.flush()
    assert client.wire.of(Ack) == [Ack("jobs", encode_ranges([Range(7, 0, 0, 1)]))]


FAILURES = [
    (ValueError("no such user"), None, "ValueError: no such user"),
    (Retry(), None, "Retry: asked for by the handler"),
    (Retry(delay=2.5), 2_500, "Retry: asked for by the handler"),
    (Retry(delay=0), 0, "Retry: asked for by the handler"),
]


@pytest.mark.parametrize(
    ("error", "delay", "reason"), FAILURES, ids=["exception", "retry", "retry later", "retry at once"]
)
async def test_exception_nacks_staged_with_its_text_and_is_raised_again(
    client: FakeClient, error: Exception, delay: int | None, reason: str
) -> None:
    (message,) = received(client)
    with pytest.raises(type(error)) as raised:
        await leave_by(message, error)
    assert raised.value is error
    await client.settler.flush()
    (nack,) = client.wire.of(Nack)
    assert (nack.outcome, nack.delay, nack.reason) == (Outcome.RETRY, delay, reason)


async def test_retry_raised_from_an_exception_tells_that_one_as_the_reason(client: FakeClient) -> None:
    (message,) = received(client)

    async def handle() -> None:
        async with message:
            try:
                raise KeyError("host")
            except KeyError as error:
                raise Retry(1) from error

    with pytest.raises(Retry):
        await handle()
    await client.settler.flush()
    assert client.wire.of(Nack)[0].reason == "KeyError: 'host'"


async def test_reason_is_cut_at_1_kib_between_characters(client: FakeClient) -> None:
    (message,) = received(client)
    with pytest.raises(ValueError, match="é"):
        await leave_by(message, ValueError("é" * 2_000))
    await client.settler.flush()
    reason = client.wire.of(Nack)[0].reason
    assert REASON_BYTES_MAX - 1 <= len(reason.encode()) <= REASON_BYTES_MAX
    assert set(reason) == set("ValueError: é")


async def test_dead_letter_is_staged_and_raised_again(client: FakeClient) -> None:
    (message,) = received(client)
    with pytest.raises(DeadLetter):
        await leave_by(message, DeadLetter("unreadable"))
    await client.settler.flush()
    (nack,) = client.wire.of(Nack)
    assert (nack.outcome, nack.delay, nack.reason) == (Outcome.DEAD_LETTER, None, "unreadable")


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_being_torn_away_releases_without_awaiting_and_is_raised_again(
    client: FakeClient, kind: type[BaseException]
) -> None:
    (message,) = received(client)
    block = leave_by(message, kind())
    with pytest.raises(kind):
        block.send(None)  # one step: anything awaited on the way out would suspend it instead
    await client.settler.flush()
    (nack,) = client.wire.of(Nack)
    assert (nack.outcome, nack.reason) == (Outcome.RELEASE, None)


async def test_closing_a_suspended_block_releases(client: FakeClient) -> None:
    (message,) = received(client)

    async def handle() -> None:
        async with message:
            await asyncio.sleep(60)

    block = handle()
    block.send(None)
    block.close()
    await client.settler.flush()
    assert client.wire.of(Nack)[0].outcome == Outcome.RELEASE


@pytest.mark.parametrize("error", [None, ValueError(), asyncio.CancelledError()], ids=repr)
async def test_already_settled_does_nothing(client: FakeClient, error: BaseException | None) -> None:
    (message,) = received(client)
    await message.nack(delay=3, reason="later")
    with pytest.raises(type(error)) if error else nullcontext():
        await leave_by(message, error)
    await client.settler.flush()
    assert len(client.wire.asked) == 1


async def test_settled_through_its_view_does_nothing(client: FakeClient) -> None:
    queue = queue_of(client)
    message, other = received(client, 2)
    await queue.ack([message, other])
    async with message:
        pass
    await client.settler.flush()
    assert len(client.wire.asked) == 1


async def test_stale_staged_settle_is_an_event_and_never_raises(client: FakeClient) -> None:
    client.wire.answers[Ack] = lambda ack: Settled(0, ack.payload)
    (message,) = received(client)
    async with message:
        pass
    await client.settler.flush()
    assert client.wire.events == [SettleStale("jobs", 1)]


async def test_failed_staged_settle_is_an_event_and_never_raises(client: FakeClient) -> None:
    client.wire.answers[Ack] = lambda _: NotFound("no queue 'jobs'")
    (message,) = received(client)
    async with message:
        pass
    await client.settler.flush()
    (event,) = client.wire.events
    assert isinstance(event, SettleFailed)
    assert (event.queue, event.messages) == ("jobs", 1)


SETTLES = {
    "ack": (lambda m: m.ack(), Ack, None),
    "nack": (lambda m: m.nack(), Nack, (Outcome.RETRY, None, None)),
    "nack later": (lambda m: m.nack(1.5, "busy"), Nack, (Outcome.RETRY, 1_500, "busy")),
    "release": (lambda m: m.release(), Nack, (Outcome.RELEASE, None, None)),
    "dead-letter": (lambda m: m.dead_letter("bad"), Nack, (Outcome.DEAD_LETTER, None, "bad")),
}


@pytest.mark.parametrize("case", SETTLES)
async def test_settle_sends_its_verdict_and_returns(client: FakeClient, case: str) -> None:
    call, kind, rest = SETTLES[case]
    (message,) = received(client, first=12, token=5)
    await call(message)
    (asked,) = client.wire.of(kind)
    assert asked.queue == "jobs"
    assert decode_ranges(memoryview(asked.payload)) == [Range(5, 12, 0, 1)]
    if rest:
        assert (asked.outcome, asked.delay, asked.reason) == rest


@pytest.mark.parametrize("case", SETTLES)
async def test_settle_of_a_lost_lease_raises_stale(client: FakeClient, case: str) -> None:
    call, kind, _ = SETTLES[case]
    client.wire.answers[kind] = lambda settle: Settled(0, settle.payload)
    (message,) = received(client)
    assert 29 < message.lease_remaining <= 30
    with pytest.raises(Stale, match="the lease of 1 message"):
        await call(message)
    assert message.lease_remaining == 0


async def test_extend_moves_the_end_of_the_lease(client: FakeClient) -> None:
    message, other = received(client, 2)
    await message.extend(300)
    (extend,) = client.wire.of(Extend)
    assert (extend.queue, extend.extend) == ("jobs", 300_000)
    assert 299 < message.lease_remaining <= 300
    assert other.lease_remaining <= 30


async def test_extend_of_a_lost_lease_raises_stale_and_the_block_settles_nothing(client: FakeClient) -> None:
    client.wire.answers[Extend] = lambda extend: Settled(0, extend.payload)
    (message,) = received(client)
    with pytest.raises(Stale):
        async with message:
            await message.extend(10)
    await client.settler.flush()
    assert client.wire.of(Nack) == []


async def test_extend_with_a_checkpoint_is_durable_and_moves_the_end_of_the_lease(client: FakeClient) -> None:
    _, message = received(client, 2, first=12, token=5)
    await message.extend(300, b"half-way")
    (asked,) = client.wire.of(Checkpoint)
    assert (asked.queue, asked.extend) == ("jobs", 300_000)
    assert asked.payload == encode_ranges([Range(5, 13, 0, 1)]) + b"half-way"
    assert client.wire.of(Extend) == []
    assert 299 < message.lease_remaining <= 300


async def test_checkpoint_of_a_lost_lease_raises_stale(client: FakeClient) -> None:
    client.wire.answers[Checkpoint] = lambda asked: Settled(0, asked.payload[:RANGE_BYTES])
    (message,) = received(client)
    with pytest.raises(Stale):
        await message.extend(10, b"x")


async def test_checkpoint_above_64_kib_is_too_large(client: FakeClient) -> None:
    (message,) = received(client)
    with pytest.raises(TooLarge, match="65,537 bytes; the limit is 65,536"):
        await message.extend(10, b"x" * 65_537)
    await message.extend(10, b"x" * 65_536)


async def test_checkpoint_of_several_messages_is_invalid(client: FakeClient) -> None:
    messages = received(client, 2)
    with pytest.raises(Invalid, match="one message"):
        await queue_of(client).extend(messages, 10, b"x")


async def test_reply_acks_and_answers_in_one_request(client: FakeClient) -> None:
    cells = [[(Kind.REPLY_TO, msgpack.packb("answers")), (Kind.CORRELATION_ID, msgpack.packb("7"))]]
    (message,) = received(client, cells=cells, first=12, token=5)
    async with message:
        await message.reply("done", {"ok": True}, "text/plain")
    await client.settler.flush()
    (asked,) = [each.message for each in client.wire.asked]
    assert (asked.queue, asked.to) == ("jobs", "answers")
    assert asked.payload[:RANGE_BYTES] == encode_ranges([Range(5, 12, 0, 1)])
    batch = BatchView(asked.payload[RANGE_BYTES:])
    batch.check(1_000)
    assert (batch.count, bytes(batch.bodies())) == (1, b"done")
    found = {Kind(each.kind): msgpack.unpackb(batch.cells(each.kind)[0]) for each in batch.column_table}
    assert found == {
        Kind.HEADERS: {"ok": True},
        Kind.CORRELATION_ID: "7",
        Kind.CONTENT_TYPE: "text/plain",
    }


async def test_reply_to_a_message_that_names_no_queue_is_invalid(client: FakeClient) -> None:
    with pytest.raises(Invalid, match="reply_to"):
        await received(client)[0].reply("x")


ASKING = [[(Kind.REPLY_TO, msgpack.packb("answers"))]]


async def test_reply_under_a_lost_lease_raises_stale_and_the_block_settles_nothing(
    client: FakeClient,
) -> None:
    client.wire.answers[Reply] = lambda asked: Settled(0, asked.payload[:RANGE_BYTES])
    (message,) = received(client, cells=ASKING)
    with pytest.raises(Stale):
        async with message:
            await message.reply("x")
    await client.settler.flush()
    assert len(client.wire.asked) == 1


async def test_message_whose_reply_has_nowhere_to_go_can_be_acked(client: FakeClient) -> None:
    client.wire.answers[Reply] = lambda _: NotFound("no queue 'answers'")
    (message,) = received(client, cells=ASKING)
    async with message:
        with pytest.raises(NotFound):
            await message.reply("x")
    await client.settler.flush()
    assert len(client.wire.of(Ack)) == 1


async def test_reply_that_was_sent_twice_and_is_stale_is_unknown(client: FakeClient) -> None:
    del client.wire.answers[Reply]
    (message,) = received(client, cells=ASKING)
    replying = asyncio.ensure_future(message.reply("x"))
    await turns()
    asked = client.wire.last(Reply)
    asked.on_resend()
    asked.reply(Settled(0, asked.message.payload[:RANGE_BYTES]))
    with pytest.raises(OutcomeUnknown) as caught:
        await replying
    client.wire.answers[Reply] = lambda asked: Settled(0, asked.payload[:RANGE_BYTES])
    with pytest.raises(OutcomeUnknown):
        await caught.value.retry()


async def test_message_without_a_lease_is_left_alone_by_its_block(client: FakeClient) -> None:
    (message,) = received(client, token=0)
    async with message:
        pass
    await client.settler.flush()
    assert client.wire.asked == []


@pytest.mark.parametrize("case", [*SETTLES, "extend", "reply"])
async def test_message_without_a_lease_cannot_be_settled(client: FakeClient, case: str) -> None:
    calls = {
        **{name: call for name, (call, _, _) in SETTLES.items()},
        "extend": lambda m: m.extend(5),
        "reply": lambda m: m.reply("x"),
    }
    (message,) = received(client, cells=ASKING, token=0)
    with pytest.raises(Invalid, match="peeked, found or received with settle=True has no lease"):
        await calls[case](message)


async def test_a_message_of_another_queue_is_refused(client: FakeClient) -> None:
    with pytest.raises(Invalid, match="cannot be settled in 'mails'"):
        await queue_of(client, "mails").ack(received(client))


async def test_cancelling_an_ack_only_stops_waiting() -> None:
    client = FakeClient()
    (message,) = received(client)
    task = asyncio.ensure_future(message.ack())
    await turns()
    task.cancel()
    await turns()
    assert task.cancelled()
    client.wire.last(Ack).reply(ALL_WELL)
    async with message:
        pass
    await client.settler.flush()
    assert len(client.wire.asked) == 1
