"""`penstock repair DATA`: cut what is named, and nothing else; say what was lost by it.

    --block journal-…:AT         rotten blocks that forbid a start: a start passes over them then
    --range jobs:10-19           damaged messages: settled as purged
    --range orders/0:10-19       damaged records: their offsets are a hole then
    --checkpoint checkpoint-1    a checkpoint that is in the way: renamed

Nothing is done before it was tried in memory, and nothing without `--yes` or somebody who agrees. What is
cut is kept beside the rest in a file named `cut-…`, which a broker leaves alone.
"""

from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

from penstock_broker.clock import Clock, SystemClock
from penstock_broker.storage import checkpoint
from penstock_broker.storage.files import Copy, Files, Rename, Step
from penstock_broker.storage.os_files import OsFiles
from penstock_broker.tools import walk
from penstock_broker.tools.command import Failed, Parser, Usage, agreed, offsets, run, say, say_json
from penstock_broker.tools.cuts import Patched, cut_of, find_place
from penstock_broker.tools.details import Values
from penstock_broker.tools.directory import Directory
from penstock_broker.tools.doctor import Case, study
from penstock_broker.tools.giving_up import Given, give_up, given_up
from penstock_broker.tools.names import whole_slots

EPILOG = """\
`penstock doctor DATA` says what is damaged and what to type here. Before that: penstock backup DATA DEST

Exit codes: 0 done, 1 failed, 2 typed wrong."""


class Plan(NamedTuple):
    """What is going to happen, in lines; what is kept aside; how it is done."""

    lines: list[str]
    aside: str
    do: Callable[[], object]


class Range(NamedTuple):
    """Offsets of a log, as typed."""

    log: str
    first: int
    last: int


def command(argv: Sequence[str]) -> int:
    """`penstock repair …`; the exit code."""
    parser = Parser("repair", "DATA", "Cut what is damaged, by name.", epilog=EPILOG)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--block", metavar="FILE:AT", type=block, help="a rotten place of the journal")
    what.add_argument(
        "--range", metavar="LOG:FIRST-LAST", type=offset_range, help="damaged messages or records"
    )
    what.add_argument("--checkpoint", metavar="NAME", choices=checkpoint.SLOTS, help="rename a checkpoint")
    parser.add_argument("--yes", action="store_true", help="do it without asking")
    return run(parser, argv, _repair)


def block(text: str) -> tuple[str, int]:
    """`journal-000000000001:4096`: a file and a byte of it."""
    name, _, at = text.rpartition(":")
    if not name or not at.isdigit():
        raise ArgumentTypeError(f"{text!r} is no place: write it like journal-000000000001:4096")
    return name, int(at)


def offset_range(text: str) -> Range:
    """`jobs:10-19` or `orders/0:10-19`."""
    log, _, numbers = text.rpartition(":")
    first, _, last = numbers.partition("-")
    if not log or not first.isdigit() or not (last or first).isdigit() or int(last or first) < int(first):
        raise ArgumentTypeError(f"{text!r} is no range: write it like jobs:10-19 or orders/0:10-19")
    return Range(log, int(first), int(last or first))


def _repair(directory: Directory, options: Namespace) -> int:
    with closing(OsFiles(directory.path)) as files:
        files.lock()
        plan = plan_for(files, options)
        agreed("\n".join(plan.lines), yes=options.yes)
        plan.do()
    done: Values = {"is": "repaired", "plan": plan.lines, "aside": plan.aside}
    if options.json:
        say_json(done)
    else:
        say(f"done; what was cut is kept in {directory.path / plan.aside}")
        say(f"next: penstock doctor {directory.path}")
    return 0


def plan_for(files: Files, options: Namespace) -> Plan:
    """What was asked for, tried in memory. Raises `Failed` if it is not to be done."""
    if options.block is not None:
        return plan_block(files, *options.block)
    if options.range is not None:
        return plan_range(files, options.range, SystemClock())
    if options.checkpoint is None:
        raise Usage("name what to cut")
    return plan_checkpoint(files, options.checkpoint)


def aside_name(files: Files, what: str) -> str:
    """A name for what is cut that is not taken."""
    taken = files.names()
    names = (f"cut-{what}{f'-{number}' if number else ''}" for number in range(len(taken) + 1))
    return next(name for name in names if name not in taken)


# Blocks


def plan_block(files: Files, name: str, at: int) -> Plan:
    """Blocks of the journal that are rotten."""
    case = study(files)
    place = find_place(case, name, at)
    cut = cut_of(case, place)
    after = study(Patched(files, cut.writes))
    header = cut.header
    blocks = "1 block" if header.entries == 1 else f"{header.entries} blocks"
    aside = aside_name(files, f"{name}-{at}")
    lines = [
        f"cut {blocks} from byte {at} of {name} on, {cut.length:,} bytes, sequence {header.sequence}",
        f"  can still be told of it: {', '.join(place.told) or 'nothing'}",
        "  the rest is not known: what was settled there may be delivered again; a log to which nothing was",
        "  appended behind it may lack its last messages, and gives their offsets to others",
        *_after(case, after),
    ]

    def do() -> None:
        data, _ = walk.read_whole(files, name, files.names()[name])
        files.run(Copy(aside, (Step(0, (bytes(data[at : at + cut.length]),)),)))
        for where, piece in cut.writes[name]:
            files.run(Copy(name, (Step(where, (piece,)),)))

    return Plan(lines, aside, do)


def _after(before: Case, after: Case) -> list[str]:
    """What a start would find then."""
    known = before.registry.corrupt if before.report is not None else set()
    corrupt = sorted(after.names.label(uuid) for uuid in after.registry.corrupt - known)
    lines = [f"  corrupt by it, answering Corrupt from then on: {', '.join(corrupt) or 'none'}"]
    if after.report is None:
        lines.append(f"  a start is refused still: {after.refused}")
    else:
        lines.append("  a start serves everything else")
    return lines


# Checkpoints


def plan_checkpoint(files: Files, name: str) -> Plan:
    """A checkpoint by name."""
    if name not in files.names():
        raise Failed(f"there is no {name}: there are {', '.join(sorted(files.names()))}")
    before, after = study(files), study(Patched(files, {}, [name]))
    if after.report is None:
        raise Failed(f"without {name} a start is refused: {after.refused}")
    found = {slot.name: slot for slot in whole_slots(files)}
    what = f"generation {found[name].generation}" if name in found else "damaged"
    aside = aside_name(files, name)
    lines = [
        f"rename {name} ({what}) to {aside}",
        f"  a start replays {after.report.entries:,} entries instead",
        *_after(before, after),
    ]
    return Plan(lines, aside, lambda: files.run(Rename(name, aside)))


# Ranges


def plan_range(files: Files, typed: Range, clock: Clock) -> Plan:
    """Messages or records that cannot be read."""
    given: Given = given_up(study(files), typed.log, typed.first, typed.last)
    aside = aside_name(files, f"{typed.log.replace('/', '-')}-{typed.first}-{typed.last}")
    many = f"{given.messages:,} {given.noun if given.messages == 1 else f'{given.noun}s'}"
    lines = [
        f"give up {many} of {given.label}: {', '.join(offsets(first, n) for first, n in given.runs)}",
        *(f"  {each.name} at byte {each.at}: {each.why}" for each in given.damages),
        f"  {given.becomes}",
    ]

    def do() -> None:
        pieces = [bytes(walk.readable(files, each.name, each.at, each.length)) for each in given.damages]
        files.run(Copy(aside, (Step(0, tuple(pieces)),)))
        give_up(files, given, clock)

    return Plan(lines, aside, do)
