"""Runs schedules when their time has come: the message and the word that it ran are one entry."""

from typing import TYPE_CHECKING

from penstock_broker.clock import Now
from penstock_broker.queues.schedules import Schedule
from penstock_broker.queues.states import State
from penstock_broker.storage.entries import Body, Kind, Part
from penstock_protocol.batch import BatchView
from penstock_protocol.errors import Busy, Conflict, DiskFull, Refused

if TYPE_CHECKING:
    from penstock_broker.core import Core

PER_LOOK = 10
"""Runs of one schedule at a time."""
MORE_MS = 1
"""Until those that are due as well follow, in a turn of their own."""
AGAIN_MS = 1_000
"""Until a run is tried again that the journal could not take."""
LATE_MS = 60_000
"""A run that comes later than that was missed, though no other is due."""
CATCH_UP_MAX = 1_000
"""Missed runs that catch_up="all" makes up for."""
LOOK_BACK_MS = 86_400_000
"""Runs before that are not made up for, nor counted."""


class Timetable:
    """The schedules of one node."""

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._rest: dict[Schedule, int] = {}
        """Until the next look at those that were just looked at (ms), even if a run is due."""

    def arm(self, schedule: Schedule, now: Now) -> int | None:
        """The mono ms at which it is to be looked at; None: not at all."""
        rest = self._rest.pop(schedule, 0)
        return None if schedule.rhythm.paused else now.mono + max(rest, schedule.next_at - now.wall)

    def due(self, schedule: Schedule, now: Now) -> None:
        """Its time has come: run it, as often as that is due."""
        if schedule.rhythm.paused or schedule.next_at > now.wall:
            return
        runs = schedule.rhythm.between(
            schedule.next_at, max(schedule.next_at, now.wall - LOOK_BACK_MS), now.wall
        )
        made = _made_up_for(runs, schedule.rhythm.catch_up, now.wall)
        last = schedule.rhythm.after(runs[-1] if runs else now.wall)
        missed = len(runs) - len(made)
        if not made:
            self._core.engine.append([schedule.fired_part(last, missed=missed)], wall=now.wall)
        if len(made) > PER_LOOK:
            self._rest[schedule] = MORE_MS
        for run, following in zip(made[:PER_LOOK], [*made[1:], last], strict=False):
            if not self._run(schedule, run, following, missed, now):
                self._rest[schedule] = AGAIN_MS
                return
            missed = 0

    def _run(self, schedule: Schedule, run: int, next_at: int, missed: int, now: Now) -> bool:
        """Enqueue its message, unless it may not be: then that run is missed, too. False: it cannot be at the
        moment."""
        core = self._core
        try:
            queue = core.registry.queue(schedule.queue)
            if schedule.rhythm.overlap == "skip" and self._is_open(schedule):
                raise Conflict("the message of the run before is not done")
            batch = BatchView(schedule.batch, verify=False)
            admission = core.publishing.admit(queue, batch, now, f"{schedule.uuid.hex()}@{run}")
            parts = [
                Part(queue.uuid, Kind.APPEND, queue.log.end, 1, admission.flags, admission.detail, 0),
                *admission.settles,
                schedule.fired_part(next_at, queue.log.end, missed),
            ]
            body = Body(batch.view, batch.crc)
            core.engine.append(parts, [body], wall=now.wall, publish=True, within=queue.within)
        except (Busy, DiskFull):
            return False
        except Refused:
            core.engine.append([schedule.fired_part(next_at, missed=missed + 1)], wall=now.wall)
        else:
            core.deliveries.touch(queue)
        return True

    def _is_open(self, schedule: Schedule) -> bool:
        """The message of its last run is not done."""
        queue = self._core.registry.queues.get(schedule.queue)
        if queue is None or schedule.latest < 0 or schedule.latest >= queue.log.end:
            return False
        return queue.states.state(schedule.latest) != State.SETTLED


def _made_up_for(runs: list[int], catch_up: str, now: int) -> list[int]:
    """The runs to make of those that are due, at `now`: all but the newest were missed, and so was that if it
    is late."""
    if catch_up == "all":
        return runs[-CATCH_UP_MAX:]
    on_time = [run for run in runs[-1:] if now - run < LATE_MS]
    missed = runs[: len(runs) - len(on_time)]
    return [*(missed[-1:] if catch_up == "once" else ()), *on_time]
