"""`penstock doctor DATA`: is this directory whole, what is damaged, what does that mean, what to type next.

It takes the lock, reads every byte that counts, runs the recovery that a start would run, in memory, and
writes nothing.
"""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from penstock_broker.queues.leases import Tokens
from penstock_broker.registry import Registry
from penstock_broker.storage import checkpoint, recovery
from penstock_broker.storage.files import PAGE_BYTES, Readable, StorageError
from penstock_broker.storage.recovery import Report
from penstock_broker.tools import logs, walk
from penstock_broker.tools.command import RANDOM, Parser, offsets, run, say, say_json
from penstock_broker.tools.details import Values
from penstock_broker.tools.directory import Directory, is_known
from penstock_broker.tools.findings import NOTHING, Finding, finding, remark
from penstock_broker.tools.names import Names, whole_slots
from penstock_broker.tools.records import BAD_BATCH, snapshot
from penstock_broker.tools.survey import BadPlace, Survey, survey

EPILOG = """\
It takes the lock, so stop the broker first, or look at a backup. It changes nothing.

Exit codes: 0 healthy, 1 there are findings, or it failed, 2 typed wrong."""
DISK = "the disk loses bytes: look at its health, and make a backup: penstock backup DATA DEST"
RESTORE = "restore a backup of the directory"


class Case(NamedTuple):
    """What is known of a directory. `report`: of a recovery in memory; None: `refused` says why not."""

    files: Readable
    names: Names
    survey: Survey
    slots: list[checkpoint.Slot]
    registry: Registry
    report: Report | None
    refused: str

    @property
    def durable(self) -> int:
        """The largest W that a block or a checkpoint names."""
        return max([self.survey.durable, *(slot.newest for slot in self.slots)])


def command(argv: Sequence[str]) -> int:
    """`penstock doctor …`; the exit code."""
    return run(Parser("doctor", "DATA", "Check a data directory.", epilog=EPILOG), argv, _doctor)


def _doctor(directory: Directory, options: Namespace) -> int:
    directory.lock()
    case = study(directory)
    found = list(examine(case))
    ill = sum(each.damage for each in found)
    if options.json:
        for each in found:
            say_json(each.as_json())
        say_json({"is": "summary", "healthy": not ill, "findings": ill} | summary(case))
    else:
        for each in found:
            say(each.as_text(str(options.data)))
        facts = [f"{value:,} {key.replace('_', ' ')}" for key, value in summary(case).items()]
        say(f"{options.data}: {', '.join(facts)}")
        say(f"{ill} {'finding' if ill == 1 else 'findings'}" if ill else "healthy")
    return 1 if ill else 0


def study(files: Readable) -> Case:
    """Look at everything, and recover in memory. Raises `StorageError` for a newer format."""
    names = Names().learn(files)
    surveyed = survey(files, names)
    registry = Registry(Tokens(), RANDOM)
    report, refused = None, ""
    try:
        report = recovery.recover(files, registry)
    except (StorageError, OSError) as error:
        refused = str(error)
    return Case(files, names, surveyed, whole_slots(files), registry, report, refused)


def examine(case: Case) -> Iterator[Finding]:
    """Everything there is to say, what forbids a start first."""
    if case.report is None:
        yield _refusal(case)
    yield from _checkpoints(case)
    yield from _journal(case)
    if case.report is not None:
        yield from _machines(case)
        yield from logs.check(case.files, case.registry, case.survey, case.report, case.names)
    yield from _strangers(case.files)


def summary(case: Case) -> Values:
    """Sizes and counts."""
    sizes = case.files.names()
    registry = case.registry
    values: Values = {
        "files": sum(map(is_known, sizes)),
        "bytes": sum(size for name, size in sizes.items() if is_known(name)),
    }
    if case.report is None:
        return values
    return values | {
        "entries_to_replay": case.report.entries,
        "queues": len(registry.queues),
        "messages": sum(queue.messages for queue in registry.lanes()),
        "topics": len(registry.topics),
        "records": sum(p.log.end - p.log.start for t in registry.topics.values() for p in t.partitions),
        "groups": len(registry.groups),
    }


# What forbids a start


def _refusal(case: Case) -> Finding:
    rotten = [place for place in case.survey.places if verdict(case, place) == "rotten"]
    cut = f"{RESTORE}, or cut what is damaged: penstock repair DATA --block {{}}:{{}}"
    do = cut.format(rotten[0].name, rotten[0].at) if rotten else RESTORE
    return finding("the directory", case.refused, "nothing can be served", "is refused", do)


# Checkpoints


def _checkpoints(case: Case) -> Iterator[Finding]:
    whole = {slot.name: slot for slot in case.slots}
    for name in checkpoint.SLOTS:
        if name in case.files.names() and name not in whole:
            yield _bad_slot(case, name)
    for number, slot in enumerate(case.slots):
        others = [other for other in case.slots if other is not slot]
        for row in slot.rows.values():
            if snapshot(case.files, slot, row) is None:
                yield _bad_snapshot(case, slot, row, others, newest=not number)


def _bad_slot(case: Case, name: str) -> Finding:
    page, unreadable = walk.read_whole(case.files, name, min(PAGE_BYTES, case.files.names()[name]))
    if not unreadable and not any(page):
        return remark(
            name,
            "it was being written when the broker ended",
            "it counts for nothing",
            "takes the other one" if case.slots else "replays the journal from its beginning",
        )
    means = "the other checkpoint is whole: nothing is lost" if case.slots else "there is no checkpoint"
    start = "takes the other one and replays more" if case.report is not None else "is refused"
    return finding(name, "its header or directory is damaged", means, start, DISK)


def _bad_snapshot(
    case: Case, slot: checkpoint.Slot, row: checkpoint.Row, others: list[checkpoint.Slot], *, newest: bool
) -> Finding:
    who = case.names.label(row.uuid)
    where = f"{slot.name} at byte {row.at}"
    what = f"the snapshot of {who} is damaged"
    kept = [other for other in others if row.uuid in other.rows]
    if any(snapshot(case.files, other, other.rows[row.uuid]) is not None for other in kept):
        start = "takes the other one and replays more" if newest else "takes the other one"
        return finding(where, what, "the other checkpoint has a whole one: nothing is lost", start, DISK)
    if newest and others and not kept:
        return finding(where, what, f"the journal holds all of {who}", "replays it", DISK)
    means = f"what {who} holds cannot be told: it answers Corrupt"
    return finding(where, what, means, "serves everything else", f"{RESTORE}, or delete {who} when it is up")


# Journal


def _journal(case: Case) -> Iterator[Finding]:
    report = case.report
    counting = {file.name for file in report.files} if report is not None else None
    for file in case.survey.files:
        if file.bad is not None and (counting is None or file.name in counting):
            yield finding(file.name, file.bad, "nothing: every block repeats it", "goes on", DISK)
    for place in case.survey.places:
        yield from _bad_place(case, place)
    for body in case.survey.bodies:
        if _counts(case, body.name, body.block) and not logs.is_needed(case.registry, body):
            where = f"{body.name} at byte {body.at}"
            what = f"{case.names.label(body.log)} {offsets(body.first, body.messages)}"
            yield remark(where, BAD_BATCH, f"nothing: {what} is not needed there", "goes on", DISK)
    if report is not None and report.torn is not None:
        yield remark(
            "the end of the journal",
            f"torn: {report.torn}",
            "what a crash left of a write that nobody was told of; rot in the last write looks the same",
            "cuts it",
        )


def _bad_place(case: Case, place: BadPlace) -> Iterator[Finding]:
    where = f"{place.name} at byte {place.at}"
    sort = verdict(case, place)
    if sort == "reflected":
        yield finding(where, place.why, "nothing: the checkpoints reflect it", "passes over it", DISK)
    elif sort == "rotten":
        means = f"{place.length:,} bytes of confirmed changes are lost"
        says = f"; it can still be told: {', '.join(place.told)}" if place.told else ""
        cut = f"penstock repair DATA --block {place.name}:{place.at}"
        yield finding(where, place.why, means + says, "is refused", f"{RESTORE}, or cut it: {cut}")
    elif sort == "torn" and place.told:
        yield remark(where, place.why, f"torn off: {', '.join(place.told)}", "cuts it")


def verdict(case: Case, place: BadPlace) -> str:
    """What a bad place is: of no account, reflected, torn or rotten."""
    if case.report is not None:
        if _counts(case, place.name, place.at):
            return "reflected"
        files = {file.name for file in case.report.files}
        return "torn" if place.name in files else "of no account"
    position = place.position
    if position is None:
        before, after = case.survey.neighbours(place)
        lost = before is not None and after is not None and before.behind < after.sequence
        return "rotten" if lost else "of no account"
    if position >= case.durable:
        return "torn"
    start = _replay_from(case)
    behind = position + place.length if place.walked else case.survey.end(place.name)
    return "reflected" if behind <= start else "rotten"


def _counts(case: Case, name: str, at: int) -> bool:
    """Recovery takes that part of the file for a part of the journal. Where the next file is gone, for all of
    this one was reflected, the last whole block is its end."""
    if case.report is None:
        return False
    for file, used in zip(case.report.files, case.report.used, strict=True):
        if file.name == name:
            behind = PAGE_BYTES + case.survey.end(name) - file.start
            return at < (used if used <= file.size else behind)
    return False


def _replay_from(case: Case) -> int:
    return min((slot.oldest for slot in case.slots), default=0)


# The rest


def _machines(case: Case) -> Iterator[Finding]:
    for uuid in sorted(case.registry.corrupt):
        see = f"penstock dump DATA --log {case.names.address(uuid)} --bodies"
        yield finding(
            case.names.label(uuid),
            "it is corrupt",
            "its snapshots are damaged, or changes of it were lost: every request to it answers Corrupt",
            "serves everything else",
            f"see what is left: {see}; then delete it when the broker is up",
        )


def _strangers(files: Readable) -> Iterator[Finding]:
    for name, size in sorted(files.names().items()):
        if not is_known(name):
            yield remark(name, f"not a file of the broker, {size:,} bytes", "it is left alone", do=NOTHING)
