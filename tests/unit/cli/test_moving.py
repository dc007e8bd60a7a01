"""Commands about one message or many: what they ask of the client, what they say, how they ask before."""

import json
from datetime import UTC, datetime

import pytest
from tests.fakes.command import FakeClient

from penstock.cli.command import Failure, Usage
from penstock.values import Explanation, Redriven, StoryLine, instant_of

ID = "01234567-89ab-cdef-0123-456789abcdef:7"


async def test_redrive_counts_first_and_does_it_after_a_yes(said, capsys):
    client = FakeClient(redrive=Redriven(1_200, 5 << 20))
    out = await said(
        client, "queue", "redrive", "jobs.dead", "--limit", "5000", "--rate", "100", "--yes", "--json"
    )
    chosen = {"to": None, "reason": None, "limit": 5_000, "rate": 100.0}
    asked = client.queues["jobs.dead"].asked
    assert asked == [("redrive", (), {**chosen, "dry_run": True}), ("redrive", (), chosen)]
    assert "move 1,200 messages (5.0MiB) of queue jobs.dead to where each died" in capsys.readouterr().err
    assert json.loads(out) == {
        "name": "jobs.dead",
        "to": "where each died",
        "messages": 1_200,
        "bytes": 5 << 20,
    }


async def test_without_a_yes_and_a_terminal_nothing_is_moved(said, capsys):
    client = FakeClient(redrive=Redriven(3, 30))
    with pytest.raises(Usage, match="add --yes"):
        await said(client, "queue", "redrive", "jobs.dead", "--to", "other")
    assert [options["dry_run"] for _, _, options in client.queues["jobs.dead"].asked] == [True]
    assert "move 3 messages (30B) of queue jobs.dead to other" in capsys.readouterr().err


async def test_dry_run_prints_the_count_and_asks_nothing(said):
    client = FakeClient(redrive=Redriven(3, 30))
    assert (
        await said(client, "queue", "redrive", "jobs.dead", "--dry-run")
        == "MESSAGES  BYTES\n       3     30\n"
    )
    assert len(client.queues["jobs.dead"].asked) == 1


async def test_nothing_to_move_is_no_question(said):
    client = FakeClient(redrive=Redriven(0, 0))
    out = await said(client, "queue", "redrive", "jobs.dead", "--json")
    assert json.loads(out)["messages"] == 0
    assert len(client.queues["jobs.dead"].asked) == 1


async def test_replay_says_of_which_time_and_where_to(said, capsys):
    client = FakeClient(replay=Redriven(3, 30))
    await said(client, "queue", "replay", "jobs", "--since", "-1h", "--until", "2026-01-02T03:04Z", "--yes")
    (_, _, options), _ = client.queues["jobs"].asked
    assert options["since"] < datetime.now(UTC)
    assert options["until"] == datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    assert "copy 3 messages (30B) of queue jobs to jobs" in capsys.readouterr().err


async def test_move_says_which_messages(said):
    client = FakeClient(move=Redriven(1, 1))
    argv = ("--state", "delayed", "--id", ID, "-H", "user=42", "--yes")
    await said(client, "queue", "move", "jobs", "other", *argv)
    (_, _, options), _ = client.queues["jobs"].asked
    assert (options["to"], options["state"], options["id"]) == ("other", "delayed", ID)
    assert options["header"] == ("user", "42")


async def test_cancel_asks_before(said):
    client = FakeClient(cancel=True)
    with pytest.raises(Usage, match="add --yes"):
        await said(client, "queue", "cancel", "jobs", ID)
    assert client.queues["jobs"].asked == []
    await said(client, "queue", "cancel", "jobs", ID, "--yes")
    assert client.queues["jobs"].asked == [("cancel", (ID,), {})]


@pytest.mark.parametrize(
    "argv", [("queue", "cancel", "jobs", ID, "--yes"), ("queue", "reschedule", "jobs", ID, "--delay", "5m")]
)
async def test_message_that_is_not_there_is_a_failure_that_says_what_to_type(said, argv):
    with pytest.raises(Failure, match=f"type `penstock queue explain jobs {ID}`"):
        await said(FakeClient(cancel=False, reschedule=False), *argv)


async def test_reschedule_takes_a_delay_or_an_instant(said):
    client = FakeClient(reschedule=True)
    out = await said(client, "queue", "reschedule", "jobs", ID, "--delay", "5m", "--json")
    assert json.loads(out) == {"name": "jobs", "id": ID, "rescheduled": True}
    assert client.queues["jobs"].asked == [("reschedule", (ID,), {"delay": 300.0, "at": None})]
    for wrong in ((), ("--delay", "5m", "--at", "2026-01-02T03:04Z")):
        with pytest.raises(Usage, match="one of --delay and --at"):
            await said(client, "queue", "reschedule", "jobs", ID, *wrong)


async def test_pause_and_resume(said):
    client = FakeClient(pause=None, resume=True)
    assert json.loads(await said(client, "queue", "pause", "jobs", "--json")) == {
        "name": "jobs",
        "paused": True,
    }
    out = await said(client, "queue", "resume", "jobs", "--json")
    assert json.loads(out) == {"name": "jobs", "paused": False}
    out = await said(client, "queue", "resume", "jobs", "--message-group", "acme", "--json")
    assert json.loads(out) == {"name": "jobs", "message_group": "acme", "resumed": True}
    assert client.queues["jobs"].asked == [
        ("pause", (), {}),
        ("resume", (None,), {}),
        ("resume", ("acme",), {}),
    ]


async def test_resume_of_a_group_that_was_not_parked_is_a_failure(said):
    with pytest.raises(Failure, match="'acme' of jobs was not parked"):
        await said(FakeClient(resume=False), "queue", "resume", "jobs", "--message-group", "acme")


EXPLAINED = Explanation("ready", ("the queue is paused",), {"offset": 7})


async def test_explain_gives_state_reasons_and_facts(said):
    client = FakeClient(explain=EXPLAINED)
    lines = (await said(client, "queue", "explain", "jobs", ID)).splitlines()
    assert [line.split(maxsplit=1) for line in lines[1:]] == [
        ["state", "ready"],
        ["reason", "the queue is paused"],
        ["offset", "7"],
    ]
    out = await said(client, "queue", "explain", "jobs", ID, "--json")
    assert json.loads(out) == {"state": "ready", "reasons": ["the queue is paused"], "facts": {"offset": 7}}


async def test_story_is_one_line_for_each_thing_that_happened(said):
    client = FakeClient(story=[StoryLine(instant_of(1_000), "enqueued", "by worker-1")])
    assert await said(client, "queue", "story", "jobs", ID) == (
        "WHEN                      WHAT      DETAIL\n1970-01-01T00:00:01.000Z  enqueued  by worker-1\n"
    )
    out = await said(client, "queue", "story", "jobs", ID, "--json")
    assert json.loads(out) == {
        "when": "1970-01-01T00:00:01.000Z",
        "what": "enqueued",
        "detail": "by worker-1",
    }


async def test_find_says_what_to_look_for(said):
    client = FakeClient(find=[])
    out = await said(client, "queue", "find", "jobs", "--since", "-1h", "-H", "user=42", "-n", "5")
    assert out == "STATE  ATTEMPT  ENQUEUED  ID\n"
    ((_, _, options),) = client.queues["jobs"].asked
    assert (options["header"], options["limit"], options["until"]) == (("user", "42"), 5, None)


HEADERS = {
    "user=42": ("user", "42"),
    "user:=42": ("user", 42),
    "user:=-4.5": ("user", -4.5),
    "paid:=true": ("paid", True),
    "paid:=false": ("paid", False),
    "note=a:=b": ("note", "a:=b"),
}


@pytest.mark.parametrize(("typed", "sought"), HEADERS.items(), ids=HEADERS)
async def test_header_that_is_sought_is_text_or_what_is_no_text(said, typed, sought):
    client = FakeClient(find=[])
    await said(client, "queue", "find", "jobs", "-H", typed)
    ((_, _, options),) = client.queues["jobs"].asked
    assert options["header"] == sought
    assert type(options["header"][1]) is type(sought[1])


@pytest.mark.parametrize("typed", ["user", "=42", "user:=", "user:=acme", "user:=null"])
async def test_header_that_cannot_be_sought_is_typed_wrong(said, typed):
    client = FakeClient(find=[])
    with pytest.raises(Usage, match="is not a header"):
        await said(client, "queue", "find", "jobs", "-H", typed)
    assert not client.queues


@pytest.mark.parametrize("verb", ["create", "alter"])
async def test_exclusive_queue_is_not_for_the_command_line(said, verb):
    client = FakeClient()
    with pytest.raises(Usage, match=r"goes with the session that made it.* type --expires 1h"):
        await said(client, "queue", verb, "jobs", "--exclusive", "yes")
    assert not client.asked
