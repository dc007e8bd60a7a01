"""`enqueue` and `receive`: bodies in, bodies out."""

import asyncio
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from math import inf
from typing import Any

from penstock.cli import publish
from penstock.cli.arguments import at_most, count, duration, duration_text, instant, unescaped, utf8
from penstock.cli.command import Argument, Call, Command, Usage, argument, note, warn
from penstock.cli.output import bytes_as, formatter, json_line
from penstock.errors import Error, OutcomeUnknown, Stale
from penstock.message import Message
from penstock.outgoing import RULES, Outgoing
from penstock.queue import Queue
from penstock.values import Receipt
from penstock.views import Messages

AT_ONCE = 500
"""Messages to lease at most before they are written."""
LEASE_SECONDS = 30.0
"""SQS's default; extended for as long as the reader of stdout takes its time."""
RELEASE_SECONDS = 5.0

Render = Callable[[Message[bytes]], bytes]

FIELDS: dict[str, Render] = {
    "b": lambda message: message.raw,
    "i": lambda message: message.id.encode(),
    "q": lambda message: message.queue.encode(),
    "o": lambda message: b"%d" % message.offset,
    "a": lambda message: b"%d" % message.attempt,
    "d": lambda message: b"%d" % message.delivery,
    "T": lambda message: b"%d" % round(message.enqueued_at.timestamp() * 1000),
    "p": lambda message: b"%d" % message.priority,
    "g": lambda message: (message.message_group or "").encode(),
    "r": lambda message: (message.reply_to or "").encode(),
    "c": lambda message: (message.correlation_id or "").encode(),
    "t": lambda message: (message.content_type or "").encode(),
    "h": lambda message: json_line(message.headers)[:-1],
}
FORMATS = (
    r"%b body, %i id, %q queue, %o offset, %a attempt, %d delivery, %T enqueued (ms), %p priority,"
    r" %g message group, %r reply to, %c correlation id, %t content type, %h headers; \n \t \0"
)


def as_json(message: Message[bytes]) -> dict[str, Any]:
    """A message as one JSON object."""
    history = message.history
    return {
        "id": message.id,
        "queue": message.queue,
        "offset": message.offset,
        "attempt": message.attempt,
        "delivery": message.delivery,
        "redelivered": message.redelivered,
        "replayed": message.replayed,
        "enqueued_at": message.enqueued_at,
        "priority": message.priority,
        "message_group": message.message_group,
        "reply_to": message.reply_to,
        "correlation_id": message.correlation_id,
        "content_type": message.content_type,
        "headers": message.headers,
        "history": None if history is None else asdict(history),
        **bytes_as("checkpoint", message.checkpoint),
        **bytes_as("body", message.raw),
    }


def rendering(text: str) -> Render:
    """The argparse type of `--format`."""
    return formatter(unescaped(text), FIELDS)


FORMAT = argument(
    "--format",
    metavar="TEXT",
    type=rendering,
    default=r"%b\n",
    help=f"how to print one ({FORMATS})".replace("%", "%%"),
)
QUEUE = argument("queue", metavar="QUEUE", type=utf8)


def rendered(call: Call, messages: Messages[bytes]) -> bytes:
    """What to print for some messages."""
    render: Render = (lambda message: json_line(as_json(message))) if call.out.json else call.options.format
    return b"".join(map(render, messages))


# Enqueue


MESSAGE_OPTIONS: tuple[Argument, ...] = (
    argument("--delay", metavar="DURATION", type=duration, help="not delivered before, up to ten years"),
    argument("--at", metavar="INSTANT", type=instant, help="not delivered before, like 2026-12-01T08:00Z"),
    argument("--ttl", metavar="DURATION", type=duration, help="expires after that"),
    argument("--priority", metavar="N", type=count, help="0 to 9, 9 first (0)"),
    argument("--message-group", metavar="NAME", type=utf8, help="strict order in the group, or the tenant"),
    argument("--dedup-id", metavar="ID", type=utf8, help="only the first of that id counts, for a while"),
    argument("--job-key", metavar="KEY", type=utf8, help="at most one such message at a time"),
    argument("--on-conflict", choices=tuple(RULES), help="what to do if the job key is taken (reject)"),
    argument("--reply-to", metavar="QUEUE", type=utf8, help="where an answer is expected"),
    argument("--correlation-id", metavar="ID", type=utf8, help="what ties an answer to its question"),
    argument("--content-type", metavar="TYPE", type=utf8, help="what the form of the body is called"),
)
"""Options of `enqueue`, named like the fields of `Outgoing`."""
NAMES = [option.names[0].lstrip("-").replace("-", "_") for option in MESSAGE_OPTIONS]


def options_typed(options: Namespace) -> dict[str, Any]:
    """Those of `MESSAGE_OPTIONS` that were typed."""
    chosen = {name: getattr(options, name) for name in NAMES}
    return {name: value for name, value in chosen.items() if value is not None}


async def _enqueue(call: Call) -> None:
    queue, headers = call.client.queue(call.options.queue), dict(call.options.headers)
    chosen = options_typed(call.options)
    plain = not headers and not chosen
    verb = publish.Publish(queue.enqueue_many, Receipt._asdict, f"messages are in {queue.name}")
    await publish.publish(
        call, call.options.bodies, verb, lambda body: body if plain else Outgoing(body, headers, **chosen)
    )


# Receive


async def _receive(call: Call) -> None:
    options, queue = call.options, call.client.queue(call.options.queue)
    if options.settle and options.no_ack:
        raise Usage("--settle and --no-ack exclude each other: what is settled cannot be released")
    left = options.number if options.number is not None else inf if options.follow else 1
    async with call.out.while_read(), _held(queue) as held:
        while left > 0:
            messages = await queue.receive(
                int(min(left, AT_ONCE)),
                wait=options.wait,
                visibility_timeout=None if options.settle else LEASE_SECONDS,
                settle=options.settle,
            )
            if not messages and not options.follow:
                note(f"no more message within {duration_text(options.wait)}")
                break
            if not options.settle:
                held.append(messages)
            await call.out.write(rendered(call, messages))
            left -= len(messages)
            if not options.no_ack and not options.settle:
                await _ack(messages, go_on=options.follow)
                held.remove(messages)


async def _ack(messages: Messages[bytes], *, go_on: bool) -> None:
    try:
        await messages.ack()
    except (Stale, OutcomeUnknown) as error:
        if not go_on:
            raise
        warn(f"{error.message}; what was printed may come again")


@asynccontextmanager
async def _held(queue: Queue[bytes]) -> AsyncIterator[list[Messages[bytes]]]:
    """Messages that are written but not acked: their leases are extended, and at the end they are released,
    which counts no attempt."""
    held: list[Messages[bytes]] = []
    keeper = asyncio.create_task(_extend(queue, held))
    try:
        yield held
    finally:
        keeper.cancel()
        for messages in held:
            try:
                await messages.release(timeout=RELEASE_SECONDS)
            except Stale:
                continue  # its lease has ended: it is back already
            except Error:
                break  # there is no broker to tell: the leases end by themselves


async def _extend(queue: Queue[bytes], held: list[Messages[bytes]]) -> None:
    while True:
        await asyncio.sleep(LEASE_SECONDS / 3)
        for messages in list(held):
            with suppress(Error):  # a lease that is gone shows when its message is settled
                await queue.extend(messages, LEASE_SECONDS)


RECEIVE_HELP = """\
Each message is acked after its line is written. If this command is killed, what was not acked comes back.
"""

COMMANDS = (
    Command(
        "enqueue",
        "QUEUE [BODY ...]",
        "Append messages to a queue: each BODY, each --file, or else each line of stdin.",
        _enqueue,
        (
            QUEUE,
            argument("bodies", metavar="BODY", nargs="*", default=[]),
            *publish.ARGUMENTS,
            *MESSAGE_OPTIONS,
        ),
    ),
    Command(
        "receive",
        "QUEUE",
        "Take messages from a queue and print them, one a line.",
        _receive,
        (
            QUEUE,
            argument("-n", "--number", metavar="N", type=at_most, help="stop after N messages, or none (1)"),
            argument("--wait", metavar="S", type=duration, default="20s", help="for the next message (20s)"),
            argument("--follow", action="store_true", help="go on for ever"),
            argument("--no-ack", action="store_true", help="release at the end; counts no attempt"),
            argument("--settle", action="store_true", help="at most once: settled before they are printed"),
            FORMAT,
        ),
        RECEIVE_HELP,
        endless=True,
    ),
)
