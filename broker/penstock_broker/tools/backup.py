"""`penstock backup DATA DEST`: a consistent copy of a data directory, while a broker serves it or not.

    segments linked → journal files that are full → checkpoints → the journal's end E found, and the last file
    copied up to it → newer segments linked → recovered in memory → segments that are still open made copies

It takes no lock. What a start finds in the copy is what a crash of the source at E would have left, and E
lies behind everything that was confirmed before the backup began. What the broker frees meanwhile it freed
before E, so nothing at E needs it; a segment it drops keeps its name here. A segment that is never written
to again is linked, where the file system can; everything else is a file of the copy's own, so a second
broker can write the copy without touching the first.
"""

from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from penstock_broker.queues.leases import Tokens
from penstock_broker.registry import Registry
from penstock_broker.storage import checkpoint, recovery
from penstock_broker.storage.blocks import bad_body
from penstock_broker.storage.files import PAGE_BYTES, Readable, StorageError
from penstock_broker.storage.segment import segment_name, segment_number
from penstock_broker.tools import walk
from penstock_broker.tools.command import RANDOM, Failed, Parser, note, run, say, say_json
from penstock_broker.tools.directory import Destination, Directory
from penstock_broker.tools.doctor import examine, study, summary
from penstock_broker.tools.names import whole_slots
from penstock_broker.tools.records import snapshot

ATTEMPTS = 5
"""A broker that recycles its journal faster than it is copied, so many times over, is too busy."""


class Changed(Exception):
    """The source went on while it was copied: begin again."""


def command(argv: Sequence[str]) -> int:
    """`penstock backup …`; the exit code."""
    about = "Copy a data directory, while a broker serves it or not."
    parser = Parser("backup", "DATA DEST", about)
    parser.add_argument("dest", metavar="DEST", type=Path, help="a directory that is new or empty")
    return run(parser, argv, _backup)


def _backup(directory: Directory, options: Namespace) -> int:
    with closing(Destination(options.dest)) as destination:
        copy(directory, destination)
    with closing(Directory(options.dest)) as made:
        case = study(made)
        findings = [each for each in examine(case) if each.damage]
    if options.json:
        found = {"findings": [each.as_json() for each in findings]}
        say_json(
            {"is": "backup", "data": str(options.data), "dest": str(options.dest)} | summary(case) | found
        )
    if findings:
        raise Failed(
            f"{options.dest} is a copy of a damaged directory: {findings[0].where}: {findings[0].what}; "
            f"all of it: penstock doctor {options.dest}"
        )
    if not options.json:
        say(f"{options.dest} is whole, and can be served: penstock serve --data {options.dest}")
    return 0


def copy(source: Directory, destination: Destination) -> None:
    """Bring a consistent copy about. Raises `Failed` if the source goes on too fast, or cannot be read."""
    why: Exception | None = None
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _attempt(source, destination)
            return
        except (Changed, FileNotFoundError) as error:
            destination.clear()
            why = error
            note(f"penstock: attempt {attempt} of {ATTEMPTS}: the broker went on meanwhile: {error}")
        except BaseException:
            destination.clear()
            raise
    raise Failed(
        f"the broker goes on faster than it can be copied, {ATTEMPTS} times over ({why}): "
        "try again when it is less busy, or give it a larger storage.journal_budget_bytes"
    )


def _attempt(source: Directory, destination: Destination) -> None:
    linked = _link_segments(source, destination, set())
    copied: list[str] = []
    _copy_full_files(source, destination, copied)
    for name in _checkpoints(source):
        destination.copy(source, name, source.size(name))
    _copy_full_files(source, destination, copied)
    for name in _in_order(source)[-1:]:
        if name not in copied and not _copied(source, destination, name, _written(source, name)):
            raise Changed(f"{name} was recycled")
    _link_segments(source, destination, linked)
    destination.sync()
    with closing(Directory(destination.path)) as made:
        _settle_segments(made, destination, in_use=source.in_use() is not None)
    destination.sync()


def _in_order(source: Directory) -> list[str]:
    """Journal files with blocks, oldest first. The last one may be written to."""
    order = []
    for name in walk.journal_names(source):
        with suppress(FileNotFoundError):  # freed meanwhile
            first = walk.first_header(source, name)
            if first is not None:
                order.append((first.boot, first.sequence, name))
    return [name for _, _, name in sorted(order)]


def _copy_full_files(source: Directory, destination: Destination, copied: list[str]) -> None:
    """Copy the journal files that are not written to any more. One that is freed meanwhile is not needed, and
    none before it."""
    for name in _in_order(source)[:-1]:
        if name in copied:
            continue
        if _copied(source, destination, name, source.names().get(name, 0)):
            copied.append(name)
        else:
            for before in copied:
                destination.drop(before)
            copied.clear()


def _copied(source: Directory, destination: Destination, name: str, size: int) -> bool:
    """Copy a journal file; False, and no copy, if it is recycled or gone by then."""
    with suppress(FileNotFoundError):
        header = source.read(name, 0, PAGE_BYTES)
        destination.copy(source, name, size)
        if source.read(name, 0, PAGE_BYTES) == header:
            return True
    destination.drop(name)
    return False


def _checkpoints(source: Readable) -> list[str]:
    """Slots that are whole; if none is, all of them, for the doctor to look at."""
    whole = [
        slot.name
        for slot in whole_slots(source)
        if all(snapshot(source, slot, row) is not None for row in slot.rows.values())
    ]
    return whole or [name for name in checkpoint.SLOTS if name in source.names()]


def _link_segments(source: Directory, destination: Destination, linked: set[str]) -> set[str]:
    """Pin every segment there is: a name here keeps its bytes, whatever the broker drops."""
    names = {name for name in source.names() if segment_number(name) is not None} - linked
    for name in sorted(names):
        destination.link(source, name)
    return linked | names


def _written(source: Readable, name: str) -> int:
    """Bytes of the file up to the first page that is no whole block. Blocks are written in order: a bad one
    with whole ones behind it was written while the file was read, or is damaged, for the doctor to say."""
    before = -1
    while True:
        file, unreadable, data = walk.journal_file(source, name)
        for place in walk.places(file, unreadable, data):
            if place.block is not None and place.bad is None and bad_body(place.block) is None:
                continue
            behind = place.at + place.length < len(data)
            if not behind:
                return place.at
            if before == place.at:
                return len(data)
            before = place.at
            break
        else:
            return len(data)


def _settle_segments(made: Directory, destination: Destination, *, in_use: bool) -> None:
    """Leave the copy the segments that its journal speaks of; those that are still written to, as copies.
    Where nobody is at work, it is the doctor who says what does not fit."""
    registry = Registry(Tokens(), RANDOM)
    try:
        recovery.recover(made, registry)
    except StorageError as error:
        if in_use:
            raise Changed(str(error)) from None
        return
    node = registry.node
    here = {number for name in made.names() if (number := segment_number(name)) is not None}
    for number in here - node.segments.keys():
        destination.drop(segment_name(number))
    for number in here & node.segments.keys():
        if not node.segments[number].sealed:
            destination.part(segment_name(number), node.segments[number].size)
    gone = [number for number in registry.use.total() if number not in here]
    if gone and in_use:
        raise Changed(f"{segment_name(gone[0])} was dropped")
