"""The command line as a user types it: real processes, real pipes, a real broker."""

import base64
import json
import os
import pty
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.command import PENSTOCK, SECONDS, Cli, ended, line, say
from tests.integration.process import BrokerProcess

# ---- Queues


def test_first_minute_of_a_new_user(cli: Cli) -> None:
    assert cli("queue", "create", "emails") == b""
    assert cli("enqueue", "emails", "hello") == b""
    assert cli("receive", "emails") == b"hello\n"
    assert cli("health").splitlines()[1].startswith(b"ok ")


def test_queue_is_created_with_settings_listed_described_altered_and_deleted(cli: Cli) -> None:
    typed = ("--visibility-timeout", "1m", "--max-bytes", "64KiB", "--max-messages", "none")
    [queue] = cli.objects("queue", "create", "jobs", *typed, "--retry-initial", "250ms")
    chosen = {"visibility_timeout": 60.0, "max_bytes": 65_536, "max_messages": None, "retry_initial": 0.25}
    defaults = {"max_attempts": 5, "dead_letter": "jobs.dead", "retry_max": 300.0}
    assert queue["settings"].items() >= {**chosen, **defaults}.items()

    [altered] = cli.objects("queue", "alter", "jobs", "--retry-max", "1h")
    assert altered["settings"] == {**queue["settings"], "retry_max": 3600.0}

    described = dict(row.split() for row in cli("queue", "describe", "jobs").decode().splitlines())
    assert described["visibility_timeout"] == "1m"
    assert described["max_messages"] == "none"
    assert described["max_bytes"] == "64KiB"

    cli("queue", "create", "other")
    assert [row.split()[0] for row in cli("queue", "list").splitlines()] == [b"QUEUE", b"jobs", b"other"]
    assert [each["name"] for each in cli.objects("queue", "list", "--prefix", "j")] == ["jobs"]

    assert cli.objects("--json", "queue", "list", "--prefix", "other")[0]["uuid"]
    cli.run("queue", "delete", "jobs", "--yes")
    code, said = cli.fails("queue", "describe", "jobs")
    assert code == 1
    assert "penstock queue create jobs" in said


def test_existing_queue_is_a_conflict_only_if_typed_settings_differ(cli: Cli) -> None:
    cli("queue", "create", "q", "--max-attempts", "3")
    cli("queue", "create", "q")
    code, said = cli.fails("queue", "create", "q", "--max-attempts", "4")
    assert code == 1
    assert "--if-exists alter" in said
    assert (
        cli.objects("queue", "create", "q", "--max-attempts", "4", "--if-exists", "keep")[0]["settings"][
            "max_attempts"
        ]
        == 3
    )
    assert (
        cli.objects("queue", "create", "q", "--max-attempts", "4", "--if-exists", "alter")[0]["settings"][
            "max_attempts"
        ]
        == 4
    )


def test_destroying_needs_yes_where_nobody_can_be_asked(cli: Cli) -> None:
    cli("queue", "create", "q")
    cli("topic", "create", "t")
    cli("enqueue", "q", "a", "b")
    for argv in (("queue", "purge", "q"), ("queue", "delete", "q"), ("topic", "delete", "t")):
        done = cli.run(*argv)
        plan, refusal = done.stderr.decode().splitlines()
        assert done.returncode == 2
        assert plan.startswith(argv[1])
        assert refusal == "penstock: nothing was changed; add --yes to do it"
    assert cli.stats("q")["ready"] == 2
    done = cli.run("queue", "purge", "q", "--yes", "--json")
    assert json.loads(done.stdout) == {"name": "q", "purged": 2}
    assert done.stderr.startswith(b"purge 2 messages")
    assert cli.stats("q")["ready"] == 0


def test_peek_takes_nothing(cli: Cli) -> None:
    cli("queue", "create", "q")
    cli("enqueue", "q", "a", "b", "c")
    assert cli("queue", "peek", "q", "-n", "2") == b"a\nb\n"
    assert cli("queue", "peek", "q", "--format", "%o %d %b;") == b"0 0 a;1 0 b;2 0 c;"
    assert cli("queue", "peek", "q", "--state", "in_flight") == b""
    assert cli.stats("q")["ready"] == 3


# ---- Enqueue and receive


def test_lines_of_stdin_come_out_as_lines_in_order(cli: Cli) -> None:
    cli("queue", "create", "q")
    lines = b"".join(b"line %d\n" % n for n in range(50_000))
    cli("enqueue", "q", stdin=lines)
    assert cli("receive", "q", "-n", "50000") == lines
    assert cli.stats("q")["settled_total"] == 50_000


def test_bodies_keep_every_byte(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"\x00\xff\n\n")
    cli("queue", "create", "q")
    cli("enqueue", "q", "", b"\xff\xfe", "--", "-n")
    cli("enqueue", "q", "--file", str(tmp_path / "blob"))
    assert cli("receive", "q", "-n", "4", "--format", r"<%b>\0") == b"<>\0<\xff\xfe>\0<-n>\0<\x00\xff\n\n>\0"


@pytest.mark.parametrize(
    ("options", "stdin"),
    [(["-0"], b"a\nb\0c\0"), (["--delimiter", ";;"], b"a\nb;;c"), (["--delimiter", r"\t"], b"a\nb\tc")],
)
def test_messages_on_stdin_may_end_with_something_else(cli: Cli, options: list[str], stdin: bytes) -> None:
    cli("queue", "create", "q")
    cli("enqueue", "q", *options, stdin=stdin)
    assert [each["body"] for each in cli.objects("receive", "q", "-n", "2")] == ["a\nb", "c"]


def test_json_has_receipts_headers_and_bodies(cli: Cli) -> None:
    cli("queue", "create", "q")
    receipts = cli.objects("enqueue", "q", "grün", b"\xff", "-H", "trace=1", "-H", "who=me")
    assert [(each["offset"], each["duplicate"], each["durability"]) for each in receipts] == [
        (0, False, "fsync"),
        (1, False, "fsync"),
    ]
    text, raw = cli.objects("receive", "q", "-n", "2")
    assert text.pop("enqueued_at").endswith("Z")
    assert text == {
        "id": receipts[0]["id"],
        "queue": "q",
        "offset": 0,
        "attempt": 1,
        "delivery": 1,
        "redelivered": False,
        "replayed": False,
        "priority": 0,
        "message_group": None,
        "reply_to": None,
        "correlation_id": None,
        "content_type": None,
        "headers": {"trace": "1", "who": "me"},
        "history": None,
        "checkpoint": None,
        "body": "grün",
    }
    assert base64.b64decode(raw["body_base64"]) == b"\xff"
    assert "body" not in raw


def test_receive_takes_one_unless_told_otherwise(cli: Cli) -> None:
    cli("queue", "create", "q")
    cli("enqueue", "q", "a", "b", "c")
    assert cli("receive", "q") == b"a\n"
    assert cli("receive", "q", "-n", "none", "--wait", "0") == b"b\nc\n"
    assert cli("receive", "q", "--wait", "10ms") == b""


def test_no_ack_gives_back_without_counting_an_attempt(cli: Cli) -> None:
    cli("queue", "create", "q")
    cli("enqueue", "q", "a", "b")
    assert cli("receive", "q", "-n", "2", "--no-ack") == b"a\nb\n"
    assert [
        (each["body"], each["attempt"], each["delivery"]) for each in cli.objects("receive", "q", "-n", "2")
    ] == [
        ("a", 1, 2),
        ("b", 1, 2),
    ]


def test_follow_prints_what_comes_as_it_comes_and_ends_quietly_by_ctrl_c(cli: Cli) -> None:
    cli("queue", "create", "q")
    follower, feeder = cli.start("receive", "q", "--follow"), cli.start("enqueue", "q")
    for text in (b"one\n", b"two\n", b"three\n"):
        say(feeder, text)
        assert line(follower) == text
    follower.send_signal(signal.SIGINT)
    assert ended(follower) == (130, b"")
    assert ended(feeder) == (0, b"")
    assert cli.stats("q").items() >= {"ready": 0, "in_flight": 0, "settled_total": 3}.items()


def test_sigterm_gives_back_what_was_not_acked(cli: Cli) -> None:
    cli("queue", "create", "q")
    cli("enqueue", "q", "a")
    holder = cli.start("receive", "q", "--follow", "--no-ack")
    assert line(holder) == b"a\n"
    assert cli.stats("q")["in_flight"] == 1
    holder.terminate()
    assert ended(holder) == (143, b"")
    assert cli.stats("q").items() >= {"ready": 1, "in_flight": 0}.items()


def test_message_is_not_acked_while_its_line_waits_in_front_of_a_full_pipe(cli: Cli) -> None:
    cli("queue", "create", "q")
    cli("enqueue", "q", *["x" * 1000] * 200)
    reader = cli.start("receive", "q", "-n", "200")
    assert line(reader) == b"x" * 1000 + b"\n"
    assert cli.stats("q").items() >= {"in_flight": 200, "settled_total": 0}.items()
    reader.send_signal(signal.SIGINT)
    reader.wait(SECONDS)
    assert cli.stats("q").items() >= {"ready": 200, "in_flight": 0, "settled_total": 0}.items()


def test_reader_that_goes_away_early_is_no_error(cli: Cli) -> None:
    cli("queue", "create", "q")
    cli("enqueue", "q", "a")
    follower = cli.start("receive", "q", "--follow")
    assert line(follower) == b"a\n"
    assert follower.stdout is not None
    follower.stdout.close()
    assert follower.wait(SECONDS) == 0
    assert follower.stderr is not None
    assert follower.stderr.read() == b""
    cli("enqueue", "q", "b")
    assert cli.stats("q")["ready"] == 1


@pytest.mark.parametrize("argv", [["--help"], ["queue", "list"], ["fetch", "t"], ["config", "show"]])
def test_closed_pipe_is_no_error_of_any_command(cli: Cli, argv: list[str]) -> None:
    cli("topic", "create", "t")
    cli("produce", "t", stdin=b"x\n" * 100_000)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*PENSTOCK, *argv], stdout=writer, stderr=subprocess.PIPE, env=cli.environ, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("closed", "argv"), [(0, ["enqueue", "q"]), (1, ["receive", "q", "--wait", "0"]), (2, ["health"])]
)
def test_closed_standard_descriptor_never_becomes_a_socket(cli: Cli, closed: int, argv: list[str]) -> None:
    cli("queue", "create", "q")
    cli("enqueue", "q", "a")
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *PENSTOCK, *argv],
        env=cli.environ,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0


def test_what_is_durable_is_said_when_a_later_message_is_refused(cli: Cli) -> None:
    cli("queue", "create", "small", "--max-messages", "25000")
    receipts = cli.run("enqueue", "small", "--json", stdin=b"x\n" * 40_000)
    assert receipts.returncode == 1
    durable = len(receipts.stdout.splitlines())
    assert receipts.stderr.startswith(f"penstock: {durable:,} messages are in small, but then: ".encode())
    assert b"--max-messages" in receipts.stderr
    assert receipts.stderr.count(b"\n") == 1
    assert cli.stats("small")["ready"] == durable


def test_refusals_say_what_to_type(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(2 << 20))
    cli("queue", "create", "q")
    for argv, stdin, said in (
        (["enqueue", "nosuch", "x"], b"", "penstock queue create nosuch"),
        (["receive", "nosuch"], b"", "penstock queue create nosuch"),
        (["fetch", "nosuch"], b"", "penstock topic create nosuch"),
        (["group", "describe", "nosuch"], b"", "first commit"),
        (["enqueue", "q", "--file", str(tmp_path / "large")], b"", "limits.message_bytes"),
        (["enqueue", "q", "--file", str(tmp_path / "none")], b"", "No such file"),
        (["enqueue", "q"], bytes(8 << 20), "is --delimiter right?"),
        (["queue", "create", "bad name"], b"", "A-Z a-z 0-9"),
    ):
        code, line_said = cli.fails(*argv, stdin=stdin)
        assert code == 1
        assert said in line_said
    assert cli.stats("q")["ready"] == 0


# ---- Topics


def test_keys_keep_their_partition_and_order(cli: Cli) -> None:
    cli("topic", "create", "t", "--partitions", "4")
    cli("produce", "t", "-K", ":", stdin=b"".join(b"k%d:v%d\n" % (n % 7, n) for n in range(700)))
    cli("produce", "t", "--key", "k3", "last", "--key", "k3")
    records = cli.objects("fetch", "t")
    assert len(records) == 701
    for key in {each["key"] for each in records}:
        mine = [each for each in records if each["key"] == key]
        assert len({each["partition"] for each in mine}) == 1
        numbers = [int(each["value"][1:]) for each in mine if each["value"] != "last"]
        assert numbers == sorted(numbers)
    assert [each["value"] for each in records if each["key"] == "k3"][-1] == "last"


def test_fetch_prints_partition_offset_key_and_value_up_to_the_end(cli: Cli) -> None:
    cli("topic", "create", "t", "--partitions", "2")
    cli("produce", "t", "a", "--partition", "0", "--key", "k")
    cli("produce", "t", "b", "no:key", "--partition", "1")
    assert cli("fetch", "t") == b"0 0 k a\n1 0  b\n1 1  no:key\n"
    assert cli("fetch", "t", "--format", r"%t/%p/%o=%v\n", "-n", "2") == b"t/0/0=a\nt/1/0=b\n"
    assert cli("fetch", "t", "--partition", "1", "--from", "1") == b"1 1  no:key\n"
    assert cli("fetch", "t", "--from", "latest") == b""
    assert cli("fetch", "t", "--from", "-1h", "-n", "1") == b"0 0 k a\n"
    assert cli("fetch", "t", "--partition", "0", "--from", "-0s") == b""


def test_wrong_place_in_a_topic_says_what_to_type(cli: Cli) -> None:
    cli("topic", "create", "t", "--partitions", "2")
    assert cli.fails("fetch", "t", "--from", "1") == (
        2,
        "penstock: an offset counts in one partition: add --partition 0 ... 1\n",
    )
    code, said = cli.fails("fetch", "t", "--partition", "2")
    assert code == 1
    assert "from 0 to 1" in said
    code, said = cli.fails("fetch", "t", "--partition", "0", "--from", "9", "--follow")
    assert code == 1
    assert "--from earliest" in said


def test_group_goes_on_where_it_stands(cli: Cli) -> None:
    cli("topic", "create", "t")
    cli("produce", "t", "a", "b", "c", "d")
    assert cli("fetch", "t", "--group", "g", "-n", "3", "--format", "%v") == b"abc"
    [row] = cli.objects("group", "describe", "g")
    assert (
        row.items() >= {"group": "g", "topic": "t", "partition": 0, "current": 3, "end": 4, "lag": 1}.items()
    )
    head, values = cli("group", "describe", "g").decode().splitlines()
    assert head.split() == [
        *("GROUP", "TOPIC", "PARTITION", "CURRENT", "END", "LAG", "LAG-SECONDS"),
        *("RATE-IN", "RATE-OUT", "CATCH-UP", "MEMBER"),
    ]
    assert values.split()[:6] == ["g", "t", "0", "3", "4", "1"]
    assert cli("fetch", "t", "--group", "g", "--from", "earliest", "--format", "%v") == b"d"
    assert cli("fetch", "t", "--group", "g") == b""
    assert cli.objects("group", "list") == [{"name": "g"}]


def test_follow_reads_all_partitions_and_stops_after_n(cli: Cli) -> None:
    cli("topic", "create", "t", "--partitions", "3")
    cli("produce", "t", "old", "--partition", "1")
    follower = cli.start("fetch", "t", "--follow", "-n", "3", "--format", r"%p %v\n", "--group", "g")
    assert line(follower) == b"1 old\n"
    cli("produce", "t", "new", "--partition", "2")
    assert line(follower) == b"2 new\n"
    cli("produce", "t", "newer", "newest", "--partition", "0")
    assert line(follower) == b"0 newer\n"
    assert ended(follower) == (0, b"")
    positions = {each["partition"]: each["current"] for each in cli.objects("group", "describe", "g")}
    assert positions == {0: 1, 1: 1, 2: 1}


def test_topic_is_listed_described_and_deleted(cli: Cli) -> None:
    [topic] = cli.objects("topic", "create", "t", "--partitions", "2")
    assert topic["settings"] == {
        "partitions": 2,
        "retention": 7 * 86_400.0,
        "retention_bytes": None,
        "cleanup": "delete",
        "tombstone_retention": 86_400.0,
        "durability": None,
    }
    cli("produce", "t", "a", "b", "--partition", "1")
    assert [row.split()[:3] for row in cli("topic", "list").splitlines()] == [
        [b"TOPIC", b"PARTITIONS", b"RECORDS"],
        [b"t", b"2", b"2"],
    ]
    partitions, settings = cli("topic", "describe", "t").split(b"\n\n")
    assert [row.split()[1:5] for row in partitions.splitlines()[1:]] == [
        [b"0", b"0", b"0", b"0"],
        [b"1", b"0", b"2", b"2"],
    ]
    assert dict(row.split() for row in settings.splitlines()[1:])[b"retention"] == b"7d"
    [topic] = cli.objects("topic", "alter", "t", "--retention", "none", "--retention-bytes", "8GiB")
    assert (topic["settings"]["retention"], topic["settings"]["retention_bytes"]) == (None, 8 << 30)
    code, said = cli.fails("topic", "alter", "t", "--cleanup", "sometimes")
    assert code == 1
    assert "delete or compact or both" in said
    code, said = cli.fails("topic", "alter", "t", "--partitions", "1")
    assert code == 1
    assert "create another topic" in said
    [topic] = cli.objects("topic", "alter", "t", "--partitions", "3")
    assert [each["end"] for each in topic["partitions"]] == [0, 2, 0]
    assert cli.run("topic", "delete", "t", "--yes").returncode == 0
    assert cli("topic", "list").splitlines()[1:] == []


# ---- When the broker goes away


def test_followers_outlive_a_broker_that_is_killed(
    start_broker: Callable[..., BrokerProcess], cli_of: Callable[[BrokerProcess], Cli]
) -> None:
    first = start_broker().wait_ready()
    cli = cli_of(first)
    cli("queue", "create", "q")
    follower, feeder = cli.start("receive", "q", "--follow"), cli.start("enqueue", "q")
    say(feeder, b"before\n")
    assert line(follower) == b"before\n"
    first.kill()
    say(feeder, b"while it is away\n")
    port = str(first.address[1])
    start_broker("--port", port, "--http-port", "0", data=first.data).wait_ready()
    printed = [line(follower)]
    while printed[-1] != b"while it is away\n":
        printed.append(line(follower))
    assert set(printed) <= {b"before\n", b"while it is away\n"}
    follower.send_signal(signal.SIGINT)
    code, said = ended(follower)
    assert code == 130
    assert b"connected again to 127.0.0.1:" in said
    assert ended(feeder)[0] == 0


def test_health_of_a_broker_that_is_gone_is_three(cli: Cli, broker: BrokerProcess) -> None:
    assert broker.stop() == 0
    code, said = cli.fails("health")
    assert code == 3
    assert "penstock serve" in said


# ---- At a terminal


def at_terminal(cli: Cli, *argv: str, typed: bytes) -> tuple[int, str]:
    """Exit code and the screen of a command; `typed` once it has printed something."""
    child, screen = pty.fork()
    if not child:
        os.execve(PENSTOCK[0], [*PENSTOCK, *argv], cli.environ)
    shown = b""
    try:
        while True:
            ready, _, _ = select.select([screen], [], [], SECONDS)
            assert ready, f"it waits: {shown!r}"
            shown += os.read(screen, 4096)
            if typed and shown.endswith((b"[y/N] ", b"ends\r\n")):
                os.write(screen, typed)
                typed = b""
    except OSError:  # how a terminal says that its last user is gone
        pass
    finally:
        os.close(screen)
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), shown.decode().replace("\r\n", "\n")


def test_terminal_is_told_what_was_done(cli: Cli) -> None:
    assert at_terminal(cli, "queue", "create", "q", typed=b"") == (0, "queue q is ready\n")
    code, screen = at_terminal(cli, "enqueue", "q", typed=b"a\nb\n\x04")
    assert code == 0
    assert screen.startswith("one message a line; Ctrl-D ends\n")
    assert screen.endswith("2 messages are in q\n")


@pytest.mark.parametrize(
    ("typed", "code", "left"),
    [
        pytest.param(b"y\n", 0, 0, id="agreed"),
        pytest.param(b"n\n", 1, 1, id="refused"),
        pytest.param(b"\n", 1, 1, id="no is the default"),
        pytest.param(b"\x04", 1, 1, id="end of input"),
        pytest.param(b"\x03", 130, 1, id="Ctrl-C"),
    ],
)
def test_terminal_is_asked_before_something_is_destroyed(
    cli: Cli, typed: bytes, code: int, left: int
) -> None:
    cli("queue", "create", "q")
    cli("enqueue", "q", "a")
    ended_with, screen = at_terminal(cli, "queue", "purge", "q", typed=typed)
    assert ended_with == code
    assert screen.startswith("purge 1 messages (0 more in flight, ")
    assert cli.stats("q")["ready"] == left
