"""Recurring schedules: a message that the broker enqueues again and again.

They belong to the node, not to a client: a name, the queue, when, and the message as it is enqueued each
time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict, cast

from penstock import checks
from penstock.errors import Invalid
from penstock.outgoing import EnqueueOptions
from penstock.values import Duration, instant_of, ms_of, shown
from penstock_protocol.limits import DELAY_MS_MAX, SCHEDULE_EVERY_MS_MIN


class ScheduleSettings(TypedDict, total=False):
    """When a schedule runs; either `cron` or `every`. Those not given keep their value, or the default (in
    brackets) at creation. Of the runs that came due while the broker was down all but the newest were missed,
    and so was that if it is a minute late: for them one run is made, or none, or each, as `catch_up` says."""

    cron: str | None  # five fields, like "0 9 * * 1-5": at nine on working days
    every: Duration | None  # at that interval, from 1 s up
    zone: str  # the time zone in which `cron` is meant, like "Europe/Berlin" ["UTC"]
    catch_up: Literal["once", "skip", "all"]  # of missed runs ["once"]
    overlap: Literal["allow", "skip"]  # skip: not while the message of the last run is not done ["allow"]
    paused: bool  # it does not run [False]


CHOICES = {"catch_up": ("once", "skip", "all"), "overlap": ("allow", "skip")}


@dataclass(frozen=True, slots=True)
class ScheduleDescription:
    """A schedule as it is now. `next`: its next runs, none while it is paused. `runs`, `missed`: how often it
    ran, and how often it did not: left out, made up for by another, or refused by the queue. `latest`: the
    offset of what it enqueued last. `created`: the call that returned this created it."""

    name: str
    queue: str
    settings: ScheduleSettings
    next: tuple[datetime, ...]
    runs: int
    missed: int
    latest: int | None
    created: bool = False


def settings_to_wire(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the caller passed, in the wire's units; what a cron line and a zone say is judged by the broker
    alone. Raises `Invalid`."""
    flat = dict(settings)
    for name in ("cron", "zone"):
        if flat.get(name) is not None:
            checks.label(name, flat[name])
    if flat.get("every") is not None:
        flat["every"] = ms_of(flat["every"], "every", SCHEDULE_EVERY_MS_MIN, DELAY_MS_MAX)
    for name, words in CHOICES.items():
        if name in flat:
            checks.choice(name, flat[name], words)
    if "paused" in flat:
        checks.flag("paused", flat["paused"])
    return flat


def checked(options: EnqueueOptions | None) -> EnqueueOptions:
    """The options of the message. Raises `Invalid` for what are none."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise Invalid(f"options={shown(options)} is no mapping", hint='for instance options={"priority": 9}')
    for name in options:
        checks.choice("options", name, sorted(EnqueueOptions.__annotations__))
    return options


def description_of(document: Mapping[str, Any]) -> ScheduleDescription:
    """A schedule from the broker's document. What only a newer client knows is left out."""
    settings = {name: document["settings"][name] for name in ScheduleSettings.__annotations__}
    if settings["every"] is not None:
        settings["every"] /= 1000
    return ScheduleDescription(
        document["name"],
        document["queue"],
        cast(ScheduleSettings, settings),
        tuple(map(instant_of, document["next"])),
        document["runs"],
        document["missed"],
        document["latest"],
        document.get("created", False),
    )
