"""Schedules: a message again and again, and never twice for one run, whatever happens in between."""

from random import Random
from typing import Any

import pytest
from tests.model.bench import Bench, batch
from tests.model.traits import batch_of, message

from penstock_broker.session import Connection
from penstock_protocol.errors import Conflict, Invalid, NotFound, TooLarge
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import schedules as c
from penstock_protocol.messages.schema import unpack_document

MINUTE = 60_000
DAY = 86_400_000


def bench_with(**settings: Any) -> tuple[Bench, Connection]:
    bench = Bench()
    me = bench.connect()
    bench.call(me, q.CreateQueue("jobs", {}, "check"))
    bench.call(me, c.CreateSchedule("tick", "jobs", settings, "check", batch(b"go")))
    return bench, me


def depth(bench: Bench) -> int:
    return bench.queue("jobs").ready


def pass_time(bench: Bench, ms: int, step: int = 1_000) -> None:
    for _ in range(0, ms, step):
        bench.clock.advance(step)
        bench.settle()


def restarted(bench: Bench, *, after: int = 0) -> Bench:
    bench.clock.advance(after)
    again = Bench(bench.files.crash(Random(1)), bench.clock)
    again.settle()
    return again


def listed(bench: Bench, me: Connection, runs: int = 3) -> dict[str, Any]:
    reply = bench.call(me, c.ListSchedules("", "", 100, runs))
    (found,) = unpack_document(reply.payload)["items"]
    return dict(found)


def test_interval_enqueues_at_every_turn() -> None:
    bench, _ = bench_with(every=10_000)
    pass_time(bench, 35_000)
    assert depth(bench) == 3


def test_cron_line_runs_in_its_time_zone() -> None:
    bench, me = bench_with(cron="0 9 * * *", zone="Europe/Berlin")
    first, second, third = listed(bench, me)["next"]
    assert second - first == third - second == DAY
    assert (first // 3_600_000) % 24 in (7, 8)


@pytest.mark.parametrize("how", ["content", "dedup id"])
def test_every_run_is_a_message_of_its_own_where_duplicates_are_dropped(how: str) -> None:
    bench = Bench()
    me = bench.connect()
    bench.call(me, q.CreateQueue("jobs", {"content_dedup": how == "content"}, "check"))
    body = batch(b"go") if how == "content" else batch_of(message(b"go", dedup="mine"))
    bench.call(me, c.CreateSchedule("tick", "jobs", {"every": 10_000}, "check", body))
    pass_time(bench, 10_000)
    again = restarted(bench)
    pass_time(again, 20_000)
    assert depth(again) == 3
    assert not again.queue("jobs").counters["DUPLICATE"]
    again.call(again.connect(), q.Enqueue("jobs", body))
    again.call(again.connect(), q.Enqueue("jobs", body))
    assert depth(again) == 4


def test_run_is_made_once_though_the_broker_is_killed_behind_it() -> None:
    bench, _ = bench_with(every=10_000)
    pass_time(bench, 10_000)
    again = restarted(bench)
    assert depth(again) == 1
    pass_time(again, 10_000)
    assert depth(again) == 2


@pytest.mark.parametrize(("catch_up", "made"), [("skip", 0), ("once", 1), ("all", 5)])
def test_runs_missed_while_the_broker_was_down(catch_up: str, made: int) -> None:
    bench, _ = bench_with(every=30 * MINUTE, catch_up=catch_up)
    again = restarted(bench, after=5 * 30 * MINUTE + 2 * MINUTE)
    again.settle()
    assert depth(again) == made
    assert again.core.registry.schedule("tick").missed == 5 - made


def test_run_is_left_out_while_the_one_before_is_not_done() -> None:
    bench, me = bench_with(every=10_000, overlap="skip")
    pass_time(bench, 30_000)
    assert depth(bench) == 1
    (got,) = bench.receive(me, "jobs")
    bench.ack(me, "jobs", got.range)
    pass_time(bench, 10_000)
    assert depth(bench) == 1
    assert bench.core.registry.schedule("tick").missed == 2


def test_paused_schedule_does_not_run_and_goes_on_later() -> None:
    bench, me = bench_with(every=10_000)
    bench.call(me, c.AlterSchedule("tick", {"paused": True}))
    pass_time(bench, 30_000)
    assert depth(bench) == 0
    assert listed(bench, me)["next"] == []
    bench.call(me, c.AlterSchedule("tick", {"paused": False}))
    pass_time(bench, 10_000)
    assert depth(bench) == 1


def test_full_queue_costs_the_run() -> None:
    bench, me = bench_with(every=10_000)
    bench.call(me, q.AlterQueue("jobs", {"max_messages": 1}))
    pass_time(bench, 30_000)
    assert depth(bench) == 1
    assert bench.core.registry.schedule("tick").missed == 2


def test_schedule_goes_with_its_queue() -> None:
    bench, me = bench_with(every=10_000)
    bench.call(me, q.DeleteQueue("jobs"))
    assert bench.core.registry.schedules == {}
    pass_time(bench, 20_000)


def test_deleted_schedule_does_not_run() -> None:
    bench, me = bench_with(every=10_000)
    bench.call(me, c.DeleteSchedule("tick"))
    pass_time(bench, 20_000)
    assert depth(bench) == 0


def test_schedule_survives_a_checkpoint() -> None:
    bench, _ = bench_with(every=10_000)
    pass_time(bench, 10_000)
    bench.core.engine.checkpoint_now()
    bench.settle()
    again = restarted(bench)
    schedule = again.core.registry.schedule("tick")
    assert (schedule.runs, schedule.latest) == (1, 0)
    pass_time(again, 10_000)
    assert depth(again) == 2


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="neither cron nor every"),
        pytest.param({"cron": "* * * * *", "every": 5_000}, id="both"),
        pytest.param({"cron": "61 * * * *"}, id="no such minute"),
        pytest.param({"cron": "0 0 31 2 *"}, id="a day that never comes"),
        pytest.param({"every": 10}, id="too often"),
        pytest.param({"every": 5_000, "zone": "Mars/Olympus"}, id="unknown zone"),
        pytest.param({"every": 5_000, "zone": "../../etc/passwd"}, id="a path for a zone"),
        pytest.param({"every": 5_000, "catch_up": "maybe"}, id="unknown policy"),
        pytest.param({"every": 5_000, "colour": 1}, id="unknown setting"),
    ],
)
def test_what_cannot_be_a_schedule_is_refused(settings: dict[str, Any]) -> None:
    bench = Bench()
    me = bench.connect()
    bench.call(me, q.CreateQueue("jobs", {}, "check"))
    reply = bench.call(me, c.CreateSchedule("tick", "jobs", settings, "check", batch(b"go")))
    assert isinstance(reply, Invalid), reply
    assert reply.hint


def test_schedule_that_is_there_with_other_settings_is_a_conflict() -> None:
    bench, me = bench_with(every=10_000)
    same = bench.call(me, c.CreateSchedule("tick", "jobs", {"every": 10_000}, "check", batch(b"go")))
    assert not isinstance(same, Exception)
    other = bench.call(me, c.CreateSchedule("tick", "jobs", {"every": 20_000}, "check", batch(b"go")))
    assert isinstance(other, Conflict)
    body = bench.call(me, c.CreateSchedule("tick", "jobs", {"every": 10_000}, "check", batch(b"stop")))
    assert isinstance(body, Conflict)


def test_schedule_needs_its_queue_and_a_small_message() -> None:
    bench, me = bench_with(every=10_000)
    missing = bench.call(me, c.CreateSchedule("x", "nowhere", {"every": 10_000}, "check", batch(b"go")))
    assert isinstance(missing, NotFound)
    large = bench.call(me, c.CreateSchedule("x", "jobs", {"every": 10_000}, "check", batch(bytes(40_000))))
    assert isinstance(large, TooLarge)
    two = bench.call(me, c.CreateSchedule("x", "jobs", {"every": 10_000}, "check", batch(b"a", b"b")))
    assert isinstance(two, Invalid)
