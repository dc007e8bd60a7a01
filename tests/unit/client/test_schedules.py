"""Recurring schedules, in the units of the calls and of the wire. The test is the broker."""

from datetime import timedelta

import msgpack
import pytest
from tests.fakes.client_wire import NOW_MS
from tests.unit.client.test_client_admin import answered

from penstock.errors import Invalid
from penstock.values import instant_of
from penstock_protocol.batch import BatchView, Kind
from penstock_protocol.limits import LISTING_MAX
from penstock_protocol.messages.schedules import (
    AlterSchedule,
    CreateSchedule,
    DeleteSchedule,
    ListSchedules,
)
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document, Done

SETTINGS = {
    **{"cron": None, "every": 90_000, "zone": "UTC", "catch_up": "once", "overlap": "allow"},
    **{"paused": False, "of_a_newer_broker": 1},
}


def schedule_document(**other):
    schedule = {"name": "often", "queue": "jobs", "settings": SETTINGS, "next": [NOW_MS, NOW_MS + 90_000]}
    return schedule | {"runs": 3, "missed": 1, "latest": 7} | other


async def test_a_schedule_is_created_with_a_rhythm_and_a_message(server, client):
    create = client.queue("jobs").schedule(
        "often",
        "go",
        every=timedelta(seconds=90),
        overlap="skip",
        options={"priority": 3, "headers": {"a": 1}},
    )
    asked, made = await answered(server, create, Document(pack_document(schedule_document(created=True))))
    assert (
        asked[:4] == CreateSchedule("often", "jobs", {"every": 90_000, "overlap": "skip"}, "check", b"")[:4]
    )
    batch = BatchView(asked.payload)
    batch.check(1_000)
    assert (batch.count, batch.producer_id, bytes(batch.bodies())) == (1, 0, b"go")
    assert batch.integers(Kind.PRIORITY) == [3]
    assert msgpack.unpackb(batch.cells(Kind.HEADERS)[0]) == {"a": 1}
    assert (made.name, made.queue, made.created) == ("often", "jobs", True)
    assert made.next == (instant_of(NOW_MS), instant_of(NOW_MS + 90_000))
    assert (made.runs, made.missed, made.latest) == (3, 1, 7)
    assert made.settings == {
        **{"cron": None, "every": 90.0, "zone": "UTC", "catch_up": "once", "overlap": "allow"},
        "paused": False,
    }


async def test_what_is_described_can_be_passed_again(server, client):
    listing = Document(pack_document({"items": [schedule_document()], "more": False}))
    _, (found,) = await answered(server, client.list_schedules(), listing)
    again = client.queue("jobs").schedule("other", "go", **found.settings)
    asked, _ = await answered(server, again, Document(pack_document(schedule_document())))
    assert asked.settings == {name: value for name, value in SETTINGS.items() if name != "of_a_newer_broker"}


async def test_a_message_that_no_queue_takes_is_invalid(client):
    with pytest.raises(Invalid, match="priority=10"):
        await client.queue("jobs").schedule("often", "go", every=60, options={"priority": 10})


async def test_schedules_are_altered(server, client):
    alter = client.alter_schedule("often", paused=True)
    asked, altered = await answered(server, alter, Document(pack_document(schedule_document(next=[]))))
    assert asked == AlterSchedule("often", {"paused": True})
    assert altered.next == ()


async def test_schedules_are_listed_page_by_page_with_their_next_runs(server, client):
    pages = [([schedule_document(name="a")], True), ([schedule_document(name="b")], False)]
    asked = []

    def answer(request):
        asked.append(request.message)
        items, more = pages[len(asked) - 1]
        request.reply(Document(pack_document({"items": items, "more": more})))

    server.answers[ListSchedules] = answer
    assert [each.name for each in await client.list_schedules("x", runs=5)] == ["a", "b"]
    assert asked == [ListSchedules("x", "", LISTING_MAX, 5), ListSchedules("x", "a", LISTING_MAX, 5)]


async def test_schedules_are_deleted(server, client):
    asked, _ = await answered(server, client.delete_schedule("often"), Done())
    assert asked == DeleteSchedule("often")
