"""`penstock queue …`, one message or many: find, explain, cancel, move, redrive, replay; pause and resume.

What moves many counts first, prints the plan, and goes on as `confirm` says.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from penstock.cli.arguments import about_size, count, duration, header_sought, instant, number, utf8
from penstock.cli.command import YES, Argument, Call, Command, Failure, Usage, argument, confirm, note
from penstock.cli.messages import QUEUE, as_json
from penstock.cli.output import instant_text
from penstock.values import Redriven

ID = argument("id", metavar="ID", type=utf8)
MOVABLE = ("ready", "delayed", "waiting")
UNTIL = argument("--until", metavar="INSTANT", type=instant, help="enqueued before that, like -5m")
WHICH: tuple[Argument, ...] = (
    argument("--id", metavar="ID", type=utf8, help="the message with that id"),
    argument(
        "-H",
        "--header",
        metavar="NAME=VALUE",
        type=header_sought,
        help="messages with that header; NAME:=42 and NAME:=true are no text, but a number and a truth",
    ),
    argument("--since", metavar="INSTANT", type=instant, help="enqueued then or later, like -1h"),
    UNTIL,
)
HOW: tuple[Argument, ...] = (
    argument("--limit", metavar="N", type=count, help="at most N messages"),
    argument("--rate", metavar="X", type=number, help="at most X messages a second"),
    argument("--dry-run", action="store_true", help="only count"),
    YES,
)

Move = Callable[..., Awaitable[Redriven]]


# Look


async def _find(call: Call) -> None:
    options = call.options
    found = await call.client.queue(options.queue).find(
        id=options.id,
        header=options.header,
        since=options.since,
        until=options.until,
        limit=options.number,
    )
    if call.out.json:
        await call.out.objects({"state": each.state, **as_json(each.message)} for each in found)
        return
    rows = [
        (each.state, each.message.attempt, instant_text(each.message.enqueued_at), each.message.id)
        for each in found
    ]
    await call.out.rows(("STATE", "ATTEMPT", "ENQUEUED", "ID"), rows)


async def _explain(call: Call) -> None:
    explained = await call.client.queue(call.options.queue).explain(call.options.id)
    if call.out.json:
        facts = {"state": explained.state, "reasons": explained.reasons, "facts": explained.facts}
        await call.out.objects([facts])
        return
    rows = [
        ("state", explained.state),
        *(("reason", reason) for reason in explained.reasons),
        *explained.facts.items(),
    ]
    await call.out.rows(("NAME", "VALUE"), rows)


async def _story(call: Call) -> None:
    lines = await call.client.queue(call.options.queue).story(call.options.id)
    if call.out.json:
        await call.out.objects(line._asdict() for line in lines)
    else:
        rows = [(instant_text(line.when), line.what, line.detail) for line in lines]
        await call.out.rows(("WHEN", "WHAT", "DETAIL"), rows)


# Steer


async def _pause(call: Call) -> None:
    await call.client.queue(call.options.queue).pause()
    await _done(call, "is paused", paused=True)


async def _resume(call: Call) -> None:
    queue, group = call.client.queue(call.options.queue), call.options.message_group
    if not await queue.resume(group):
        raise Failure(f"message group {group!r} of {queue.name} was not parked")
    if group is None:
        await _done(call, "delivers again", paused=False)
    else:
        await _done(call, f"delivers message group {group!r} again", message_group=group, resumed=True)


async def _cancel(call: Call) -> None:
    queue, id = call.client.queue(call.options.queue), call.options.id
    await confirm(f"take message {id} out of queue {queue.name}, unless it is in flight", call.options)
    if not await queue.cancel(id):
        raise _not_there(call)
    await _done(call, f"has lost message {id}", id=id, cancelled=True)


async def _reschedule(call: Call) -> None:
    options, queue = call.options, call.client.queue(call.options.queue)
    if (options.delay is None) is (options.at is None):
        raise Usage("type one of --delay and --at")
    if not await queue.reschedule(options.id, delay=options.delay, at=options.at):
        raise _not_there(call)
    await _done(call, f"has message {options.id} at its new time", id=options.id, rescheduled=True)


def _not_there(call: Call) -> Failure:
    queue, id = call.options.queue, call.options.id
    return Failure(
        f"{queue} has no message {id}, or it is in flight; type `penstock queue explain {queue} {id}`"
    )


async def _done(call: Call, what: str, **facts: Any) -> None:
    note(f"queue {call.options.queue} {what}")
    if call.out.json:
        await call.out.objects([{"name": call.options.queue, **facts}])


# Move


async def _redrive(call: Call) -> None:
    options, queue = call.options, call.client.queue(call.options.queue)
    target = options.to or "where each died"
    await _move(call, "move", target, queue.redrive, to=options.to, reason=options.reason)


async def _replay(call: Call) -> None:
    options, queue = call.options, call.client.queue(call.options.queue)
    target = options.into or queue.name
    chosen = {"since": options.since, "until": options.until, "into": options.into}
    await _move(call, "copy", target, queue.replay, **chosen)


async def _move_to(call: Call) -> None:
    options, queue = call.options, call.client.queue(call.options.queue)
    chosen = {name: getattr(options, name) for name in ("to", "state", "id", "header", "since", "until")}
    await _move(call, "move", options.to, queue.move, **chosen)


async def _move(call: Call, verb: str, target: str, move: Move, **chosen: Any) -> None:
    """Count, ask, and do it."""
    options = call.options
    chosen |= {"limit": options.limit, "rate": options.rate}
    plan = await move(**chosen, dry_run=True)
    moved = Redriven(0, 0)
    what = f"{plan.messages:,} messages ({about_size(plan.bytes)}) of queue {options.queue} to {target}"
    if options.dry_run or not plan.messages:
        note(f"this would {verb} {what}")
    else:
        await confirm(f"{verb} {what}", options)
        moved = await move(**chosen)
        note(f"{moved.messages:,} messages are moved")
    if call.out.json:
        shown = plan if options.dry_run else moved
        await call.out.objects([{"name": options.queue, "to": target, **shown._asdict()}])
    elif options.dry_run:
        await call.out.rows(("MESSAGES", "BYTES"), [(plan.messages, plan.bytes)])


LIMIT_OF_FIND = argument("-n", "--number", metavar="N", type=count, default=100, help="at most N (100)")
WHEN: tuple[Argument, ...] = (
    argument("--delay", metavar="DURATION", type=duration, help="ready after that from now; 0s: at once"),
    argument("--at", metavar="INSTANT", type=instant, help="ready then, like 2026-12-01T08:00Z"),
)
GROUP = argument("--message-group", metavar="NAME", type=utf8, help="only that one, which was parked")

COMMANDS = (
    Command("queue find", "QUEUE", "Look for messages in any state.", _find, (QUEUE, *WHICH, LIMIT_OF_FIND)),
    Command("queue explain", "QUEUE ID", "Say why a message is not delivered now.", _explain, (QUEUE, ID)),
    Command("queue story", "QUEUE ID", "Tell what happened to a message.", _story, (QUEUE, ID)),
    Command("queue pause", "QUEUE", "Deliver nothing until it is resumed.", _pause, (QUEUE,)),
    Command("queue resume", "QUEUE", "Deliver again, all of it or a group.", _resume, (QUEUE, GROUP)),
    Command("queue cancel", "QUEUE ID", "Take back a message, delayed or not.", _cancel, (QUEUE, ID, YES)),
    Command(
        "queue reschedule",
        "QUEUE ID",
        "Make a message ready at another time.",
        _reschedule,
        (QUEUE, ID, *WHEN),
    ),
    Command(
        "queue redrive",
        "QUEUE",
        "Move dead letters back to where they died.",
        _redrive,
        (
            QUEUE,
            argument("--to", metavar="QUEUE", type=utf8, help="another queue instead"),
            argument("--reason", metavar="TEXT", type=utf8, help="only those that died of it"),
            *HOW,
        ),
    ),
    Command(
        "queue replay",
        "QUEUE",
        "Enqueue settled messages again that keep_settled has kept.",
        _replay,
        (
            QUEUE,
            argument("--since", metavar="INSTANT", type=instant, required=True, help="enqueued from then on"),
            UNTIL,
            argument("--into", metavar="QUEUE", type=utf8, help="another queue instead"),
            *HOW,
        ),
    ),
    Command(
        "queue move",
        "QUEUE TO",
        "Move messages to another queue.",
        _move_to,
        (
            QUEUE,
            argument("to", metavar="TO", type=utf8),
            argument("--state", choices=MOVABLE, default="ready", help="messages in that state (ready)"),
            *WHICH,
            *HOW,
        ),
    ),
)
