"""`penstock schedule …`: messages that the broker enqueues again and again."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

from penstock.cli.arguments import (
    DURATION,
    NAME,
    SWITCH,
    Setting,
    count,
    or_none,
    settings_given,
    utf8,
)
from penstock.cli.command import YES, Call, Command, Usage, argument, confirm, deleted, note
from penstock.cli.messages import MESSAGE_OPTIONS, QUEUE, options_typed
from penstock.cli.output import instant_text
from penstock.cli.publish import HEADERS
from penstock.cli.queues import IF_EXISTS, PREFIX
from penstock.outgoing import EnqueueOptions
from penstock.schedules import ScheduleDescription

SETTINGS = (
    Setting("cron", or_none(NAME), 'when it runs, like "0 9 * * 1-5": at nine on working days'),
    Setting("every", or_none(DURATION), "or at that interval, from 1s up"),
    Setting("zone", NAME, "the time zone that --cron is meant in, like Europe/Berlin (UTC)"),
    Setting("catch_up", NAME, "of runs missed while the broker was down: once, skip or all (once)"),
    Setting("overlap", NAME, "allow, or skip while the message of the last run is not done (allow)"),
    Setting("paused", SWITCH, "it does not run (no)"),
)
"""Every setting of a schedule; the options of `create` and `alter` are made of it."""

OPTIONS = tuple(setting.option for setting in SETTINGS)
SCHEDULE = argument("name", metavar="NAME", type=utf8)
HEAD = ("SCHEDULE", "QUEUE", "RHYTHM", "NEXT", "RUNS", "MISSED")


def as_json(schedule: ScheduleDescription) -> dict[str, Any]:
    """A schedule as one JSON object: durations in seconds."""
    return {name: value for name, value in asdict(schedule).items() if name != "created"}


def _row(schedule: ScheduleDescription) -> tuple[object, ...]:
    settings = schedule.settings
    every = settings.get("every")
    rhythm = f"every {DURATION.show(every)}" if every else f"{settings.get('cron')} {settings.get('zone')}"
    coming = ", ".join(map(instant_text, schedule.next)) or "paused"
    return (schedule.name, schedule.queue, rhythm, coming, schedule.runs, schedule.missed)


async def _create(call: Call) -> None:
    options = call.options
    settings = settings_given(options, SETTINGS)
    if not {"cron", "every"} & settings.keys():
        raise Usage('say when: add --cron "0 9 * * 1-5", or --every 1m')
    chosen = cast(EnqueueOptions, {"headers": dict(options.headers), **options_typed(options)})
    made = await call.client.queue(options.queue).schedule(
        options.name,
        os.fsencode(options.body),
        if_exists=options.if_exists,
        options=chosen,
        **settings,
    )
    await _said(call, made, f"is ready; it runs next at {_row(made)[3]}")


async def _alter(call: Call) -> None:
    settings = settings_given(call.options, SETTINGS)
    if not settings:
        raise Usage("nothing to change: add a setting, for instance --every 5m")
    await _said(call, await call.client.alter_schedule(call.options.name, **settings), "is changed")


async def _pause(call: Call) -> None:
    await _said(call, await call.client.alter_schedule(call.options.name, paused=True), "is paused")


async def _resume(call: Call) -> None:
    altered = await call.client.alter_schedule(call.options.name, paused=False)
    await _said(call, altered, f"runs again, next at {_row(altered)[3]}")


async def _said(call: Call, schedule: ScheduleDescription, done: str) -> None:
    note(f"schedule {schedule.name} {done}")
    if call.out.json:
        await call.out.objects([as_json(schedule)])


async def _list(call: Call) -> None:
    schedules: Sequence[ScheduleDescription] = await call.client.list_schedules(
        call.options.prefix, runs=call.options.runs
    )
    if call.out.json:
        await call.out.objects(map(as_json, schedules))
    else:
        await call.out.rows(HEAD, map(_row, schedules))


async def _delete(call: Call) -> None:
    name = call.options.name
    await confirm(f"delete schedule {name}; what it enqueued stays", call.options)
    await call.client.delete_schedule(name)
    await deleted(call, "schedule", name)


COMMANDS = (
    Command(
        "schedule create",
        "NAME QUEUE BODY",
        "Enqueue a message again and again.",
        _create,
        (
            SCHEDULE,
            QUEUE,
            argument("body", metavar="BODY"),
            *OPTIONS,
            IF_EXISTS,
            HEADERS,
            *MESSAGE_OPTIONS,
        ),
    ),
    Command(
        "schedule list",
        "",
        "List schedules with their next runs.",
        _list,
        (PREFIX, argument("--runs", metavar="N", type=count, default=1, help="next runs to show (1)")),
    ),
    Command("schedule alter", "NAME", "Change settings of a schedule.", _alter, (SCHEDULE, *OPTIONS)),
    Command("schedule pause", "NAME", "Let a schedule rest.", _pause, (SCHEDULE,)),
    Command("schedule resume", "NAME", "Let a schedule run again.", _resume, (SCHEDULE,)),
    Command("schedule delete", "NAME", "Delete a schedule.", _delete, (SCHEDULE, YES)),
)
