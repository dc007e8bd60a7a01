"""What no partition of a topic and no consumer group may show. Each rule yields what it saw."""

from collections import defaultdict
from collections.abc import Iterator

from tests.sim.evidence import Group, Log, peak_before
from tests.sim.history import NEVER, Op
from tests.sim.stream_rules import fits


def lost_write(log: Log) -> Iterator[str]:
    """Confirmed, and missing below something that was read."""
    for value, offset, passed in unread(log):
        if passed:
            yield f"{value} at {offset} was passed by every reader"


def unseen(log: Log) -> Iterator[str]:
    """Confirmed, and missing at the end."""
    for value, offset, passed in unread(log):
        if not passed:
            yield f"{value} at {offset} was never read"


def unread(log: Log) -> Iterator[tuple[str, int, bool]]:
    """Confirmed values of a drained log that nobody read, and whether something behind them was."""
    read = {value for _, value in log.seen}
    highest = max((offset for offset, _ in log.seen), default=-1)
    for value, offset in log.confirmed.items():
        if log.drained and value not in read and offset >= log.start:
            yield value, offset, offset < highest


def nonmonotonic_poll(log: Log) -> Iterator[str]:
    """A reader was sent back."""
    for process, expected, offset in reads(log):
        if offset < expected:
            yield f"{process} got {offset} where {expected} comes next"


def poll_skip(log: Log) -> Iterator[str]:
    """A reader was sent too far ahead."""
    for process, expected, offset in reads(log):
        if offset > expected:
            yield f"{process} got {offset} where {expected} comes next"


def reads(log: Log) -> Iterator[tuple[str, int, int]]:
    """(process, offset that comes next, offset that came) of everything read."""
    reached: dict[tuple[str, str, int], int] = {}
    for op in [*log.ops["fetch"], *log.ops["poll"]]:
        offsets = [offset for offset, _ in op.answer.get("records", ())]
        if not offsets:
            continue
        who = (op.process, op.asked.get("group", ""), op.asked.get("assignment", 0))
        expected = op.asked["offset"] if op.f == "fetch" else reached.get(who, offsets[0])
        for offset in offsets:
            yield op.process, expected, offset
            expected = offset + 1
        reached[who] = expected


def withheld(log: Log) -> Iterator[str]:
    """A fetch from below the end got nothing; with a filter, not even where to go on."""
    for op in log.ops["fetch"]:
        if op.ok and not op.answer["records"] and op.asked["offset"] < log.end_known(op.start):
            yield f"{op.process} got nothing from {op.asked['offset']} on"
    for op in log.ops["select"]:
        if op.ok and op.answer["next"] <= op.asked["offset"] < log.end_known(op.start):
            yield f"{op.process} was not sent on from {op.asked['offset']}"


def end_moved_back(log: Log) -> Iterator[str]:
    """An end below what somebody knew before."""
    for op in (op for f in ("fetch", "poll", "select", "end") for op in log.ops[f]):
        if "end" in op.answer and op.answer["end"] < log.end_known(op.start):
            yield f"{op.process} was told {op.answer['end']} after {log.end_known(op.start):g}"


# of groups


def stale_offset(group: Group) -> Iterator[str]:
    """A committed offset that was replaced before, or that nobody committed."""
    for read in misread(group):
        if read.answer["offset"]:
            yield f"{read.process} was told {read.answer['offset']}"


def zero_offset(group: Group) -> Iterator[str]:
    """No offset, or 0, though one was committed."""
    for read in misread(group):
        if not read.answer["offset"]:
            yield f"{read.process} was told {read.answer['offset']}"


def misread(group: Group) -> Iterator[Op]:
    """Reads of an offset that cannot have been the committed one. What was read once has replaced what
    was committed before it, whether its commit was confirmed or not."""
    commits: dict[int | None, list[Op]] = defaultdict(list)
    for op in group.commits:
        if op.possible:
            commits[op.asked["offset"]].append(op)
    told = [op for op in group.reads if op.ok and commits[op.answer["offset"]]]
    replaced = peak_before(
        [(op.end, op.start) for op in group.commits if op.ok]
        + [(read.end, min(op.start for op in commits[read.answer["offset"]])) for read in told]
    )
    for read in (op for op in group.reads if op.ok):
        since, offset = replaced(read.start), read.answer["offset"]
        known = any(op.start <= read.end and op.end >= since for op in commits[offset])
        if not known and (offset is not None or since > -NEVER):
            yield read


def over_end_offset(group: Group) -> Iterator[str]:
    """An offset beyond the end was accepted or told."""
    told = [op.asked["offset"] for op in group.commits if op.ok]
    told += [op.answer["offset"] or 0 for op in group.reads if op.ok]
    for offset in told:
        if offset > group.log.end_possible:
            yield f"{offset}; the end is at most {group.log.end_possible:g}"


def fenced_commit_accepted(group: Group) -> Iterator[str]:
    """A commit of an old generation was accepted."""
    newest = peak_before((op.end, op.answer["generation"]) for op in group.joins if op.ok)
    for op in group.commits:
        generation = op.asked.get("generation", 0)
        if op.ok and 0 < generation < newest(op.start):
            yield f"generation {generation} after {newest(op.start):g}"


def passed_over(group: Group) -> Iterator[str]:
    """Members committed an offset, and none of them ever read a record before it that they ask for."""
    if not group.polls:
        return
    read = {offset for op in group.polls for offset, _ in op.answer.get("records", ())}
    reached = max((op.asked["offset"] for op in group.commits if op.ok), default=0)
    where = group.polls[0].asked.get("where", {})
    for value, offset in group.log.confirmed.items():
        wanted = fits(where, group.log.attempted[value].traits)
        if group.log.start <= offset < reached and offset not in read and wanted:
            yield f"{value} at {offset}; {reached} is committed"
