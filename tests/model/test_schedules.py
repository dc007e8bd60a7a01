"""Schedules: a message again and again, and never twice for one run, whatever happens in between."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from tests.model.bench import Bench, batch
from tests.model.traits import batch_of, message

from penstock_broker import timetable
from penstock_broker.session import Connection
from penstock_protocol.errors import Conflict, Invalid, NotFound, TooLarge
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import schedules as c
from penstock_protocol.messages import topics as t
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


def killed(bench: Bench, down: int) -> Bench:
    """The process dies, and another one begins so many ms later."""
    bench.clock.advance(down)
    again = Bench(bench.files.kill(), bench.clock)
    again.settle()
    return again


def stopped(bench: Bench, down: int) -> Bench:
    """It is stopped in order, and begins again so many ms later."""
    bench.core.stop(bench.clock.now())
    while not bench.core.stopped:
        bench.settle()
    return killed(bench, down)


ends = pytest.mark.parametrize("end", [killed, stopped])


def counts(bench: Bench) -> tuple[int, int]:
    """How often the schedule ran, and how often it did not; each run is a message."""
    schedule = bench.core.registry.schedule("tick")
    assert schedule.runs == depth(bench)
    return schedule.runs, schedule.missed


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


@ends
@pytest.mark.parametrize("down", [6_000, 90_000, 10 * MINUTE])
@pytest.mark.parametrize(("catch_up", "kept"), [("skip", 0), ("once", 1), ("all", None)])
def test_of_the_runs_that_are_due_together_the_newest_alone_is_on_time(
    catch_up: str, kept: int | None, down: int, end: Callable[[Bench, int], Bench]
) -> None:
    bench, me = bench_with(every=1_000, catch_up=catch_up)
    (first,) = listed(bench, me, 1)["next"]
    pass_time(bench, 2_000)
    again = end(bench, down + 500)
    while again.core.registry.schedule("tick").next_at <= again.clock.now().wall:
        pass_time(again, 10, step=10)
    pass_time(again, 3_000, step=500)
    missed = 0 if kept is None else down // 1_000 - kept - 1
    due = (again.clock.now().wall - first) // 1_000 + 1
    assert counts(again) == (due - missed, missed)
    assert counts(end(again, 0)) == (due - missed, missed)


@ends
@pytest.mark.parametrize(
    ("late", "catch_up", "made"),
    [
        *((30_000, catch_up, 1) for catch_up in ("skip", "once", "all")),
        *((2 * MINUTE, "skip", 0), (2 * MINUTE, "once", 1), (2 * MINUTE, "all", 1)),
        *((MINUTE - 1, "skip", 1), (MINUTE, "skip", 0)),
    ],
)
def test_daily_run_is_on_time_if_it_comes_within_a_minute(
    late: int, catch_up: str, made: int, end: Callable[[Bench, int], Bench]
) -> None:
    bench, me = bench_with(cron="0 23 * * *", catch_up=catch_up)
    (first, second) = listed(bench, me, 2)["next"]
    again = end(bench, first - bench.clock.now().wall + late)
    assert counts(again) == (made, 1 - made)
    assert listed(again, again.connect(), 1)["next"] == [second]


def test_missed_run_that_is_made_up_for_comes_beside_the_one_that_is_on_time() -> None:
    bench, _ = bench_with(every=30 * MINUTE, catch_up="once")
    assert counts(killed(bench, 3 * 30 * MINUTE + 30_000)) == (2, 1)


@pytest.mark.parametrize("catch_up", ["skip", "once", "all"])
@ends
def test_what_is_made_up_for_is_left_out_too_while_the_one_before_is_not_done(
    catch_up: str, end: Callable[[Bench, int], Bench]
) -> None:
    bench, _ = bench_with(every=1_000, catch_up=catch_up, overlap="skip")
    again = end(bench, 6_500)
    assert counts(again) == (1, 5)
    again = end(again, 6_000)
    assert counts(again) == (1, 11)
    me = again.connect()
    (got,) = again.receive(me, "jobs")
    again.ack(me, "jobs", got.range)
    pass_time(again, 1_000)
    assert again.core.registry.schedule("tick").runs == 2


def test_so_many_of_the_last_runs_are_made_up_for_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timetable, "CATCH_UP_MAX", 7)
    bench, _ = bench_with(every=MINUTE, catch_up="all")
    assert counts(killed(bench, 20 * MINUTE)) == (7, 13)


def test_runs_that_are_made_up_for_leave_the_loop_to_others_in_between() -> None:
    bench, _ = bench_with(every=1_000, catch_up="all")
    again = killed(bench, 35_000)
    for made in (10, 20, 30, 35, 35):
        assert counts(again) == (made, 0)
        pass_time(again, 1, step=1)


def test_run_that_the_journal_cannot_take_now_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timetable, "PER_LOOK", 1_000)
    bench, _ = bench_with(every=10_000, catch_up="all")
    again = killed(bench, 900_000)
    made, missed = counts(again)
    assert (0 < made < 90, missed) == (True, 0)
    pass_time(again, timetable.AGAIN_MS - 1, step=timetable.AGAIN_MS - 1)
    assert counts(again) == (made, 0)
    pass_time(again, 1, step=1)
    assert counts(again) == (90, 0)


def test_no_run_is_lost_or_made_twice_though_the_broker_is_killed_while_it_makes_up_for_them() -> None:
    bench, _ = bench_with(every=1_000, catch_up="all")
    bench.clock.advance(90_500)
    for life in range(4):
        bench = restarted(bench)
        pass_time(bench, 1, step=1)
        bench.clock.advance(1)
        bench.turn()  # ten more, which no disk has yet
        assert bench.core.registry.schedule("tick").runs == 20 * life + 30
    bench = restarted(bench)
    pass_time(bench, 1_000, step=10)
    assert counts(bench) == (91, 0)


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


def test_queue_over_a_topic_takes_no_schedule() -> None:
    bench, me = bench_with(every=10_000)
    bench.call(me, t.CreateTopic("log", {}, "check"))
    bench.call(me, q.CreateQueue("over", {"source": "log"}, "check"))
    for name, if_exists in (("new", "check"), ("tick", "alter"), ("tick", "keep")):
        settings = {"every": 10_000}
        refused = bench.call(me, c.CreateSchedule(name, "over", settings, if_exists, batch(b"go")))
        assert isinstance(refused, Invalid)
        assert "'over' has the records of topic 'log'" in str(refused)
    pass_time(bench, 10_000)
    assert counts(bench) == (1, 0)
    assert list(bench.core.registry.schedules) == ["tick"]


def test_schedule_needs_its_queue_and_a_small_message() -> None:
    bench, me = bench_with(every=10_000)
    missing = bench.call(me, c.CreateSchedule("x", "nowhere", {"every": 10_000}, "check", batch(b"go")))
    assert isinstance(missing, NotFound)
    large = bench.call(me, c.CreateSchedule("x", "jobs", {"every": 10_000}, "check", batch(bytes(40_000))))
    assert isinstance(large, TooLarge)
    two = bench.call(me, c.CreateSchedule("x", "jobs", {"every": 10_000}, "check", batch(b"a", b"b")))
    assert isinstance(two, Invalid)
