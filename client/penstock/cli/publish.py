"""What `enqueue` and `produce` share: where bodies come from, and what is said about their receipts."""

import os
from argparse import Namespace
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from penstock.cli.arguments import delimiter, header
from penstock.cli.command import Argument, Call, Failure, argument, note, told
from penstock.cli.lines import bursts
from penstock.cli.pipes import STDIN
from penstock.errors import BatchError, Disconnected, Error
from penstock.outgoing import Outgoing
from penstock_protocol.limits import MESSAGE_BYTES_MAX, MIB

HEADERS = argument("-H", "--header", metavar="NAME=VALUE", type=header, action="append", default=[],
                   dest="headers", help="a header of every message; may be repeated")  # fmt: skip
ARGUMENTS: tuple[Argument, ...] = (
    HEADERS,
    argument("--file", metavar="FILE", action="append", default=[], dest="files",
             help="the content of FILE as one message; may be repeated"),
    argument("--delimiter", metavar="TEXT", type=delimiter, default=b"\n",
             help=r"what ends a message on stdin, instead of \n"),
    argument("-0", "--null", action="store_const", const=b"\0", dest="delimiter",
             help="messages on stdin end with a null byte, as of `find -print0`"),
)  # fmt: skip

Bodies = Sequence[bytes | Outgoing]


class Publish(NamedTuple):
    """One verb. `send`: publishes some bodies in order; `receipt`: one of its receipts as JSON."""

    send: Callable[[Bodies], Awaitable[Sequence[Any]]]
    receipt: Callable[[Any], dict[str, Any]]
    done: str


async def publish(call: Call, given: Sequence[str], verb: Publish, outgoing: Callable[[bytes], Any]) -> None:
    """Publish what was typed, the files, or without either stdin line by line.

    `outgoing`: what to publish for a body. Raises `Failure` that says how many messages are durable.
    """
    durable = 0
    try:
        async with aclosing(_bodies(given, call.options)) as bodies:
            async for some in bodies:
                receipts = await verb.send([outgoing(body) for body in some])
                durable += len(receipts)
                await _report(call, receipts, verb)
    except Error as error:
        if isinstance(error, BatchError):
            durable += len(error.receipts)
            await _report(call, error.receipts, verb)
        cause = error.__cause__ if isinstance(error.__cause__, Error) else error
        if not durable:
            raise cause from None
        code = 3 if isinstance(cause, Disconnected) else 1
        raise Failure(f"{durable:,} {verb.done}, but then: {told(cause)}", code) from error
    note(f"{durable:,} {verb.done}")


async def _bodies(given: Sequence[str], options: Namespace) -> AsyncGenerator[list[bytes], None]:
    if given:
        yield [os.fsencode(text) for text in given]
    for path in options.files:
        yield [_content(path)]
    if not given and not options.files:
        if os.isatty(STDIN):
            note("one message a line; Ctrl-D ends")
        async for lines in bursts(options.delimiter):
            yield lines


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(MESSAGE_BYTES_MAX + 1)
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}") from error
    if len(content) > MESSAGE_BYTES_MAX:
        raise Failure(f"{path} is larger than {MESSAGE_BYTES_MAX // MIB} MiB; pipe it in to send its lines")
    return content


async def _report(call: Call, receipts: Sequence[Any], verb: Publish) -> None:
    if call.out.json:
        await call.out.objects(map(verb.receipt, receipts))
