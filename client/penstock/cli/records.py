"""`produce` and `fetch`: values in, values out."""

import os
import re
from argparse import ArgumentTypeError
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from math import inf
from typing import Any

from penstock.cli import publish
from penstock.cli.arguments import at_most, count, instant, number, place, unescaped, utf8
from penstock.cli.command import Call, Command, Usage, argument
from penstock.cli.output import bytes_as, formatter, json_line
from penstock.compression import CODECS
from penstock.errors import Invalid
from penstock.outgoing import Outgoing
from penstock.pacing import Rate
from penstock.record import Record
from penstock.span import Until
from penstock.topic import Topic
from penstock.topic_consumer import TopicConsumer, TopicConsumerOptions
from penstock.values import RecordMetadata
from penstock.where import Where
from penstock_protocol.where import HEADER, KEY

AT_ONCE = 5_000
"""Records to fetch at most before they are written."""

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
    topic = call.client.topic(options.topic, compression=options.compression, producer=options.producer)
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


class Fetching:
    """One `fetch`."""

    def __init__(self, call: Call) -> None:
        options = call.options
        self._call = call
        self._topic: Topic[bytes] = call.client.topic(options.topic)
        self._render: Render = (lambda each: json_line(as_json(each))) if call.out.json else options.format
        self._left: float = inf if options.number is None else options.number
        self._chosen = TopicConsumerOptions(
            start=options.start, where=_where(options.where), rate=options.rate, until=self._until()
        )

    async def run(self) -> None:
        """Read to the ends seen now, partition by partition; with `--follow`, `--rate` or `--group` all of
        them at once."""
        options = self._call.options
        if options.group is not None and options.partition is None:
            if isinstance(options.start, int):
                raise Usage("an offset counts in one partition: add --partition, or see penstock group reset")
            await self._read(self._topic.consumer(options.group, **self._chosen))
            return
        partitions = await self._partitions()
        at_once = options.follow or options.rate is not None or options.group is not None
        for some in [partitions] if at_once else [[partition] for partition in partitions]:
            chosen: TopicConsumerOptions = {**self._chosen, "partitions": some}
            await self._read(self._topic.consumer(options.group, **chosen))

    async def _read(self, reading: TopicConsumer[bytes]) -> None:
        async with reading as consumer:
            while self._left > 0 and (records := await consumer.take(int(min(AT_ONCE, self._left)))):
                await self._call.out.write(b"".join(map(self._render, records)))
                self._left -= len(records)
                if self._call.options.group is not None:
                    await consumer.commit()
            if self._call.options.group is not None:  # what did not fit, too
                await consumer.commit()

    async def _partitions(self) -> list[int]:
        options = self._call.options
        described = await self._call.client.describe_topic(self._topic.name)
        count = len(described.partitions)
        if options.partition is None:
            if count > 1 and (isinstance(options.start, int) or isinstance(options.until, int)):
                raise Usage(f"an offset counts in one partition: add --partition 0 ... {count - 1}")
            return list(range(count))
        if options.partition >= count:
            raise Invalid(
                f"{self._topic.name} has no partition {options.partition}",
                hint=f"type --partition with a number from 0 to {count - 1}",
            )
        return [options.partition]

    def _until(self) -> Until | dict[int, int] | None:
        options = self._call.options
        if isinstance(options.until, int):
            if options.group is not None and options.partition is None:
                raise Usage("an offset counts in one partition: add --partition")
            return {options.partition or 0: options.until}
        until: datetime | None = options.until
        if options.follow:
            if until is not None:
                raise Usage("--follow never ends: leave it out, or --until")
            return None
        return "now" if until is None else until


def bound(text: str) -> int | datetime:
    """The argparse type of `--until`."""
    return int(text) if re.fullmatch(r"\d{1,18}", text) else instant(text)


def rate(text: str) -> Rate:
    """The argparse type of `--rate`."""
    if text == "recorded":
        return "recorded"
    found = number(text)
    if not found:
        raise ArgumentTypeError(f"{text!r} is no rate: write it like 100, 0.5 or recorded")
    return found


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
Without --partition it reads all partitions, one behind the other. With --group it is a member of that group:
it reads the partitions it is given, goes on where the group stands (--from counts only where the group never
committed) and commits after each write. With --partition it reads that one for the group, which must not have
members then.
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
                "--producer",
                metavar="NAME",
                type=utf8,
                help="produce under that name: whoever did so before is refused from now on",
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
                help="earliest, latest, an offset, an instant, or how long ago, like -1h (earliest)",
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
            argument("--group", metavar="GROUP", type=utf8, help="a consumer group to read and commit for"),
            argument(
                "--until",
                metavar="PLACE",
                type=bound,
                help="stop there: an offset (with --partition), an instant, or how long ago, like -1h",
            ),
            argument(
                "--rate",
                metavar="N|recorded",
                type=rate,
                help="records a second, or with the pauses of their appends",
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
