"""What is handed to a queue and can never be meant: `Invalid`, which says what and what is allowed; nothing
is sent, and nothing stays in flight."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from math import inf, nan
from typing import Any

import pytest
from tests.fakes.client_wire import FakeClient, delivered, payload_of, queue_of
from tests.fakes.scripted_server import ScriptedServer

import penstock
import penstock.outgoing
from penstock import DeadLetter, Retry
from penstock.errors import Invalid, TooLarge
from penstock.message import Message
from penstock.outgoing import EnqueueOptions
from penstock.queue import Queue
from penstock.schedules import ScheduleSettings
from penstock.values import SHOWN_CHARACTERS_MAX, QueueSettings, shown
from penstock.views import Messages
from penstock_protocol.limits import SCHEDULE_BYTES_MAX
from penstock_protocol.messages.queues import Delivery, Extend, Nack, Outcome, Settled

HUGE = 10**30
LONG = "x" * 100_000
NO_DURATIONS = ["5", True, nan, inf, -1, 1e18, 2**80, 10**400, None, [5], b"5"]
NO_NUMBERS = ["5", True, nan, inf, -1, 1e18, 1.5, HUGE, None, [5]]
NO_FLAGS = ["yes", 1, None, [True]]
NO_NAMES = ["", 5, True, b"jobs", ["jobs"], LONG, "\ud800"]
NO_LABELS = ["", 5, True, b"x", ["x"], "x" * 256, LONG, "\ud800"]
NO_INSTANTS = [5, "2026-01-01", True, nan, datetime(2030, 1, 1), datetime(1960, 1, 1, tzinfo=UTC)]
NO_IDS = [5, None, "", "x", LONG, "01234567-89ab-cdef-0123-456789abcdef:9999999999999999999"]
NO_TIMEOUTS = ["5", True, nan, -1, HUGE, [5]]
NO_REASONS = [5, True, nan, ["x"], b"x"]
LATER = datetime(2030, 1, 1, tzinfo=UTC)
ID = "01234567-89ab-cdef-0123-456789abcdef:7"

Call = Callable[[Any, Any], Any]


def wrong(table: dict[str, tuple[Call, list[Any]]]) -> Any:
    """Each call with each of its wrong values. The key: the setting as the error names it, and the method."""
    rows = [
        pytest.param(name.split()[0], call, value, id=f"{name}={shown(value)[:24]}")
        for name, (call, values) in table.items()
        for value in values
    ]
    return pytest.mark.parametrize(("name", "call", "value"), rows)


def told(error: penstock.Error, name: str, value: object) -> None:
    """It names the setting, the value as it was typed, and what is allowed; and does not go on for ever."""
    assert f"{name}={shown(value)}" in error.message
    assert error.hint
    assert len(str(error)) < 4 * SHOWN_CHARACTERS_MAX + 200


# A queue


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def queue(server: ScriptedServer) -> AsyncIterator[Queue[bytes]]:
    async with penstock.connect(server.url) as client:
        yield client.queue("jobs")


QUEUE: dict[str, tuple[Call, list[Any]]] = {
    "max_messages of receive": (lambda q, v: q.receive(v), [*NO_NUMBERS, 0, 10_001]),
    "wait of receive": (lambda q, v: q.receive(wait=v), NO_DURATIONS),
    "visibility_timeout of receive": (
        lambda q, v: q.receive(visibility_timeout=v),
        [*(value for value in NO_DURATIONS if value is not None), 0, 43_201],
    ),
    "settle of receive": (lambda q, v: q.receive(settle=v), NO_FLAGS),
    "timeout of receive": (lambda q, v: q.receive(timeout=v), NO_TIMEOUTS),
    "prefetch of consume": (
        lambda q, v: q.consume(prefetch=v),
        [*(value for value in NO_NUMBERS if value is not None), 0, 1_001],
    ),
    "max_processing of consume": (lambda q, v: q.consume(max_processing=v), NO_DURATIONS),
    "priority of consume": (lambda q, v: q.consume(priority=v), [*NO_NUMBERS, 10]),
    "settle of consume": (lambda q, v: q.consume(settle=v), NO_FLAGS),
    "handler of work": (lambda q, v: q.work(v), [5, None, "handle"]),
    "concurrency of work": (lambda q, v: q.work(print, concurrency=v), [*NO_NUMBERS, 0, 10_001]),
    "grace of work": (lambda q, v: q.work(print, grace=v), NO_DURATIONS),
    "limit of peek": (lambda q, v: q.peek(v), [*NO_NUMBERS, 0, 10_001]),
    "state of peek": (lambda q, v: q.peek(state=v), [*NO_NAMES, "settled", None]),
    "timeout of peek": (lambda q, v: q.peek(timeout=v), NO_TIMEOUTS),
    "timeout of stats": (lambda q, v: q.stats(timeout=v), NO_TIMEOUTS),
    "timeout of purge": (lambda q, v: q.purge(timeout=v), NO_TIMEOUTS),
    "timeout of request": (lambda q, v: q.request("x", timeout=v), NO_DURATIONS),
    "priority of request": (lambda q, v: q.request("x", priority=v), NO_NUMBERS),
    "items of enqueue_many": (lambda q, v: q.enqueue_many(v), [5, None, True]),
    "atomic of enqueue_many": (lambda q, v: q.enqueue_many(["x"], atomic=v), NO_FLAGS),
    "timeout of enqueue_many": (lambda q, v: q.enqueue_many(["x"], timeout=v), NO_TIMEOUTS),
    "timeout of enqueue": (lambda q, v: q.enqueue("x", timeout=v), NO_TIMEOUTS),
}
OPERATIONS: dict[str, tuple[Call, list[Any]]] = {
    "id of find": (lambda q, v: q.find(id=v), [value for value in NO_IDS if value is not None]),
    "since of find": (lambda q, v: q.find(since=v), NO_INSTANTS),
    "until of find": (lambda q, v: q.find(until=v), NO_INSTANTS),
    "limit of find": (lambda q, v: q.find(limit=v), NO_NUMBERS),
    "header of find": (
        lambda q, v: q.find(header=v),
        [5, "user", ["user", 42], (), ("a",), ("a", [1]), ("a", HUGE), ("a", LONG)],
    ),
    "header of find, its parts": (lambda q, v: q.find(header=("a", v)), ["\ud800"]),
    "header of find, its name": (lambda q, v: q.find(header=(v, 1)), [5, None, b"a", "\ud800"]),
    "timeout of find": (lambda q, v: q.find(timeout=v), NO_TIMEOUTS),
    "id of explain": (lambda q, v: q.explain(v), NO_IDS),
    "id of story": (lambda q, v: q.story(v), NO_IDS),
    "id of cancel": (lambda q, v: q.cancel(v), NO_IDS),
    "id of reschedule": (lambda q, v: q.reschedule(v, delay=0), NO_IDS),
    "delay of reschedule": (
        lambda q, v: q.reschedule(ID, delay=v),
        [value for value in NO_DURATIONS if value is not None],
    ),
    "at of reschedule": (lambda q, v: q.reschedule(ID, at=v), NO_INSTANTS),
    "timeout of pause": (lambda q, v: q.pause(timeout=v), NO_TIMEOUTS),
    "timeout of resume": (lambda q, v: q.resume(timeout=v), NO_TIMEOUTS),
    "message_group of resume": (lambda q, v: q.resume(v), NO_LABELS),
    "to of redrive": (lambda q, v: q.redrive(v), NO_NAMES),
    "limit of redrive": (
        lambda q, v: q.redrive(limit=v),
        [value for value in NO_NUMBERS if value is not None],
    ),
    "reason of redrive": (lambda q, v: q.redrive(reason=v), NO_REASONS),
    "rate of redrive": (
        lambda q, v: q.redrive(rate=v),
        ["5", True, nan, inf, -1, 0, 1e18, 5e-324, HUGE, [5]],
    ),
    "dry_run of redrive": (lambda q, v: q.redrive(dry_run=v), NO_FLAGS),
    "timeout of redrive": (lambda q, v: q.redrive(timeout=v), NO_TIMEOUTS),
    "since of replay": (lambda q, v: q.replay(v), [*NO_INSTANTS, None]),
    "until of replay": (lambda q, v: q.replay(LATER, v), NO_INSTANTS),
    "to of replay": (lambda q, v: q.replay(LATER, into=v), NO_NAMES),
    "to of move": (lambda q, v: q.move(v), [*NO_NAMES, None]),
    "state of move": (
        lambda q, v: q.move("other", state=v),
        ["", "settled", "in_flight", 5, None, ["ready"]],
    ),
    "id of move": (lambda q, v: q.move("other", id=v), [value for value in NO_IDS if value is not None]),
}
SCHEDULES: dict[str, tuple[Call, list[Any]]] = {
    "name of schedule": (lambda q, v: q.schedule(v, "x", every=60), [*NO_NAMES, None]),
    "if_exists of schedule": (
        lambda q, v: q.schedule("s", "x", if_exists=v, every=60),
        ["maybe", 5, None, ["keep"]],
    ),
    "options of schedule": (lambda q, v: q.schedule("s", "x", options=v, every=60), [5, "x", [1], True]),
    "options of schedule, their names": (
        lambda q, v: q.schedule("s", "x", options={v: 1}, every=60),
        ["nosuch", 5],
    ),
    "priority of schedule": (
        lambda q, v: q.schedule("s", "x", options={"priority": v}, every=60),
        NO_NUMBERS,
    ),
    "timeout of schedule": (lambda q, v: q.schedule("s", "x", timeout=v, every=60), NO_TIMEOUTS),
    "name of alter_schedule": (lambda q, v: q.client.alter_schedule(v, paused=True), [*NO_NAMES, None]),
    "name of delete_schedule": (lambda q, v: q.client.delete_schedule(v), [*NO_NAMES, None]),
    "prefix of list_schedules": (
        lambda q, v: q.client.list_schedules(v),
        [5, None, True, b"x", LONG, "\ud800"],
    ),
    "runs of list_schedules": (lambda q, v: q.client.list_schedules(runs=v), [*NO_NUMBERS, 101]),
}
RHYTHM: dict[str, list[Any]] = {
    "every": [*(value for value in NO_DURATIONS if value is not None), 0, 0.5, 316_224_001],
    "cron": [5, True, "", LONG, ["* * * * *"], b"x"],
    "zone": [5, True, "", LONG, b"UTC"],
    "catch_up": ["maybe", 5, None, True, ["once"]],
    "overlap": ["maybe", 5, None, True, ["skip"]],
    "paused": NO_FLAGS,
}


def _scheduled(name: str) -> tuple[Call, list[Any]]:
    return (lambda q, v: q.schedule("s", "x", **{name: v})), RHYTHM[name]


def _altered(name: str) -> tuple[Call, list[Any]]:
    return (lambda q, v: q.client.alter_schedule("s", **{name: v})), RHYTHM[name]


SCHEDULES |= {f"{name} of schedule": _scheduled(name) for name in RHYTHM}
SCHEDULES |= {f"{name} of alter_schedule": _altered(name) for name in RHYTHM}
OPTIONS: dict[str, list[Any]] = {
    "headers": [5, "abc", ["a"], True, 0, "", [], b"x", {"a": HUGE}, {"a": "\ud800"}],
    "delay": [value for value in NO_DURATIONS if value is not None],
    "at": NO_INSTANTS,
    "ttl": [*(value for value in NO_DURATIONS if value is not None), 0],
    "priority": [*NO_NUMBERS, 10, False, ""],
    "message_group": NO_LABELS,
    "dedup_id": NO_LABELS,
    "job_key": NO_LABELS,
    "on_conflict": ["", "drop", 5, True, ["keep"], LONG],
    "reply_to": [*NO_LABELS, "bad name", ".hidden", "a/b"],
    "correlation_id": NO_LABELS,
    "content_type": NO_LABELS,
}


def _enqueued(name: str) -> tuple[Call, list[Any]]:
    return (lambda q, v: q.enqueue("x", **{name: v})), OPTIONS[name]


def _enqueued_among_many(name: str) -> tuple[Call, list[Any]]:
    return (lambda q, v: q.enqueue_many([penstock.Outgoing("x", **{name: v})])), OPTIONS[name]


ENQUEUED = {f"{name} of enqueue": _enqueued(name) for name in OPTIONS}
ENQUEUED |= {f"{name} of enqueue_many": _enqueued_among_many(name) for name in OPTIONS}
DURATIONS_OF_SETTINGS = ("visibility_timeout", "delay", "ttl", "dedup_window", "priority_ageing", "expires")
SETTINGS: dict[str, list[Any]] = {
    **{name: [each for each in NO_DURATIONS if each is not None] for name in DURATIONS_OF_SETTINGS},
    "keep_settled": [0, "1", True, 1e18],
    "dead_letter": ["bad name", "", LONG, 5, True],
    "source": ["bad name", "", LONG, 5],
    "group_weights": [
        {"x" * 300: 1},
        {5: 1},
        {"a": "1"},
        {"a": True},
        {"a": 0},
        {"a": nan},
        {"a": 1e18},
        dict.fromkeys(range(100_000), 1),
        5,
    ],
    "max_messages": [HUGE, [LONG], ...],
}


def _created(name: str) -> tuple[Call, list[Any]]:
    return (lambda q, v: q.client.create_queue("q", **{name: v})), SETTINGS[name]


CREATED = {f"{name} of create_queue": _created(name) for name in SETTINGS}
CREATED["visibility_timeout of create_queue, in seconds"] = (
    lambda q, v: q.client.create_queue("q", visibility_timeout=v),
    [43_201],
)


def test_every_option_has_its_wrong_values() -> None:
    assert OPTIONS.keys() == EnqueueOptions.__annotations__.keys()
    assert RHYTHM.keys() == ScheduleSettings.__annotations__.keys()
    assert SETTINGS.keys() <= QueueSettings.__annotations__.keys()


@wrong({**QUEUE, **OPERATIONS, **SCHEDULES, **ENQUEUED, **CREATED})
async def test_what_nobody_can_mean_is_refused_and_not_sent(
    server: ScriptedServer, queue: Queue[bytes], name: str, call: Call, value: object
) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(Invalid) as caught:
            await call(queue, value)
    told(caught.value, name, value)
    assert server.requests.empty()
    assert not queue.client.consumers


@pytest.mark.parametrize("value", NO_NAMES, ids=lambda value: shown(value)[:24])
async def test_queue_has_a_name(queue: Queue[bytes], value: Any) -> None:
    with pytest.raises(Invalid, match="cannot be a name") as caught:
        queue.client.queue(value)
    told(caught.value, "queue", value)


async def test_message_of_a_schedule_that_is_too_large_is_not_sent(
    server: ScriptedServer, queue: Queue[bytes]
) -> None:
    for size in (SCHEDULE_BYTES_MAX, 10 << 20):
        with pytest.raises(TooLarge, match="of a schedule takes 32,768"):
            await queue.schedule("s", b"x" * size, every=60)
    assert server.requests.empty()


# Messages


@pytest.fixture
def client() -> FakeClient:
    made = FakeClient()
    made.wire.answers = {kind: lambda _: Settled(1, b"") for kind in (Extend, Nack)}
    return made


def received(client: FakeClient, **stamps: Any) -> Messages[bytes]:
    queue = queue_of(client)
    return Messages(queue, queue.runs(Delivery(*payload_of(delivered(b"x", **stamps)))))


def _reply(part: str) -> Call:
    return lambda m, v: m.reply("x", **{part: v})


OF_MESSAGES: dict[str, tuple[Call, list[Any]]] = {
    "delay of nack": (lambda m, v: m.nack(v), [each for each in NO_DURATIONS if each is not None]),
    "reason of nack": (lambda m, v: m.nack(reason=v), NO_REASONS),
    "timeout of nack": (lambda m, v: m.nack(timeout=v), NO_TIMEOUTS),
    "timeout of ack": (lambda m, v: m.ack(timeout=v), NO_TIMEOUTS),
    "timeout of release": (lambda m, v: m.release(timeout=v), NO_TIMEOUTS),
}
OF_A_MESSAGE: dict[str, tuple[Call, list[Any]]] = {
    **OF_MESSAGES,
    "reason of dead_letter": (lambda m, v: m.dead_letter(v), NO_REASONS),
    "timeout of dead_letter": (lambda m, v: m.dead_letter("x", timeout=v), NO_TIMEOUTS),
    "seconds of extend": (lambda m, v: m.extend(v), [*NO_DURATIONS, 43_201]),
    "checkpoint of extend": (lambda m, v: m.extend(5, v), ["str", 5, True, [1], {}]),
    "headers of reply": (_reply("headers"), OPTIONS["headers"]),
    "content_type of reply": (_reply("content_type"), NO_LABELS),
}
OF_A_QUEUE: dict[str, tuple[Call, list[Any]]] = {
    f"messages of {verb}": (
        lambda q, v, verb=verb: getattr(q, verb)(v, *((5,) if verb == "extend" else ())),  # type: ignore[misc]
        [5, None, True, "x", b"x", [5], ["x"]],
    )
    for verb in ("ack", "nack", "release", "dead_letter", "extend")
}
OF_A_QUEUE["messages of reply"] = (lambda q, v: q.reply(v, "x"), [5, None, "x", [5]])


async def is_refused(client: FakeClient, given: Any, name: str, call: Call, value: object) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(Invalid) as caught:
            await call(given, value)
    told(caught.value, name, value)
    await client.settler.flush()
    assert client.wire.asked == []


@wrong(OF_A_MESSAGE)
async def test_message_refuses_it_and_can_still_be_settled(
    client: FakeClient, name: str, call: Call, value: object
) -> None:
    cells = penstock.outgoing.message_cells(penstock.Outgoing("x", reply_to="answers"), lambda: 0)
    (message,) = received(client, cells=[cells])
    await is_refused(client, message, name, call, value)
    await message.nack(delay=1, reason="as it should be")
    assert client.wire.of(Nack)[0].delay == 1_000


@wrong(OF_MESSAGES)
async def test_messages_refuse_it_and_can_still_be_settled(
    client: FakeClient, name: str, call: Call, value: object
) -> None:
    messages = received(client)
    await is_refused(client, messages, name, call, value)
    await messages.nack(1)
    assert client.wire.of(Nack)[0].delay == 1_000


@wrong(OF_A_QUEUE)
async def test_what_is_no_message_is_not_settled(
    client: FakeClient, name: str, call: Call, value: object
) -> None:
    await is_refused(client, queue_of(client), name, call, value)


async def leave_by(message: Message[bytes], make: Callable[[], Exception]) -> None:
    async with message:
        raise make()


RAISED: dict[str, Callable[[], Exception]] = {
    "a retry after ages": lambda: Retry(1e18),
    "a retry after text": lambda: Retry("5"),  # type: ignore[arg-type]
    "a retry that is not a number": lambda: Retry(nan),
    "a dead letter for no text": lambda: DeadLetter(5),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("make", RAISED.values(), ids=RAISED.keys())
async def test_what_cannot_be_asked_for_is_a_failure_and_leaves_nothing_in_flight(
    client: FakeClient, make: Callable[[], Exception]
) -> None:
    (message,) = received(client)
    with pytest.raises(Invalid):
        await leave_by(message, make)
    await client.settler.flush()
    (nack,) = client.wire.of(Nack)
    assert (nack.outcome, nack.delay) == (Outcome.RETRY, None)
    assert nack.reason.startswith("Invalid: ")


async def test_reason_that_utf8_does_not_have_is_escaped(client: FakeClient) -> None:
    (message,) = received(client)
    with pytest.raises(ValueError, match="surrogate"):
        await leave_by(message, lambda: ValueError("surrogate \ud800"))
    await client.settler.flush()
    assert client.wire.of(Nack)[0].reason == r"ValueError: surrogate \ud800"


async def test_settle_that_breaks_on_its_way_does_not_leave_its_caller_waiting(
    client: FakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> None:
        raise OverflowError("too large")

    client.wire.answers[Nack] = broken
    (message,) = received(client)
    with caplog.at_level(logging.ERROR):
        async with asyncio.timeout(5):
            with pytest.raises(OverflowError):
                await message.nack()
    assert not client.settler.tokens()
