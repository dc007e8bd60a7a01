"""`penstock topic table`: what a compacted topic says now, and what it says next."""

import os
from collections.abc import Iterable
from itertools import islice

from penstock.cli.command import Call, Command, Failure, argument
from penstock.cli.output import bytes_as, json_line
from penstock.cli.records import TOPIC

AT_ONCE = 1_000
"""Lines to write at once."""


def _line(key: bytes, value: bytes | None, *, json: bool) -> bytes:
    if json:
        return json_line(bytes_as("key", key) | bytes_as("value", value))
    return key + b"\n" if value is None else key + b"\t" + value + b"\n"


async def _table(call: Call) -> None:
    options, json = call.options, call.out.json
    wanted = None if options.key is None else os.fsencode(options.key)
    async with call.out.while_read(), call.client.topic(options.topic).table() as table:
        await table.ready()
        watch = table.watch(wanted)
        rows: Iterable[tuple[bytes, bytes]] = table.items()
        if wanted is not None:
            value = table.get(wanted)
            rows = [] if value is None else [(wanted, value)]
            if value is None and not options.follow:
                raise Failure(f"{options.topic} has no key {options.key!r}; leave out --key to see all")
        lines = (_line(key, value, json=json) for key, value in rows)
        while some := b"".join(islice(lines, AT_ONCE)):
            await call.out.write(some)
        if options.follow:
            async for change in watch:
                await call.out.write(_line(change.key, change.new, json=json))


HELP = """\
One line for each key: the key, a tab, its value. With --watch a line of a key alone says that it is gone
(--json: its value is null). Changes that come faster than they are written are told as one. All of the
table is held in memory.
"""

COMMANDS = (
    Command(
        "topic table",
        "TOPIC",
        "Print the last value of every key of a compacted topic.",
        _table,
        (
            TOPIC,
            argument("--key", metavar="KEY", help="this key alone"),
            argument("--watch", action="store_true", dest="follow", help="and then every change, for ever"),
        ),
        HELP,
        endless=True,
    ),
)
