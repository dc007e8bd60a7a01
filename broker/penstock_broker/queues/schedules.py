"""A schedule: a message that is enqueued again and again, by a cron line or at an interval.

When it runs next is an outcome: it stands in the CREATE, ALTER and FIRED that decided it, so a restart
neither forgets a run nor has it twice. Of runs that are due together, because the broker was down, all but
the newest were missed: they are made up for as `catch_up` says. One that comes while the message before is
not done is made or left out as `overlap` says; one that the queue refuses is left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from struct import Struct
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from penstock_broker.checks import Check, checked, choice, flag, integer, or_none
from penstock_broker.storage.entries import At, Kind, Part
from penstock_protocol.errors import Invalid
from penstock_protocol.limits import DELAY_MS_MAX, SCHEDULE_EVERY_MS_MIN

KIND = 6
"""In a checkpoint."""
SNAPSHOT = Struct("<QQqQ")  # next_at, runs, latest offset (-1: none), missed
FIRED = Struct("<QqQ")  # next_at, offset of what was enqueued (-1: nothing was), missed so far
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _text(what: str, most: int) -> Check:
    return Check(lambda value: type(value) is str and 0 < len(value) <= most, what)


SETTINGS: dict[str, Check] = {
    "cron": or_none(_text("a cron line", 255)),
    "every": or_none(integer(SCHEDULE_EVERY_MS_MIN, DELAY_MS_MAX)),
    "zone": _text("a time zone, for instance Europe/Berlin", 64),
    "catch_up": choice("once", "skip", "all"),
    "overlap": choice("allow", "skip"),
    "paused": flag(),
}


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When a schedule runs. `every` in ms."""

    cron: str | None = None
    every: int | None = None
    zone: str = "UTC"
    catch_up: str = "once"
    """What becomes of missed runs: one for all of them, none, or each."""
    overlap: str = "allow"
    """Whether a run is left out while the message of the one before is not done."""
    paused: bool = False

    def as_map(self) -> dict[str, Any]:
        """Every setting by name, as on the wire."""
        return asdict(self)

    def after(self, time: int) -> int:
        """The first run later than `time` (wall ms). Raises `Invalid` if there is none."""
        return next(self.runs(time))

    def between(self, first: int, begin: int, end: int) -> list[int]:
        """Runs from `begin` to `end`, both included; `first` is one of its runs, at or before `begin`."""
        if self.every is not None:
            first += -(-(begin - first) // self.every) * self.every
            return list(range(first, end + 1, self.every))
        found = [first] if first == begin else []
        return [*found, *takewhile(lambda run: run <= end, self.runs(begin if found else begin - 1))]

    def runs(self, time: int) -> Iterator[int]:
        """Runs later than `time`."""
        if self.every is not None:
            while True:
                time += self.every
                yield time
        assert self.cron is not None
        start = (EPOCH + timedelta(milliseconds=time)).astimezone(ZoneInfo(self.zone))
        try:
            for run in CronSim(self.cron, start):
                yield (run - EPOCH) // timedelta(milliseconds=1)
        except CronSimError as error:
            raise Invalid(
                f"cron={self.cron!r}: {error}",
                hint='five fields, for instance "0 9 * * 1-5"; of six, the last are seconds',
            ) from error
        raise Invalid(f"cron={self.cron!r} never comes", hint="look at its day and month")


def rhythm_of(settings: Mapping[str, Any], before: Rhythm | None = None) -> Rhythm:
    """The rhythm of these settings over `before` or the defaults. Raises `Invalid`."""
    given = checked("schedule", SETTINGS, settings)
    values = before.as_map() if before is not None else {}
    if given.get("cron") is not None:
        values["every"] = None
    if given.get("every") is not None:
        values["cron"] = None
    rhythm = Rhythm(**{**values, **given})
    if (rhythm.cron is None) == (rhythm.every is None):
        raise Invalid("a schedule has either cron or every", hint='cron="0 9 * * 1-5", or every=60')
    try:
        ZoneInfo(rhythm.zone)
    except (KeyError, ValueError, OSError) as error:
        raise Invalid(
            f"zone={rhythm.zone!r} is not known", hint="for instance Europe/Berlin, or UTC"
        ) from error
    rhythm.after(0)
    return rhythm


class Schedule:
    """The machine of one schedule. `batch`: what it enqueues, as it was sent."""

    kind = KIND

    def __init__(
        self, uuid: bytes, name: str, queue: str, rhythm: Rhythm, batch: bytes, next_at: int
    ) -> None:
        self.uuid = uuid
        self.name = name
        self.queue = queue
        self.rhythm = rhythm
        self.batch = batch
        self.next_at = next_at
        """Wall ms of the next run."""
        self.runs = 0
        self.missed = 0
        self.latest = -1
        """Offset of what was enqueued last."""
        self.changed_at = 0

    def apply(self, part: Part, at: At) -> None:
        """A FIRED: it ran, or left a run out."""
        assert part.kind == Kind.FIRED, f"a schedule knows no part of kind {part.kind}"
        self.next_at, latest, self.missed = FIRED.unpack(part.detail)
        if latest >= 0:
            self.latest = latest
            self.runs += 1
        self.changed_at = at.position

    def fits(self, part: Part) -> bool:
        """The part follows on from what is known here: any does."""
        return True

    def fired_part(self, next_at: int, offset: int = -1, missed: int = 0) -> Part:
        """The FIRED of a run that enqueued the message at `offset`, or of none: then it says when the next
        one is, and no more."""
        return Part(self.uuid, Kind.FIRED, detail=FIRED.pack(next_at, offset, self.missed + missed))

    def snapshot(self) -> bytes:
        """Everything that is not in the catalogue."""
        return SNAPSHOT.pack(self.next_at, self.runs, self.latest, self.missed)

    def restore(self, data: memoryview) -> None:
        """The inverse of `snapshot`."""
        self.next_at, self.runs, self.latest, self.missed = SNAPSHOT.unpack(data[: SNAPSHOT.size])
