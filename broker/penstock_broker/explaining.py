"""Why a message is not delivered now, in words and in facts: whose it is, what it waits for, what limits
it."""

from typing import Any

from penstock_broker.clock import Now
from penstock_broker.queues.histories import FRESH
from penstock_broker.queues.message_groups import JOB_PREFIX
from penstock_broker.queues.order import PLAIN_RANK
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import State

Facts = dict[str, Any]
NAMES = {
    State.READY: "ready",
    State.SPECIAL: "ready",
    State.HELD: "held",
    State.DELAYED: "delayed",
    State.IN_FLIGHT: "in_flight",
    State.WAITING: "waiting",
    State.SETTLED: "settled",
}


def explain(queue: Queue, offset: int, now: Now) -> Facts:
    """State, reasons (text) and facts of one message."""
    state = State(queue.states.state(offset))
    reasons: list[str] = []
    history = queue.histories.get(offset, FRESH)
    facts: Facts = {"offset": offset, "failures": history.failures, "deliveries": history.deliveries}
    if state is not State.SETTLED:
        facts["enqueued_at"] = queue.log.time(offset)
    if offset in queue.states.order.ranks and not queue.policy.fair:
        facts["priority"] = PLAIN_RANK - queue.states.order.ranks[offset]
    if state is State.SETTLED:
        reasons.append("it is settled: acked, dead-lettered, expired, purged or moved")
    elif state is State.IN_FLIGHT:
        _in_flight(queue, offset, now, facts, reasons)
    elif state is State.DELAYED:
        _delayed(queue, offset, now, facts, reasons)
    elif state is State.WAITING:
        reasons.append(f"it is dead, and {_about_dead_letter(queue, offset)}")
    _group(queue, offset, state, now, facts, reasons)
    if state in (State.READY, State.SPECIAL, State.HELD):
        _limits(queue, now, reasons)
    if not reasons:
        reasons.append("nothing keeps it: the next consumer with credit gets it in its turn")
    attempts = [list(each) for each in queue.indexes.notes.attempts.get(offset, ())]
    story = [
        [each[1] or each[2], each[3], f"{each[0]}: {each[4]}" if each[4] else each[0]] for each in attempts
    ]
    if "enqueued_at" in facts:
        story.insert(0, [facts["enqueued_at"], "enqueued", queue.name])
    story.append([now.wall, NAMES[state], "; ".join(reasons)])
    return {"state": NAMES[state], "reasons": reasons, "facts": facts, "attempts": attempts, "story": story}


def _in_flight(queue: Queue, offset: int, now: Now, facts: Facts, reasons: list[str]) -> None:
    for lease in queue.leases:
        if lease.first <= offset < lease.first + lease.messages and any(lease.runs(offset, 1)):
            left = max(0, lease.deadline - now.mono) / 1000 if lease.started else None
            facts |= {"consumer": lease.consumer, "lease_token": lease.token, "lease_left": left}
            who = lease.consumer or "a consumer without a name"
            reasons.append(f"{who} has it" + (f", for {left:.1f} s more" if left is not None else ""))
            return
    reasons.append("the broker has it, on its way to another queue")


def _delayed(queue: Queue, offset: int, now: Now, facts: Facts, reasons: list[str]) -> None:
    due = queue.indexes.due_of(offset) or queue.indexes.delay_of(offset)
    facts["due"] = due
    if due is not None:
        what = "it failed and is tried again" if facts["failures"] else "it is delayed and due"
        reasons.append(f"{what} in {max(0, due - now.wall) / 1000:.1f} s")


def _about_dead_letter(queue: Queue, offset: int) -> str:
    name = queue.policy.dead_letter
    if offset in queue.damaged:
        return "its bytes are damaged"
    if queue.policy.group_failure == "park" and queue.indexes.groups.over_parked(offset, 1):
        parked = len(queue.indexes.groups.parked)
        return f"{parked:,} message groups are parked: penstock queue resume {queue.name} --message-group …"
    return f"the dead-letter queue {name!r} has no room"


def _group(queue: Queue, offset: int, state: State, now: Now, facts: Facts, reasons: list[str]) -> None:
    groups = queue.indexes.groups
    group = groups.of.get(offset)
    if group is None:
        return
    job = group.name.startswith(JOB_PREFIX)
    what, name = ("job key", group.name[len(JOB_PREFIX) :]) if job else ("message group", group.name)
    facts["job_key" if job else "message_group"] = name
    if state is not State.HELD:
        return
    if group.parked:
        reasons.append(
            f"message group {name!r} is parked since a message of it died:"
            f" penstock queue resume {queue.name} --message-group {name}"
        )
    elif group.out:
        failures = queue.histories.get(group.latest, FRESH).failures
        ahead: list[str] = []
        if group.latest in groups.delayed:
            _delayed(queue, group.latest, now, {"failures": failures}, ahead)
        failed = ahead and failures and group.out == 1
        head = "waits for the message" if failed else f"has {group.out} out, the latest"
        reasons.append(": ".join([f"{what} {name!r} {head} at offset {group.latest}", *ahead]))
    elif groups.rules.rate is not None:
        reasons.append(f"{what} {name!r} is over its rate of {groups.rules.rate:g} messages a second")


def _limits(queue: Queue, now: Now, reasons: list[str]) -> None:
    policy = queue.policy
    if policy.paused:
        reasons.append(f"the queue is paused: penstock queue resume {queue.name}")
    if sum(lane.states.counts[State.IN_FLIGHT] for lane in queue.lanes) >= policy.max_in_flight:
        reasons.append(f"{policy.max_in_flight:,} messages are in flight, the queue's max_in_flight")
    if queue.pace.next_at(now.mono) is not None:
        reasons.append(f"the queue is at its rate of {policy.rate:g} messages a second")
    if not len(queue.handout):
        reasons.append("nobody receives or consumes")
    elif not queue.handout.wanted:
        reasons.append("every consumer has as many messages as it asked for")
