"""What becomes of messages that came back: tried again later, dead, or expired meanwhile."""

from collections.abc import Sequence

from penstock_broker.queues.notes import Row, within
from penstock_broker.queues.outcomes import Dead, Verdict
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import Event

FAILURES_MAX = 0xFFFF
"""What a RETURN counts to; a queue without a limit goes on beyond it, uncounted."""

Runs = Sequence[tuple[int, int]]


def failed(queue: Queue, runs: Runs, delay: int | None, wall: int, tries: Sequence[Row] = ()) -> Verdict:
    """Messages that failed: back after `delay` ms (None: the retry curve), or dead of the last of `tries`."""
    policy = queue.policy
    verdict, runs = _begin(queue, runs)
    for first, messages, history in queue.histories.runs(runs):
        failures = min(history.failures + 1, FAILURES_MAX)
        if policy.max_attempts is not None and failures >= policy.max_attempts:
            verdict.dead.append(
                Dead(first, messages, "max_attempts", failures, None, _of(tries, first, messages))
            )
        elif policy.max_deliveries is not None and history.deliveries >= policy.max_deliveries:
            verdict.dead.append(
                Dead(first, messages, "max_deliveries", failures, None, _of(tries, first, messages))
            )
        else:
            wait = policy.delay_of(failures, queue.random) if delay is None else delay
            verdict.returned.append((first, messages, failures, wall + wait))
    return verdict


def released(queue: Queue, runs: Runs) -> Verdict:
    """Messages that were not tried: ready again at once, or dead if they were delivered too often."""
    limit = queue.policy.max_deliveries
    verdict, runs = _begin(queue, runs)
    for first, messages, history in queue.histories.runs(runs):
        if limit is not None and history.deliveries >= limit:
            verdict.dead.append(Dead(first, messages, "max_deliveries", history.failures))
            continue
        for offset in range(first, first + messages):
            queue.histories[offset] = history
        queue.states.move(first, messages, Event.RELEASE)
    return verdict


def _begin(queue: Queue, runs: Runs) -> tuple[Verdict, Runs]:
    """A verdict with what expired while somebody had it, and the rest of the runs."""
    verdict = Verdict([], [], [])
    if queue.indexes.overdue:
        runs, over = queue.indexes.split_overdue(runs)
        verdict.expired.extend(over)
    return verdict, runs


def dead_before(queue: Queue, first: int, messages: int) -> list[Dead]:
    """Messages that were dead already, and waited for room: for the reason they died of."""
    found: list[Dead] = []
    deaths = queue.indexes.notes.deaths
    for offset in range(first, first + messages):
        reason, text = deaths.get(offset, ("waited", None))
        (each,) = dead(queue, [(offset, 1)], reason, text)
        if found and each[2:] == found[-1][2:]:
            found[-1] = found[-1]._replace(messages=found[-1].messages + 1)
        else:
            found.append(each)
    return found


def dead(
    queue: Queue, runs: Runs, reason: str, text: str | None = None, tries: Sequence[Row] = ()
) -> list[Dead]:
    """Messages that are dead-lettered at once, if at all tried then after `tries`."""
    return [
        Dead(first, messages, reason, history.failures, text, _of(tries, first, messages))
        for first, messages, history in queue.histories.runs(runs)
    ]


def _of(tries: Sequence[Row], first: int, messages: int) -> tuple[Row, ...]:
    return tuple(within(tries, first, messages))
