"""`penstock dump DATA`: what stands in the files of a data directory, as text or as JSON lines.

It takes no lock and changes nothing. Damage is shown as such and goes on behind.
"""

import json
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from penstock_broker.storage import blocks, checkpoint, segment
from penstock_broker.storage.files import Readable
from penstock_broker.tools import records
from penstock_broker.tools.command import Failed, Parser, Usage, instant, note, offsets, run, say, say_json
from penstock_broker.tools.details import KIND_NAMES, Values
from penstock_broker.tools.directory import Directory, is_known
from penstock_broker.tools.names import Names
from penstock_broker.tools.survey import survey

EPILOG = """\
examples:
  penstock dump DATA | less                        everything
  penstock dump DATA --file 'journal-*' --kind SETTLE
  penstock dump DATA --log jobs --offsets 10-19 --bodies
  penstock dump DATA --log orders/0 --json

Exit codes: 0 done, 1 failed, 2 typed wrong."""
HELD_BACK = ("file", "block", "empty", "between")
"""Records that a filter leaves out unless something it wants follows them."""


class Wanted(NamedTuple):
    """What to show; empty or None: all of it."""

    files: Sequence[str] = ()
    kinds: Sequence[str] = ()
    log: str | None = None
    offsets: tuple[int, int] | None = None
    """First and last."""
    bodies: bool = False

    @property
    def filters(self) -> bool:
        """It leaves something out of a file."""
        return bool(self.kinds or self.log is not None)


def command(argv: Sequence[str]) -> int:
    """`penstock dump …`; the exit code."""
    parser = Parser("dump", "DATA", "Print journal, checkpoints and segments as text.", epilog=EPILOG)
    add = parser.add_argument
    add("--file", metavar="PATTERN", action="append", default=[], help="only such files, like 'journal-*'")
    add(
        "--kind",
        metavar="KIND",
        action="append",
        default=[],
        type=kind,
        help="only such parts, like SETTLE",
    )
    add("--log", metavar="NAME", help="only a queue (jobs), partition (orders/0), topic (orders/) or uuid")
    add("--offsets", metavar="FIRST-LAST", type=offset_range, help="only these offsets of --log")
    add("--bodies", action="store_true", help="messages, too: key, headers, body")
    return run(parser, argv, _dump)


def kind(text: str) -> str:
    """The name of a kind of part."""
    if text.upper() not in KIND_NAMES.values():
        raise ArgumentTypeError(f"{text!r} is no kind: known are {', '.join(KIND_NAMES.values())}")
    return text.upper()


def offset_range(text: str) -> tuple[int, int]:
    """`10-19` or `10`: first and last offset."""
    first, _, last = text.partition("-")
    if not first.isdigit() or not (last or first).isdigit() or int(last or first) < int(first):
        raise ArgumentTypeError(f"{text!r} is no range of offsets: write it like 10-19")
    return int(first), int(last or first)


def _dump(directory: Directory, options: Namespace) -> int:
    if options.offsets is not None and options.log is None:
        raise Usage("--offsets are those of a log: add --log NAME")
    process = directory.in_use()
    if process is not None:
        note(f"penstock: process {process} serves {directory.path} at this moment: the newest may look torn")
    wanted = Wanted(options.file, options.kind, options.log, options.offsets, options.bodies)
    show = say_json if options.json else _say_text
    for record in chosen(directory, wanted):
        show(record)
    return 0


def chosen(files: Readable, wanted: Wanted) -> Iterator[Values]:
    """The records that are wanted, file by file: checkpoints, journal, segments. Raises `Failed` if no file
    has a name like that."""
    names = Names().learn(files)
    if wanted.files:
        survey(files, names)
    patterns = wanted.files or ["*"]
    order = [*checkpoint.SLOTS, *_sorted(files, blocks.PREFIX), *_sorted(files, segment.PREFIX)]
    found = [name for name in order if any(fnmatchcase(name, each) for each in patterns)]
    found = [name for name in found if name in files.names()]
    if not found:
        known = ", ".join(sorted(filter(is_known, files.names()))[:3])
        raise Failed(f"no file is named like {' or '.join(patterns)}; there are {known} …")
    for name in found:
        every = records.all_records(files, name, names, bodies=wanted.bodies)
        yield from filtered(every, names, wanted) if wanted.filters else every


def _sorted(files: Readable, prefix: str) -> list[str]:
    return sorted(name for name in files.names() if name.startswith(prefix))


def filtered(every: Iterable[Values], names: Names, wanted: Wanted) -> Iterator[Values]:
    """Damage, what fits, and what it lies in."""
    held: dict[str, Values] = {}
    for record in every:
        sort = record["is"]
        if sort in HELD_BACK and not ("log" in record and _fits(record, names, wanted)):
            held = {} if sort == "file" else {"file": held["file"]} if "file" in held else {}
            held[sort] = record
        elif sort == "damage" or _fits(record, names, wanted):
            yield from held.values()
            held = {}
            yield record


def _fits(record: Values, names: Names, wanted: Wanted) -> bool:
    if wanted.kinds and record["is"] != "message" and record.get("kind") not in wanted.kinds:
        return False
    if wanted.log is None:
        return True
    if not names.is_meant(bytes.fromhex(record["log"]), wanted.log.rstrip("/")):
        return False
    if wanted.offsets is None:
        return True
    low, high = wanted.offsets
    return any(first <= high and last >= low for first, last in _ranges(record))


def _ranges(record: Values) -> list[list[int]]:
    """First and last offset of every range that the record speaks of."""
    if "ranges" in record:
        ranges: list[list[int]] = record["ranges"]
        return ranges
    for rows in ("returns", "notes"):
        if rows in record:
            return [[row["first"], row["first"] + row["messages"] - 1] for row in record[rows]]
    if "offset" in record:
        return [[record["offset"], record["offset"]]]
    return [[record["first"], record["first"] + record["messages"] - 1]] if "first" in record else []


# Text


def _say_text(record: Values) -> None:
    say(as_text(record))


def as_text(record: Values) -> str:
    """One record as a line; a file begins with an empty one."""
    return TEXTS[record["is"]](record)


def _file(record: Values) -> str:
    more = [f"{key} {value:,}" if type(value) is int else f"{key} {value}" for key, value in _rest(record)]
    return f"\n{record['file']}  {record['size']:,} bytes  " + "  ".join(more)


def _block(record: Values) -> str:
    if "log" in record:
        what = f"block of {record['of']}  {offsets(record['first'], record['messages'])}"
        return f"{record['at']:>12}  {what}  {record['batches']} batches  {record['length']:,} bytes"
    place = f"boot {record['boot']}  position {record['position']}  W {record['durable']}"
    size = f"{record['entries']} entries  {record['length']:,} bytes"
    return f"{record['at']:>12}  block {record['sequence']}  {place}  {instant(record['time'])}  {size}"


def _part(record: Values) -> str:
    where = offsets(record["first"], record["messages"]) if record["messages"] else ""
    line = f"{record['at']:>12}    {record['kind']:<10} {record['of']:<24} {where:<16} {_more(record)}"
    return line.rstrip()


def _batch(record: Values) -> str:
    where = offsets(record["first"], record["messages"])
    stamps = f"{instant(record['time'])}  {record['length']:,} bytes"
    return f"{record['at']:>12}    {where:<16} {stamps}  {_more(record)}".rstrip()


def _message(record: Values) -> str:
    return f"{'':>12}      {record['offset']:<10} {_more(record)}"


def _snapshot(record: Values) -> str:
    size = f"{record['length']:,} bytes"
    line = f"{record['at']:>12}  {record['of']:<24} as of {record['as_of']:<12} {size:<16} {_more(record)}"
    return line.rstrip()


def _empty(record: Values) -> str:
    return f"{record['at']:>12}  empty  {record['length']:,} bytes"


def _between(record: Values) -> str:
    return f"{record['at']:>12}  no block  {record['length']:,} bytes: an index, or left over"


def _damage(record: Values) -> str:
    return f"{record['at']:>12}  DAMAGED  {record['length']:,} bytes: {record['why']}"


TEXTS: dict[str, Callable[[Values], str]] = {
    "file": _file,
    "block": _block,
    "part": _part,
    "batch": _batch,
    "message": _message,
    "snapshot": _snapshot,
    "empty": _empty,
    "between": _between,
    "damage": _damage,
}
SHOWN = {
    *("is", "file", "sort", "size", "at", "length", "position", "time", "kind", "of", "log", "machine"),
    *("first", "messages", "offset", "as_of"),
}
"""What the lines above show by themselves."""


def _rest(record: Values) -> Iterator[tuple[str, object]]:
    return ((key, value) for key, value in record.items() if key not in SHOWN)


def _more(record: Values) -> str:
    return "  ".join(
        f"{key} {value if type(value) is int else json.dumps(value, ensure_ascii=False)}"
        for key, value in _rest(record)
    )
