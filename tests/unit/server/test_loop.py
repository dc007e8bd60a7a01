"""Turns: what the core says leaves once per iteration of the event loop."""

import asyncio

from tests.fakes.clock import ManualClock
from tests.unit.server.scripted import ScriptedCore

from penstock_broker.clock import Now
from penstock_broker.meters import Meters
from penstock_broker.server.loop import Turns
from penstock_broker.storage.files import Drop, Job, StorageError, Write


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_many_calls_in_one_iteration_make_one_turn(turns: Turns, core: ScriptedCore) -> None:
    for _ in range(5):
        turns.call(core.blocked, None, True)
    await turn()
    assert len(core.named("blocked")) == 5
    assert len(core.named("tick")) == 1


async def test_turns_end_when_nothing_is_left_to_do(turns: Turns, core: ScriptedCore) -> None:
    turns.soon()
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(core.named("tick")) == 1


async def test_jobs_go_to_the_threads_in_order(turns: Turns, core: ScriptedCore, jobs: list[Job]) -> None:
    core.outputs += [Drop("a"), Write("b", 0, ()), Drop("c")]
    turns.soon()
    await turn()
    assert jobs == [Drop("a"), Write("b", 0, ()), Drop("c")]


async def test_what_a_job_done_at_once_lets_out_leaves_in_the_same_turn(
    turns: Turns, core: ScriptedCore, meters: Meters, jobs: list[Job]
) -> None:
    write = Write("a", 0, ())

    def submit(job: Job) -> tuple[object, float] | None:
        jobs.append(job)
        if job is not write:
            return None
        core.outputs += [Drop("b")]
        return None, 0.0002

    turns._submit = submit
    core.outputs += [write]
    turns.soon()
    await turn()
    assert jobs == [write, Drop("b")]
    assert core.named("done") == [(write, None)]
    assert len(core.named("tick")) == 1
    assert meters.sync_seconds.sum == 0.0002


async def test_job_done_at_once_that_ends_the_node_is_the_last_the_core_hears_of(
    turns: Turns, core: ScriptedCore, failures: list[Exception]
) -> None:
    drained = []
    turns._submit = lambda job: (TypeError("not a name"), 0.0)
    core.drain = lambda now: drained.append(now) or [Write("a", 0, ())]  # type: ignore[method-assign, func-returns-value]
    turns.soon()
    await turn()
    assert [type(failure) for failure in failures] == [TypeError]
    assert len(drained) == 1


async def test_result_of_a_job_reaches_the_core_and_a_write_is_timed(
    turns: Turns, core: ScriptedCore, meters: Meters
) -> None:
    write, failure = Write("a", 0, ()), OSError(5, "Input/output error")
    turns.done(write, None, 0.0002)
    turns.done(Drop("b"), failure, 0.1)
    assert core.named("done") == [(write, None), (Drop("b"), failure)]
    assert sum(meters.sync_seconds.counts) == 1
    assert meters.sync_seconds.sum == 0.0002


async def test_turn_follows_at_the_deadline_of_the_core(
    turns: Turns, core: ScriptedCore, clock: ManualClock
) -> None:
    core.deadline = clock.now().mono + 5
    turns.soon()
    await turn()
    core.deadline = None
    ticked = asyncio.Event()
    turns._after = ticked.set
    clock.advance(5)
    await asyncio.wait_for(ticked.wait(), 5)
    assert [call[0] for call in core.named("tick")] == [Now(0, clock.now().wall - 5), clock.now()]


async def test_earlier_deadline_replaces_a_later_one(
    turns: Turns, core: ScriptedCore, clock: ManualClock
) -> None:
    core.deadline = clock.now().mono + 3_600_000
    turns.soon()
    await turn()
    core.deadline = clock.now().mono + 1
    turns.soon()
    await turn()
    core.deadline = None
    ticked = asyncio.Event()
    turns._after = ticked.set
    await asyncio.wait_for(ticked.wait(), 5)
    assert turns._timer is None


async def test_what_the_core_raises_ends_the_node_and_it_is_not_called_again(
    turns: Turns, core: ScriptedCore, failures: list[Exception]
) -> None:
    def broken(now: Now) -> None:
        raise AssertionError("credit is negative")

    turns.call(broken)
    turns.call(core.blocked, None, True)
    turns.done(Drop("a"), None, 0.0)
    await turn()
    assert [str(failure) for failure in failures] == ["credit is negative"]
    assert core.calls == []


async def test_storage_that_failed_inside_done_ends_the_node(
    turns: Turns, core: ScriptedCore, failures: list[Exception]
) -> None:
    def done(job: Job, result: object, now: Now) -> None:
        raise StorageError("the journal cannot be written")

    core.done = done  # type: ignore[method-assign]
    turns.done(Write("a", 0, ()), OSError(28, "No space left on device"), 0.0)
    assert [type(failure) for failure in failures] == [StorageError]


async def test_job_that_fails_by_a_mistake_of_ours_ends_the_node(
    turns: Turns, core: ScriptedCore, failures: list[Exception]
) -> None:
    turns.done(Drop("a"), TypeError("not a name"), 0.0)
    assert [type(failure) for failure in failures] == [TypeError]
    assert core.named("done") == []
