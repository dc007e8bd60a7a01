"""`penstock queue …`: what there is, with its settings and counts."""

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from penstock.cli.arguments import (
    COUNT,
    DURATION,
    NAME,
    NUMBER,
    SIZE,
    SWITCH,
    WEIGHTS,
    Setting,
    about_size,
    count,
    duration_text,
    or_none,
    settings_given,
    settings_shown,
    utf8,
)
from penstock.cli.command import YES, Call, Command, Usage, argument, confirm, deleted, note
from penstock.cli.messages import FORMAT, QUEUE, rendered
from penstock.values import QueueDescription

SETTINGS = (
    Setting("visibility_timeout", DURATION, "lease of a received message (30s)"),
    Setting("max_attempts", or_none(COUNT), "failures + 1 before it is dead-lettered (5)"),
    Setting("max_deliveries", or_none(COUNT), "hand-outs before it is dead-lettered (50)"),
    Setting("dead_letter", or_none(NAME), "queue where such messages go (NAME.dead)"),
    Setting("retry_initial", DURATION, "a failed message comes back after that (1s)"),
    Setting("retry_factor", NUMBER, "each further time that much later (2)"),
    Setting("retry_max", DURATION, "but never later than that (5m)"),
    Setting("retry_jitter", NUMBER, "more or less that share of it, by chance (0.2)"),
    Setting("max_messages", or_none(COUNT), "full above (1000000)"),
    Setting("max_bytes", or_none(SIZE), "full above (8GiB)"),
    Setting("max_in_flight", COUNT, "leased at once; above, nothing is delivered (100000)"),
    Setting("overflow", NAME, "what a full queue does: reject, drop_oldest or dead_letter_oldest (reject)"),
    Setting("delay", DURATION, "of every message that names none, up to ten years (0s)"),
    Setting("ttl", or_none(DURATION), "of every message that does not name a shorter one (none)"),
    Setting("on_expiry", NAME, "where expired messages go: drop or dead_letter (drop)"),
    Setting("dedup_window", DURATION, "how long a dedup id is remembered, up to 7d (5m)"),
    Setting("content_dedup", SWITCH, "a message without a dedup id has the hash of its body (no)"),
    Setting("job_scope", NAME, "a job key is taken until its message is done, or while it is queued (done)"),
    Setting("priority_ageing", or_none(DURATION), "a step of priority more for each such time (none)"),
    Setting("single_active", SWITCH, "one consumer at a time; the next takes over when it goes (no)"),
    Setting("paused", SWITCH, "nothing is delivered (no)"),
    Setting("fair", SWITCH, "message groups share, instead of keeping an order (no)"),
    Setting("group_concurrency", or_none(COUNT), "of a message group in flight (none: 1, or no cap if fair)"),
    Setting("group_failure", NAME, "what a failed head means for its group: block, park or skip (block)"),
    Setting("group_weights", WEIGHTS, "shares of message groups in a fair queue, if not 1 (none)"),
    Setting("rate", or_none(NUMBER), "deliveries a second (none)"),
    Setting("group_rate", or_none(NUMBER), "deliveries a second of each message group (none)"),
    Setting("expires", or_none(DURATION), "deleted when unused for that long (none)"),
    Setting("exclusive", SWITCH, "goes with the session that made it: only programs can say yes (no)"),
    Setting("source", or_none(NAME), "the topic whose records are its messages; fixed once created (none)"),
    Setting("keep_settled", or_none(DURATION), "keep the bytes of settled messages that long (none)"),
    Setting("durability", or_none(NAME), "fsync, interval:50ms or os; none is the broker's (none)"),
)
"""Every setting of a queue; the options of `create` and `alter` are made of it."""

OPTIONS = tuple(setting.option for setting in SETTINGS)
PREFIX = argument("--prefix", metavar="TEXT", type=utf8, default="", help="only names that begin with TEXT")
IF_EXISTS = argument(
    "--if-exists",
    choices=("check", "alter", "keep"),
    default="check",
    help="if it is there: fail if the settings typed differ, change them, or leave them (check)",
)
STATES = ("ready", "held", "delayed", "in_flight", "waiting")
MORE_COUNTS = ("held", "blocked_groups", "throttled_tenants")
HEAD = ("QUEUE", "READY", "DELAYED", "IN-FLIGHT", "WAITING", "SETTLED", "OLDEST", "BYTES")


def as_json(queue: QueueDescription) -> dict[str, Any]:
    """A queue as one JSON object: durations in seconds, sizes in bytes, null for unlimited."""
    return {
        "name": queue.name,
        "uuid": queue.uuid,
        "corrupt": queue.corrupt,
        "settings": _settings(queue),
        "stats": asdict(queue.stats),
    }


def _settings(queue: QueueDescription) -> dict[str, Any]:
    """By the names of the options: the retry curve is four of them."""
    values: dict[str, Any] = {**queue.settings}
    curve = asdict(values.pop("retry"))
    return values | {f"retry_{name}": value for name, value in curve.items()}


def _row(queue: QueueDescription) -> tuple[object, ...]:
    if queue.corrupt:
        return (queue.name, "corrupt", *(None for _ in HEAD[2:]))
    stats = queue.stats
    oldest = None if stats.oldest_age is None else duration_text(round(stats.oldest_age))
    counts = (stats.ready, stats.delayed, stats.in_flight, stats.waiting, stats.settled_total)
    return (queue.name, *counts, oldest, about_size(stats.bytes))


def _settings_typed(options: Namespace) -> dict[str, Any]:
    settings = settings_given(options, SETTINGS)
    if settings.get("exclusive"):
        raise Usage(
            "--exclusive yes: such a queue goes with the session that made it, which ends with this command;"
            " type --expires 1h, for one that goes when it is unused, or make it in the program that needs it"
        )
    return settings


async def _create(call: Call) -> None:
    options = call.options
    settings = _settings_typed(options)
    queue = await call.client.create_queue(options.queue, if_exists=options.if_exists, **settings)
    await _changed(call, await call.client.describe_queue(queue.name), "is ready")


async def _alter(call: Call) -> None:
    settings = _settings_typed(call.options)
    if not settings:
        raise Usage("nothing to change: add a setting, for instance --visibility-timeout 1m")
    await _changed(call, await call.client.alter_queue(call.options.queue, **settings), "is changed")


async def _changed(call: Call, queue: QueueDescription, done: str) -> None:
    note(f"queue {queue.name} {done}")
    if call.out.json:
        await call.out.objects([as_json(queue)])


async def _list(call: Call) -> None:
    queues = await call.client.list_queues(call.options.prefix)
    if call.out.json:
        await call.out.objects(map(as_json, queues))
    else:
        await call.out.rows(HEAD, map(_row, queues))


async def _describe(call: Call) -> None:
    queue = await call.client.describe_queue(call.options.queue)
    if call.out.json:
        await call.out.objects([as_json(queue)])
        return
    counts = zip(HEAD[1:], _row(queue)[1:], strict=True)
    rows = [
        ("queue", queue.name),
        ("uuid", queue.uuid),
        *((name.lower(), value) for name, value in counts),
        *((name.replace("_", "-"), getattr(queue.stats, name)) for name in MORE_COUNTS),
        *settings_shown(_settings(queue), SETTINGS),
    ]
    await call.out.rows(("NAME", "VALUE"), rows)


async def _delete(call: Call) -> None:
    queue = await call.client.describe_queue(call.options.queue)
    await confirm(f"delete queue {queue.name} with {_held(queue)}", call.options)
    await call.client.delete_queue(queue.name)
    await deleted(call, "queue", queue.name)


async def _purge(call: Call) -> None:
    queue = await call.client.describe_queue(call.options.queue)
    await confirm(f"purge {_held(queue)} from queue {queue.name}; those in flight stay", call.options)
    purged = await call.client.queue(queue.name).purge()
    note(f"{purged:,} messages are purged from {queue.name}")
    if call.out.json:
        await call.out.objects([{"name": queue.name, "purged": purged}])


def _held(queue: QueueDescription) -> str:
    stats = queue.stats
    rest = stats.ready + stats.delayed + stats.waiting
    return f"{rest:,} messages ({stats.in_flight:,} more in flight, {about_size(stats.bytes)} in all)"


async def _peek(call: Call) -> None:
    options = call.options
    messages = await call.client.queue(options.queue).peek(options.number, state=options.state)
    await call.out.write(rendered(call, messages))


COMMANDS = (
    Command("queue create", "QUEUE", "Create a queue.", _create, (QUEUE, *OPTIONS, IF_EXISTS)),
    Command("queue list", "", "List queues with their counts.", _list, (PREFIX,)),
    Command("queue describe", "QUEUE", "Show the settings and counts of a queue.", _describe, (QUEUE,)),
    Command("queue alter", "QUEUE", "Change settings of a queue.", _alter, (QUEUE, *OPTIONS)),
    Command("queue delete", "QUEUE", "Delete a queue with its messages.", _delete, (QUEUE, YES)),
    Command("queue purge", "QUEUE", "Throw away the messages of a queue.", _purge, (QUEUE, YES)),
    Command(
        "queue peek",
        "QUEUE",
        "Look at messages without taking them.",
        _peek,
        (
            QUEUE,
            argument("-n", "--number", metavar="N", type=count, default=10, help="at most N (10)"),
            argument("--state", choices=STATES, default="ready", help="messages in that state (ready)"),
            FORMAT,
        ),
    ),
)
