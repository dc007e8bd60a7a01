"""`produce` and `fetch`: values in, values out."""

import asyncio
import os
from argparse import ArgumentTypeError
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf
from typing import Any

from penstock.cli import publish
from penstock.cli.arguments import Place, at_most, count, place, unescaped, utf8
from penstock.cli.command import Call, Command, Usage, argument
from penstock.cli.output import bytes_as, formatter, json_line
from penstock.compression import CODECS
from penstock.errors import Invalid
from penstock.outgoing import Outgoing
from penstock.record import Record
from penstock.topic import Topic
from penstock.values import PartitionDescription, RecordMetadata
from penstock.views import Records
from penstock.where import Where
from penstock_protocol.where import HEADER, KEY

AT_ONCE = 5_000
"""Records to fetch at most before they are written."""
WAIT_SECONDS = 20.0
"""For one fetch of `--follow`; then it asks again."""

Render = Callable[[Record[bytes]], bytes]

FIELDS: dict[str, Render] = {
    "v": lambda record: record.raw,
    "k": lambda record: record.key or b"",
    "p": lambda record: b"%d" % record.partition,
    "o": lambda record: b"%d" % record.offset,
    "T": lambda record: b"%d" % round(record.timestamp.timestamp() * 1000),
    "t": lambda record: record.topic.encode(),
    "i": lambda record: record.id.encode(),
    "h": lambda record: json_line(record.headers)[:-1],
}
FORMATS = (
    r"%v value, %k key, %p partition, %o offset, %T timestamp (ms), %t topic, %i id, %h headers; \n \t \0"
)


def as_json(record: Record[bytes]) -> dict[str, Any]:
    """A record as one JSON object."""
    return {
        "id": record.id,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "headers": record.headers,
        **bytes_as("key", record.key),
        **bytes_as("value", None if record.is_tombstone else record.raw),
    }


def rendering(text: str) -> Render:
    """The argparse type of `--format`."""
    return formatter(unescaped(text), FIELDS)


def key_delimiter(text: str) -> bytes:
    """The argparse type of `-K`."""
    if not text:
        raise ArgumentTypeError("-K takes what stands between key and value: write it like -K :")
    return os.fsencode(unescaped(text))


# Produce


async def _produce(call: Call) -> None:
    options = call.options
    topic = call.client.topic(options.topic, compression=options.compression)
    if options.key is not None and options.key_delimiter:
        raise Usage("--key and -K exclude each other: with -K every line brings its own key")
    send = topic.produce_many if options.expected_offset is None else _expecting(call, topic)
    verb = publish.Publish(send, RecordMetadata._asdict, f"records are in {topic.name}")
    await publish.publish(call, options.values, verb, _outgoing(call))


def _expecting(call: Call, topic: Topic[bytes]) -> Callable[[publish.Bodies], Awaitable[Sequence[Any]]]:
    """Sends what was typed as one batch, and each file behind it, at the offsets from the expected one on."""
    options = call.options
    if not options.values and not options.files:
        raise Usage("--expected-offset takes a VALUE or --file: of stdin nobody knows how much comes at once")
    expected: int = options.expected_offset

    async def send(bodies: publish.Bodies) -> Sequence[Any]:
        nonlocal expected
        receipts = await topic.produce_many(bodies, atomic=True, expected_offset=expected)
        expected += len(receipts)
        return receipts

    return send


def _outgoing(call: Call) -> Callable[[bytes], Any]:
    """What to produce for a line; bytes alone are the fast way, so a plain line stays what it is."""
    options, headers = call.options, dict(call.options.headers)
    fixed = None if options.key is None else os.fsencode(options.key)
    between = options.key_delimiter

    def outgoing(line: bytes) -> Any:
        key, found, value = line.partition(between) if between else (b"", b"", line)
        if not found:
            return Outgoing(line, headers, fixed, options.partition)
        return Outgoing(value, headers, key, options.partition)

    plain = fixed is None and not between and not headers and options.partition is None
    return (lambda line: line) if plain else outgoing


# Fetch


@dataclass(slots=True)
class Cursor:
    """Where reading stands in one partition. `end`: where it stops."""

    partition: int
    offset: int
    end: float


class Fetching:
    """One `fetch`: its cursors share stdout and the number of records still wanted."""

    def __init__(self, call: Call) -> None:
        options = call.options
        self._call = call
        self._topic: Topic[bytes] = call.client.topic(options.topic)
        self._group = call.client.group(options.group) if options.group else None
        self._render: Render = (lambda each: json_line(as_json(each))) if call.out.json else options.format
        self._where = _where(options.where)
        self._left: float = inf if options.number is None else options.number
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Read to the ends seen now, partition by partition; or `--follow` all of them at once."""
        cursors = await self._cursors()
        if not self._call.options.follow:
            for cursor in cursors:
                await self._read(cursor)
            return
        readers = [asyncio.create_task(self._read(cursor)) for cursor in cursors]
        try:
            done, _ = await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
            for reader in done:
                reader.result()
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.wait(readers)

    async def _read(self, cursor: Cursor) -> None:
        while self._left > 0 and cursor.offset < cursor.end:
            records = await self._topic.fetch(
                cursor.partition,
                cursor.offset,
                max_records=int(min(AT_ONCE, self._left, cursor.end - cursor.offset)),
                wait=WAIT_SECONDS if cursor.end == inf else 0.0,
                where=self._where,
            )
            async with self._writing:
                await self._write(cursor, records)

    async def _write(self, cursor: Cursor, records: Records[bytes]) -> None:
        before = cursor.offset
        wanted = records[: int(min(len(records), self._left))]
        if wanted:
            await self._call.out.write(b"".join(map(self._render, wanted)))
            self._left -= len(wanted)
        if len(wanted) == len(records):
            cursor.offset = records.next_offset
        elif wanted:
            cursor.offset = wanted[-1].offset + 1
        if self._group is not None and cursor.offset != before:
            await self._group.commit(self._topic.name, {cursor.partition: cursor.offset})

    async def _cursors(self) -> list[Cursor]:
        options = self._call.options
        described = await self._call.client.describe_topic(self._topic.name)
        chosen = self._chosen(described.partitions)
        committed = await self._group.offsets(self._topic.name) if self._group is not None else {}
        cursors = []
        for each in chosen:
            offset = committed.get(each.partition)
            start = await self._start(each, options.start) if offset is None else offset
            cursors.append(Cursor(each.partition, start, inf if options.follow else each.end))
        return cursors

    def _chosen(self, partitions: tuple[PartitionDescription, ...]) -> Iterable[PartitionDescription]:
        options = self._call.options
        if options.partition is None:
            if isinstance(options.start, int) and len(partitions) > 1:
                raise Usage(f"an offset counts in one partition: add --partition 0 ... {len(partitions) - 1}")
            return partitions
        if options.partition >= len(partitions):
            raise Invalid(
                f"{self._topic.name} has no partition {options.partition}",
                hint=f"type --partition with a number from 0 to {len(partitions) - 1}",
            )
        return [partitions[options.partition]]

    async def _start(self, partition: PartitionDescription, start: Place) -> int:
        if isinstance(start, datetime):
            return await self._topic.offset(partition.partition, start)
        if isinstance(start, int):
            return start
        return partition.start if start == "earliest" else partition.end


def condition(text: str) -> tuple[str, str]:
    """The argparse type of `--where`: what is looked at, and the pattern."""
    name, equals, pattern = utf8(text).partition("=")
    if not equals or not (name == KEY or name.startswith(HEADER)):
        raise ArgumentTypeError(f"{text!r} is no condition: write it like key=eu.* or header:type=order*")
    return name, pattern


def _where(conditions: Sequence[tuple[str, str]]) -> Where | None:
    headers = {name.removeprefix(HEADER): pattern for name, pattern in conditions if name != KEY}
    keys = [pattern for name, pattern in conditions if name == KEY]
    if len(keys) + len(headers) < len(conditions) or len(keys) > 1:
        raise Usage("--where takes one condition on the key, and one on each header")
    where = Where(headers=headers)
    for key in keys:
        where["key"] = key
    return where if conditions else None


async def _fetch(call: Call) -> None:
    async with call.out.while_read():
        await Fetching(call).run()


FETCH_HELP = """\
Without --partition it reads all partitions, one behind the other. With --group it goes on where the group
stands (--from counts only where the group never committed) and commits after each write.
"""

TOPIC = argument("topic", metavar="TOPIC", type=utf8)

COMMANDS = (
    Command(
        "produce",
        "TOPIC [VALUE ...]",
        "Append records to a topic: each VALUE, each --file, or else each line of stdin.",
        _produce,
        (
            TOPIC,
            argument("values", metavar="VALUE", nargs="*", default=[]),
            argument("--key", metavar="KEY", help="key of every record: the same key, the same partition"),
            argument(
                "-K",
                "--key-delimiter",
                metavar="TEXT",
                type=key_delimiter,
                help="split each value into key and value at the first TEXT",
            ),
            argument("--partition", metavar="P", type=count, help="instead of one chosen by the key"),
            argument(
                "--expected-offset",
                metavar="N",
                type=count,
                help="refuse it all unless the first record gets offset N of its partition",
            ),
            argument(
                "--compression",
                metavar="NAME",
                choices=tuple(CODECS),
                help="compress the values, batch by batch: lz4 (fast) or zstd (small)",
            ),
            *publish.ARGUMENTS,
        ),
    ),
    Command(
        "fetch",
        "TOPIC",
        "Print the records of a topic, up to its end or for ever.",
        _fetch,
        (
            TOPIC,
            argument("--partition", metavar="P", type=count, help="this partition alone"),
            argument(
                "--from",
                metavar="PLACE",
                dest="start",
                type=place,
                default="earliest",
                help="earliest, latest, an offset, or how long ago, like -1h (earliest)",
            ),
            argument("-n", "--number", metavar="N", type=at_most, help="stop after N records"),
            argument("--follow", action="store_true", help="wait for more at the end, for ever"),
            argument(
                "--where",
                metavar="CONDITION",
                type=condition,
                action="append",
                default=[],
                help="only records that fit: key=PATTERN or header:NAME=PATTERN, * for any text;"
                " several have to hold together",
            ),
            argument(
                "--group", metavar="GROUP", type=utf8, help="a consumer group whose offsets to use and commit"
            ),
            argument(
                "--format",
                metavar="TEXT",
                type=rendering,
                default=r"%p %o %k %v\n",
                help=f"how to print one ({FORMATS})".replace("%", "%%"),
            ),
        ),
        FETCH_HELP,
        endless=True,
    ),
)
