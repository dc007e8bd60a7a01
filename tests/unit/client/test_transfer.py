"""Finding, explaining, pausing, cancelling and moving messages. The test is the broker."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from tests.fakes.client_wire import LOG, NOW_MS, FakeClient, delivered, payload_of, queue_of, turns
from tests.fakes.topic_broker import document

from penstock.errors import Invalid, NotFound, OutcomeUnknown, QueueFull
from penstock.queue import Queue
from penstock.runs import id_of
from penstock.values import Redriven, StoryLine, instant_of
from penstock_protocol.errors import OutcomeUnknown as WireOutcomeUnknown
from penstock_protocol.limits import DELAY_MS_MAX, FIND_MESSAGES_MAX
from penstock_protocol.messages.queues import (
    HERE,
    AlterQueue,
    Explain,
    Find,
    Found,
    Peek,
    Receive,
    Reschedule,
    Resume,
    Transfer,
)

ID = id_of(LOG.bytes, 7)
NOW = instant_of(NOW_MS)


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def queue(client: FakeClient) -> Queue[bytes]:
    return queue_of(client)


def moved(messages: int, size: int, after: int | None) -> Any:
    return document({"messages": messages, "bytes": size, "next": after})


class Steps:
    """Answers TRANSFER with a row each: messages, bytes, where to go on."""

    def __init__(self, client: FakeClient, *rows: Any) -> None:
        self._rows = iter(rows)
        client.wire.answers[Transfer] = self._answer

    def _answer(self, _: Transfer) -> Any:
        row = next(self._rows)
        return moved(*row) if isinstance(row, tuple) else row


# Moving


async def test_redrive_goes_on_from_the_cursor_until_there_is_none(
    client: FakeClient, queue: Queue[bytes]
) -> None:
    Steps(client, (1_000, 5_000, 1_200), (0, 0, 9_000), (7, 70, None))
    assert await queue.redrive() == Redriven(1_007, 5_070)
    asked = client.wire.of(Transfer)
    assert [each.cursor for each in asked] == [0, 1_200, 9_000]
    assert {each[:4] for each in asked} == {("jobs", None, "ready", 1_000)}
    assert not any(each.dry or each.where for each in asked)


async def test_limit_ends_it_before_the_cursor_does(client: FakeClient, queue: Queue[bytes]) -> None:
    Steps(client, (1_000, 1, 1_000), (500, 1, 1_500))
    assert (await queue.redrive("other", limit=1_500, reason="max_attempts")).messages == 1_500
    first, second = client.wire.of(Transfer)
    assert (first.limit, second.limit) == (1_000, 500)
    assert (first.to, first.where) == ("other", {"reason": "max_attempts"})


async def test_limit_zero_asks_nothing(client: FakeClient, queue: Queue[bytes]) -> None:
    assert await queue.redrive(limit=0) == Redriven(0, 0)
    assert client.wire.asked == []


async def test_rate_makes_small_steps_in_their_time(client: FakeClient, queue: Queue[bytes]) -> None:
    Steps(client, (4, 1, 4), (4, 1, 8), (4, 1, None))
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await queue.redrive(rate=40)
    assert 0.2 <= loop.time() - begin < 1
    assert {each.limit for each in client.wire.of(Transfer)} == {4}


async def test_dry_run_counts_and_keeps_no_pace(client: FakeClient, queue: Queue[bytes]) -> None:
    Steps(client, (1_000, 10, 1_000), (1, 1, None))
    assert await queue.redrive(rate=0.001, dry_run=True) == Redriven(1_001, 11)
    assert all(each.dry and each.limit == 1_000 for each in client.wire.of(Transfer))


async def test_replay_copies_settled_messages_of_a_time_into_the_same_queue(
    client: FakeClient, queue: Queue[bytes]
) -> None:
    Steps(client, (3, 30, None), (3, 30, None))
    await queue.replay(NOW - timedelta(hours=1))
    await queue.replay(NOW - timedelta(hours=1), NOW - timedelta(minutes=1), into=queue_of(client, "other"))
    first, second = client.wire.of(Transfer)
    assert (first.to, first.state) == ("jobs", "settled")
    assert first.where == {"since": NOW_MS - 3_600_000, "until": NOW_MS + 1}
    assert (second.to, second.where["until"]) == ("other", NOW_MS - 60_000)


async def test_move_says_which(client: FakeClient, queue: Queue[bytes]) -> None:
    Steps(client, (1, 1, None), (1, 1, None))
    await queue.move("other", state="delayed", id=ID)
    await queue.move(queue_of(client, "other"), header=("user", 42), since=NOW, until=NOW)
    first, second = client.wire.of(Transfer)
    assert (first.to, first.state) == ("other", "delayed")
    assert first.where == {"id_log": LOG.bytes, "id_offset": 7}
    assert second.where == {"header": "user", "value": 42, "since": NOW_MS, "until": NOW_MS}


async def test_refusal_half_way_tells_how_many_were_moved(client: FakeClient, queue: Queue[bytes]) -> None:
    Steps(client, (1_000, 10, 1_000), QueueFull("the queue 'other' is full"))
    with pytest.raises(QueueFull, match="is full; 1,000 messages were moved before"):
        await queue.redrive("other")


async def test_refusal_at_the_start_is_told_as_it_is(client: FakeClient, queue: Queue[bytes]) -> None:
    Steps(client, QueueFull("full"))
    with pytest.raises(QueueFull) as caught:
        await queue.redrive("other")
    assert caught.value.message == "full"


async def test_who_asks_again_after_a_timeout_goes_on_where_it_stopped(
    client: FakeClient, queue: Queue[bytes]
) -> None:
    Steps(client, (1_000, 10, 1_000), WireOutcomeUnknown("Transfer was not confirmed"), (5, 5, None))
    with pytest.raises(OutcomeUnknown, match="1,000 messages were moved before") as caught:
        await queue.redrive()
    assert await caught.value.retry() == Redriven(1_005, 15)
    assert [each.cursor for each in client.wire.of(Transfer)] == [0, 1_000, 1_000]


@pytest.mark.parametrize(
    ("call", "once"),
    [
        (lambda queue: queue.redrive(), False),
        (lambda queue: queue.replay(NOW, dry_run=True), False),
        (lambda queue: queue.replay(NOW), True),
        (lambda queue: queue.redrive(limit=5), True),
    ],
    ids=["a move", "a dry run", "a copy", "a move with a limit"],
)
async def test_step_that_may_have_been_done_is_repeated_only_if_that_is_harmless(
    client: FakeClient, queue: Queue[bytes], call: Any, once: bool
) -> None:
    moving = asyncio.ensure_future(call(queue))
    await client.wire.until(Transfer)
    asked = client.wire.last(Transfer)
    if once:
        with pytest.raises(WireOutcomeUnknown, match="the connection was lost while messages of 'jobs'"):
            asked.on_resend()
    else:
        assert asked.on_resend is None
    asked.reply(moved(0, 0, None))
    await moving


WRONG = [
    (lambda queue: queue.move("other", state="in_flight"), "state='in_flight'"),
    (lambda queue: queue.redrive(limit=-1), "limit=-1"),
    (lambda queue: queue.redrive(rate=0), "rate=0"),
    (lambda queue: queue.redrive(rate=float("nan")), "rate=nan"),
    (lambda queue: queue.move("other", id="x"), "is no id"),
    (lambda queue: queue.find(header="user"), "is no pair"),
    (lambda queue: queue.cancel("7"), "is no id"),
    (lambda queue: queue.reschedule(ID), "by delay or by at"),
    (lambda queue: queue.reschedule(ID, delay=1, at=NOW), "by delay or by at"),
    (lambda queue: queue.reschedule(ID, delay=timedelta(days=4_000)), "ten years"),
    (lambda queue: queue.reschedule(ID, at=NOW + timedelta(days=4_000)), "ten years"),
]


@pytest.mark.parametrize(("call", "said"), WRONG, ids=[said for _, said in WRONG])
async def test_what_cannot_be_is_invalid(
    client: FakeClient, queue: Queue[bytes], call: Any, said: str
) -> None:
    with pytest.raises(Invalid, match=said):
        await call(queue)
    assert client.wire.asked == []


# Looking


def found(bodies: list[bytes], states: list[str], after: int | None, first: int = 0) -> Found:
    slices, payload = payload_of(delivered(*bodies, first=first, token=0))
    return Found(slices, tuple(states), after, payload)


async def test_find_goes_on_until_it_has_enough(client: FakeClient, queue: Queue[bytes]) -> None:
    replies = iter(
        [
            found([b"a", b"b"], ["ready", "in_flight"], 500),
            Found(0, (), 9_000, b""),
            found([b"c"], ["delayed"], 9_100, first=7),
        ]
    )
    client.wire.answers[Find] = lambda _: next(replies)
    matches = await queue.find(header=("user", 42), limit=3)
    assert [(each.state, each.message.body) for each in matches] == [
        ("ready", b"a"),
        ("in_flight", b"b"),
        ("delayed", b"c"),
    ]
    assert matches[2].message.offset == 7
    asked = client.wire.of(Find)
    assert [(each.limit, each.cursor) for each in asked] == [(3, 0), (1, 500), (1, 9_000)]
    assert asked[0].where == {"header": "user", "value": 42}


async def test_find_asks_for_as_many_as_a_reply_can_name(client: FakeClient, queue: Queue[bytes]) -> None:
    client.wire.answers[Find] = lambda _: Found(0, (), None, b"")
    assert await queue.find(id=ID) == []
    (asked,) = client.wire.of(Find)
    assert asked.limit == FIND_MESSAGES_MAX
    assert asked.where == {"id_log": LOG.bytes, "id_offset": 7}


EXPLAINED = {
    "state": "ready",
    "reasons": ["its message group is blocked by the message at offset 3"],
    "facts": {"message_group": "acme", "enqueued_at": NOW_MS, "due": None},
    "attempts": [],
    "story": [[NOW_MS, "enqueued", None], [NOW_MS + 5, "nacked", "KeyError: 'x'"]],
}


async def test_explain_gives_reasons_and_facts(client: FakeClient, queue: Queue[bytes]) -> None:
    client.wire.answers[Explain] = lambda _: document(EXPLAINED)
    explained = await queue.explain(ID)
    assert (explained.state, len(explained.reasons)) == ("ready", 1)
    assert explained.facts == {"message_group": "acme", "enqueued_at": NOW, "due": None}
    assert client.wire.of(Explain) == [Explain("jobs", LOG.bytes, 7)]


async def test_story_is_what_happened_in_order(client: FakeClient, queue: Queue[bytes]) -> None:
    client.wire.answers[Explain] = lambda _: document(EXPLAINED)
    assert await queue.story(ID) == [
        StoryLine(NOW, "enqueued", ""),
        StoryLine(NOW + timedelta(milliseconds=5), "nacked", "KeyError: 'x'"),
    ]


def elsewhere(client: FakeClient, *states: str) -> None:
    """The broker knows the id by the bytes of messages alone, at offsets 40, 41 …"""
    known = document(EXPLAINED)
    unknown = NotFound("never held it", hint="find it", detail={"find": True})
    bodies = [b"x"] * len(states)
    client.wire.answers[Find] = lambda _: found(bodies, list(states), None, first=40)
    client.wire.answers[Explain] = lambda asked: known if asked.log == HERE else unknown
    client.wire.answers[Reschedule] = lambda asked: document(
        {"found": True} if asked.log == HERE else {"found": False, "find": True}
    )


async def test_id_that_only_the_bytes_tell_is_looked_for(client: FakeClient, queue: Queue[bytes]) -> None:
    elsewhere(client, "settled", "ready")
    assert (await queue.explain(ID)).state == "ready"
    assert (await queue.story(ID))[0].what == "enqueued"
    assert await queue.cancel(ID)
    assert client.wire.of(Explain)[1] == Explain("jobs", HERE, 41)
    assert client.wire.of(Explain)[3] == Explain("jobs", HERE, 41, True)
    assert client.wire.of(Reschedule)[1] == Reschedule("jobs", HERE, 41, None)
    assert {asked.where["id_offset"] for asked in client.wire.of(Find)} == {7}


async def test_id_that_is_not_found_by_its_bytes_is_unknown(client: FakeClient, queue: Queue[bytes]) -> None:
    elsewhere(client, "ready")
    client.wire.answers[Find] = lambda _: Found(0, (), None, b"")
    with pytest.raises(NotFound):
        await queue.explain(ID)
    assert not await queue.cancel(ID)


async def test_peek_looks_at_what_is_held(client: FakeClient, queue: Queue[bytes]) -> None:
    client.wire.answers[Peek] = lambda _: found([b"a"], [], None)
    assert [message.body for message in await queue.peek(state="held")] == [b"a"]
    assert client.wire.of(Peek) == [Peek("jobs", 10, "held")]


# Steering


async def test_pause_and_resume_change_the_setting(client: FakeClient, queue: Queue[bytes]) -> None:
    client.wire.answers[AlterQueue] = lambda _: document({})
    await queue.pause()
    assert await queue.resume()
    assert [asked.settings for asked in client.wire.of(AlterQueue)] == [{"paused": True}, {"paused": False}]


@pytest.mark.parametrize("parked", [True, False])
async def test_resume_of_a_group_tells_whether_it_was_parked(
    client: FakeClient, queue: Queue[bytes], parked: bool
) -> None:
    client.wire.answers[Resume] = lambda _: document({"resumed": parked})
    assert await queue.resume("acme") is parked
    assert client.wire.of(Resume) == [Resume("jobs", "acme")]


@pytest.mark.parametrize("there", [True, False])
async def test_cancel_tells_whether_there_was_one(
    client: FakeClient, queue: Queue[bytes], there: bool
) -> None:
    client.wire.answers[Reschedule] = lambda _: document({"found": there})
    assert await queue.cancel(ID) is there
    assert client.wire.of(Reschedule) == [Reschedule("jobs", LOG.bytes, 7, None)]


@pytest.mark.parametrize(
    ("when", "at"),
    [
        ({"delay": 0}, 0),
        ({"delay": 1.5}, NOW_MS + 1_500),
        ({"delay": timedelta(milliseconds=DELAY_MS_MAX)}, NOW_MS + DELAY_MS_MAX),
        ({"at": NOW + timedelta(hours=1)}, NOW_MS + 3_600_000),
    ],
)
async def test_reschedule_says_when_by_the_clock_of_the_broker(
    client: FakeClient, queue: Queue[bytes], when: Any, at: int
) -> None:
    client.wire.answers[Reschedule] = lambda _: document({"found": True})
    assert await queue.reschedule(ID, **when)
    assert client.wire.of(Reschedule) == [Reschedule("jobs", LOG.bytes, 7, at)]


async def test_cancel_that_was_sent_twice_and_found_nothing_is_unknown(
    client: FakeClient, queue: Queue[bytes]
) -> None:
    cancelling = asyncio.ensure_future(queue.cancel(ID))
    await turns()
    asked = client.wire.last(Reschedule)
    asked.on_resend()
    asked.reply(document({"found": False}))
    with pytest.raises(OutcomeUnknown) as caught:
        await cancelling
    client.wire.answers[Reschedule] = lambda _: document({"found": False})
    assert await caught.value.retry() is False


# Receiving at most once


async def test_received_with_settle_they_are_not_released_when_they_come_too_late(
    client: FakeClient, queue: Queue[bytes]
) -> None:
    receiving = asyncio.ensure_future(queue.receive(5, settle=True))
    await client.wire.until(Receive)
    asked = client.wire.last(Receive)
    assert (asked.message.settle, asked.on_late) == (True, None)
    receiving.cancel()
    await turns()
