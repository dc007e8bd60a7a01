"""`penstock schedule …`: what is asked of the client, and what is printed."""

import json

import pytest
from tests.fakes.command import FakeClient

from penstock.cli.command import Usage
from penstock.schedules import ScheduleDescription
from penstock.values import instant_of

SETTINGS = {
    **{"cron": "0 9 * * 1-5", "every": None, "zone": "Europe/Berlin"},
    **{"catch_up": "once", "overlap": "allow", "paused": False},
}
NIGHTLY = ScheduleDescription("nightly", "jobs", SETTINGS, (instant_of(1_000), instant_of(2_000)), 3, 1, 7)
OFTEN = ScheduleDescription(
    "often", "jobs", {**SETTINGS, "cron": None, "every": 90.0, "paused": True}, (), 0, 0, None
)


async def test_create_says_when_and_what(said):
    client = FakeClient(schedule=NIGHTLY)
    typed = ("--cron", "0 9 * * 1-5", "--zone", "Europe/Berlin", "--priority", "3", "-H", "a=b", "--json")
    out = await said(client, "schedule", "create", "nightly", "jobs", "go", *typed)
    assert client.queues["jobs"].asked == [
        (
            "schedule",
            ("nightly", b"go"),
            {
                "if_exists": "check",
                "options": {"headers": {"a": "b"}, "priority": 3},
                "cron": "0 9 * * 1-5",
                "zone": "Europe/Berlin",
            },
        )
    ]
    assert json.loads(out) == {
        "name": "nightly",
        "queue": "jobs",
        "settings": SETTINGS,
        "next": ["1970-01-01T00:00:01.000Z", "1970-01-01T00:00:02.000Z"],
        "runs": 3,
        "missed": 1,
        "latest": 7,
    }


async def test_create_without_a_rhythm_says_how_to_type_one(said):
    with pytest.raises(Usage, match="--every 1m"):
        await said(FakeClient(), "schedule", "create", "nightly", "jobs", "go")


async def test_list_shows_rhythm_and_next_runs(said):
    client = FakeClient(list_schedules=[NIGHTLY, OFTEN])
    lines = (await said(client, "schedule", "list", "--runs", "2")).splitlines()
    assert client.asked == [("list_schedules", ("",), {"runs": 2})]
    assert lines[0].split() == ["SCHEDULE", "QUEUE", "RHYTHM", "NEXT", "RUNS", "MISSED"]
    assert "0 9 * * 1-5 Europe/Berlin" in lines[1]
    assert "1970-01-01T00:00:01.000Z, 1970-01-01T00:00:02.000Z" in lines[1]
    assert lines[2].split() == ["often", "jobs", "every", "90s", "paused", "0", "0"]


async def test_pause_resume_and_alter_change_settings(said):
    client = FakeClient(alter_schedule=OFTEN)
    await said(client, "schedule", "pause", "often")
    await said(client, "schedule", "resume", "often")
    await said(client, "schedule", "alter", "often", "--every", "5m", "--paused", "yes")
    assert client.asked == [
        ("alter_schedule", ("often",), {"paused": True}),
        ("alter_schedule", ("often",), {"paused": False}),
        ("alter_schedule", ("often",), {"every": 300.0, "paused": True}),
    ]
    with pytest.raises(Usage, match="nothing to change"):
        await said(client, "schedule", "alter", "often")


async def test_delete_asks_before(said):
    client = FakeClient(delete_schedule=None)
    with pytest.raises(Usage, match="add --yes"):
        await said(client, "schedule", "delete", "often")
    assert client.asked == []
    out = await said(client, "schedule", "delete", "often", "--yes", "--json")
    assert json.loads(out) == {"name": "often", "deleted": True}
