"""The features of queues as they are typed: real processes, a real broker."""

import json

from tests.integration.command import Cli


def said(cli: Cli, *argv: str) -> str:
    """What a command that moves things says on stderr."""
    done = cli.run(*argv)
    assert done.returncode == 0, done.stderr
    return done.stderr.decode()


def test_every_setting_can_be_typed_and_is_shown_as_typed(cli: Cli) -> None:
    typed = {
        "--delay": "1s",
        "--ttl": "1h",
        "--on-expiry": "dead_letter",
        "--dedup-window": "7d",
        "--content-dedup": "yes",
        "--job-scope": "queued",
        "--priority-ageing": "1m",
        "--single-active": "yes",
        "--paused": "yes",
        "--fair": "yes",
        "--group-concurrency": "3",
        "--group-failure": "park",
        "--group-weights": "acme=3,umbrella=0.5",
        "--rate": "100",
        "--group-rate": "0.5",
        "--expires": "1d",
        "--exclusive": "no",
        "--overflow": "drop_oldest",
        "--max-in-flight": "7",
    }
    cli("queue", "create", "jobs", *(word for pair in typed.items() for word in pair))
    described = dict(row.split(maxsplit=1) for row in cli("queue", "describe", "jobs").decode().splitlines())
    assert {
        f"--{name}".replace("_", "-"): value for name, value in described.items()
    }.items() >= typed.items()
    assert described["held"] == described["blocked-groups"] == described["throttled-tenants"] == "0"


def test_setting_outside_its_range_is_named_with_the_range(cli: Cli) -> None:
    code, line = cli.fails("queue", "create", "jobs", "--dedup-window", "8d")
    assert code == 1
    assert "dedup_window" in line


def test_options_of_enqueue_are_seen_by_the_receiver(cli: Cli) -> None:
    cli("queue", "create", "jobs")
    typed = ("--priority", "3", "--message-group", "acme", "--reply-to", "answers", "--correlation-id", "7")
    cli("enqueue", "jobs", "x", *typed, "--content-type", "text/plain", "-H", "a=b")
    assert (
        cli("queue", "peek", "jobs", "--format", r"%p %g %r %c %t %b\n") == b"3 acme answers 7 text/plain x\n"
    )
    [message] = cli.objects("receive", "jobs")
    assert message.items() >= {"priority": 3, "message_group": "acme", "reply_to": "answers"}.items()
    assert message.items() >= {"correlation_id": "7", "content_type": "text/plain"}.items()
    assert (message["history"], message["checkpoint"], message["replayed"]) == (None, None, False)


def test_delayed_message_is_seen_rescheduled_and_cancelled(cli: Cli) -> None:
    cli("queue", "create", "jobs")
    [first] = cli.objects("enqueue", "jobs", "first", "--delay", "1d")
    [second] = cli.objects("enqueue", "jobs", "second", "--at", "2030-01-01T00:00Z")
    assert cli("queue", "peek", "jobs", "--state", "delayed") == b"first\nsecond\n"
    assert cli.run("queue", "cancel", "jobs", first["id"]).returncode == 2
    assert "take message" in said(cli, "queue", "cancel", "jobs", first["id"], "--yes")
    cli("queue", "reschedule", "jobs", second["id"], "--delay", "0s")
    assert cli("receive", "jobs") == b"second\n"
    code, line = cli.fails("queue", "reschedule", "jobs", first["id"], "--delay", "5m")
    assert code == 1
    assert "queue explain" in line


def test_dedup_id_is_told_by_the_receipt_and_a_taken_job_key_by_an_error(cli: Cli) -> None:
    cli("queue", "create", "jobs")
    receipts = cli.objects("enqueue", "jobs", "a", "b", "--dedup-id", "d")
    assert [receipt["duplicate"] for receipt in receipts] == [False, True]
    cli("enqueue", "jobs", "x", "--job-key", "k")
    code, line = cli.fails("enqueue", "jobs", "x", "--job-key", "k")
    assert code == 1
    assert "the job key is taken" in line
    assert "--on-conflict keep" in line
    assert cli.objects("enqueue", "jobs", "x", "--job-key", "k", "--on-conflict", "keep")[0]["duplicate"]


def test_received_with_settle_it_is_gone(cli: Cli) -> None:
    cli("queue", "create", "jobs")
    cli("enqueue", "jobs", "a", "b")
    assert cli("receive", "jobs", "-n", "2", "--settle") == b"a\nb\n"
    assert cli.stats("jobs")["settled_total"] == 2
    code, line = cli.fails("receive", "jobs", "--settle", "--no-ack")
    assert code == 2
    assert "exclude each other" in line


def test_dead_letters_are_redriven_after_the_plan_was_shown(cli: Cli) -> None:
    unlimited = ("--dead-letter", "none", "--max-attempts", "none", "--max-deliveries", "none")
    cli("queue", "create", "jobs.dead", *unlimited)
    cli("queue", "create", "jobs", "--ttl", "50ms", "--on-expiry", "dead_letter")
    cli("enqueue", "jobs", "a", "b")
    assert cli("receive", "jobs.dead", "-n", "2", "--no-ack") == b"a\nb\n"
    cli("queue", "alter", "jobs", "--ttl", "none")
    [dead] = cli.objects("queue", "peek", "jobs.dead", "-n", "1")
    assert dead["history"]["reason"] == "expired"
    refused = cli.run("queue", "redrive", "jobs.dead")
    assert refused.returncode == 2
    assert b"move 2 messages" in refused.stderr
    assert b"add --yes" in refused.stderr
    assert cli("queue", "redrive", "jobs.dead", "--dry-run").split()[:3] == [b"MESSAGES", b"BYTES", b"2"]
    assert "move 2 messages" in said(cli, "queue", "redrive", "jobs.dead", "--yes")
    assert cli("receive", "jobs", "-n", "2") == b"a\nb\n"


def test_settled_messages_are_replayed_and_messages_are_moved(cli: Cli) -> None:
    cli("queue", "create", "jobs", "--keep-settled", "1h")
    cli("queue", "create", "other")
    cli("enqueue", "jobs", "a", "b")
    cli("receive", "jobs", "-n", "2")
    assert "copy 2 messages" in said(
        cli, "queue", "replay", "jobs", "--since", "-1h", "--into", "other", "--yes"
    )
    assert "move 2 messages" in said(cli, "queue", "move", "other", "jobs", "--yes")
    assert cli("receive", "jobs", "-n", "2") == b"a\nb\n"


def test_message_is_found_explained_and_its_story_told(cli: Cli) -> None:
    cli("queue", "create", "jobs")
    cli("enqueue", "jobs", "other")
    [receipt] = cli.objects("enqueue", "jobs", "x", "-H", "user=42")
    [found] = cli.objects("queue", "find", "jobs", "-H", "user=42")
    assert (found["id"], found["state"], found["body"]) == (receipt["id"], "ready", "x")
    table = cli("queue", "find", "jobs").decode().splitlines()
    assert (table[0].split(), len(table)) == (["STATE", "ATTEMPT", "ENQUEUED", "ID"], 3)
    cli("queue", "pause", "jobs")
    assert "paused" in cli("queue", "explain", "jobs", receipt["id"]).decode()
    cli("queue", "resume", "jobs")
    [explained] = cli.objects("queue", "explain", "jobs", receipt["id"])
    assert (explained["state"], explained["facts"]["offset"]) == ("ready", 1)
    assert b"enqueued" in cli("queue", "story", "jobs", receipt["id"])
    assert (
        json.loads(cli("queue", "story", "jobs", receipt["id"], "--json").splitlines()[0])["what"]
        == "enqueued"
    )
    code, line = cli.fails("queue", "explain", "jobs", "7")
    assert code == 1
    assert "is no id of a message" in line


def test_paused_queue_gives_nothing_until_it_is_resumed(cli: Cli) -> None:
    cli("queue", "create", "jobs")
    cli("enqueue", "jobs", "x")
    cli("queue", "pause", "jobs")
    assert cli.run("receive", "jobs", "--wait", "100ms").stdout == b""
    cli("queue", "resume", "jobs")
    assert cli("receive", "jobs") == b"x\n"
    code, line = cli.fails("queue", "resume", "jobs", "--message-group", "acme")
    assert code == 1
    assert "was not parked" in line
