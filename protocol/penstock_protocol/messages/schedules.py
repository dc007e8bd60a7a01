"""Messages about recurring schedules. Times are milliseconds; the message to enqueue is a batch of one."""

from typing import Any, NamedTuple


class CreateSchedule(NamedTuple):
    """Enqueue a message (payload: a batch of one) into a queue again and again. `settings`: cron or every
    (ms), zone, catch_up, overlap, paused. `if_exists`: check, alter or keep."""

    name: str
    queue: str
    settings: dict[str, Any]
    if_exists: str
    payload: Any


class AlterSchedule(NamedTuple):
    """Change settings of a schedule; its next run is worked out anew."""

    name: str
    settings: dict[str, Any]


class DeleteSchedule(NamedTuple):
    """No further run. What was enqueued stays."""

    name: str


class ListSchedules(NamedTuple):
    """Schedules in name order, behind `after`, at most `limit`, each with its next `runs` runs."""

    prefix: str
    after: str
    limit: int
    runs: int
