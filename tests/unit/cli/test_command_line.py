"""What is typed: found, read, or refused in one line that says what to type."""

import socket
from datetime import UTC, datetime

import pytest

from penstock.cli import COMMANDS, FAMILIES, main, plugins, schedules
from penstock.cli.messages import NAMES
from penstock.cli.queues import SETTINGS
from penstock.outgoing import EnqueueOptions
from penstock.schedules import ScheduleSettings
from penstock.values import Backoff, QueueSettings


@pytest.fixture
def typed(capsys):
    """Exit code, stdout and stderr of a command line."""

    def run(*argv):
        try:
            code = main(argv)
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def closed_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


def test_nothing_typed_shows_how_to_begin(typed):
    code, out, err = typed()
    assert code == 0
    assert not err
    for command in ("serve", "queue create", "enqueue", "receive", "health"):
        assert f"  penstock {command} " in out


def test_help_lists_every_command(typed):
    code, out, _ = typed("--help")
    assert code == 0
    for name in (*COMMANDS, *plugins.PROVIDERS):
        assert f"\n  {name} " in out


def test_help_on_a_family_lists_its_commands(typed):
    code, out, _ = typed("topic", "--help")
    assert code == 0
    verbs = [line.split()[1] for line in out.splitlines()]
    assert verbs == ["create", "list", "describe", "alter", "delete", "table"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_begins_with_what_to_type(typed, name):
    code, out, err = typed(*name.split(), "--help")
    assert code == 0
    assert not err
    assert out.startswith(f"usage: penstock {name}")


def test_version_is_that_of_the_distribution(typed):
    code, out, _ = typed("--version")
    assert code == 0
    assert out.startswith("penstock 0.")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        pytest.param(["enque"], "did you mean `penstock enqueue`?", id="misspelt command"),
        pytest.param(["qwertz"], "`penstock --help` lists all", id="unknown command"),
        pytest.param(["queue"], "create, list, describe, alter, delete, purge, peek", id="family alone"),
        pytest.param(["group", "move"], "list, describe", id="unknown verb of a family"),
        pytest.param(["--json"], "type a command", id="option alone"),
        pytest.param(["enqueue"], "type penstock enqueue QUEUE [BODY ...]", id="missing argument"),
        pytest.param(["queue", "create", "a", "b"], "unrecognized arguments: b", id="one argument too many"),
        pytest.param(["queue", "list", "--nope"], "unrecognized arguments: --nope", id="unknown option"),
        pytest.param(
            ["queue", "list", "--pre", "x"], "unrecognized arguments: --pre x", id="shortened option"
        ),
        pytest.param(
            ["queue", "alter", "q", "--max-bytes", "8GB"], "write it like 4096, 64KiB", id="bad size"
        ),
        pytest.param(["receive", "q", "--wait", "soon"], "write it like 250ms, 30s", id="bad duration"),
        pytest.param(["receive", "q", "--format", "%x"], "known are %b", id="bad format"),
        pytest.param(["fetch", "t", "--from", "-10"], "earliest, latest, an offset", id="bad place"),
        pytest.param(["enqueue", "q", "-H", "k"], "write it like trace=abc", id="bad header"),
        pytest.param(
            ["enqueue", "q", "--at", "tomorrow"], "write it like 2026-12-01T08:00Z", id="bad instant"
        ),
        pytest.param(["enqueue", "q", "--on-conflict", "drop"], "invalid choice: 'drop'", id="bad choice"),
        pytest.param(["queue", "alter", "q", "--paused", "on"], "write yes or no", id="bad switch"),
        pytest.param(["queue", "replay", "q"], "--since", id="missing option"),
        pytest.param(
            ["schedule", "create", "s", "q", "x", "--every", "soon"], "write it like 250ms", id="bad rhythm"
        ),
        pytest.param(["queue", "create", "\udcff"], "is not UTF-8", id="name that is not text"),
        pytest.param(["health", "--url", "http://x"], "penstock://127.0.0.1:7420", id="bad URL"),
        pytest.param(
            ["health", "--url", "penstock://a:secret@b"], "penstock://TOKEN@host:port", id="password"
        ),
    ],
)
def test_wrong_command_line_ends_with_two_and_one_line(typed, argv, said):
    code, out, err = typed(*argv)
    assert code == 2
    assert not out
    assert said in err
    assert err.startswith("penstock: ")
    assert err.count("\n") == 1
    assert "secret" not in err


def test_no_broker_ends_with_three_at_once_and_says_how_to_start_one(typed, closed_port):
    code, out, err = typed("queue", "list", "--url", f"penstock://secret@127.0.0.1:{closed_port}")
    assert code == 3
    assert not out
    assert f"127.0.0.1:{closed_port}" in err
    assert "penstock serve" in err
    assert "secret" not in err
    assert err.count("\n") == 1


def test_url_in_front_of_the_command_counts_too(typed, closed_port):
    code, _, err = typed("--url", f"penstock://127.0.0.1:{closed_port}", "health")
    assert code == 3
    assert str(closed_port) in err


def test_url_comes_from_the_environment(typed, closed_port, monkeypatch):
    monkeypatch.setenv("PENSTOCK_URL", f"penstock://127.0.0.1:{closed_port}")
    code, _, err = typed("health")
    assert code == 3
    assert str(closed_port) in err


def test_bug_is_one_line_that_names_the_place(typed, monkeypatch):
    async def broken(call):
        raise AssertionError("unreachable")

    monkeypatch.setattr("penstock.cli._connected", lambda command, options: broken(options))
    code, out, err = typed("health")
    assert code == 1
    assert not out
    assert err.startswith("penstock: this should not happen, please report it: AssertionError at ")
    assert err.count("\n") == 1


def test_options_of_a_queue_are_the_settings_of_the_library():
    curve = [f"retry_{name}" for name in Backoff.__dataclass_fields__]
    library = {name for name in QueueSettings.__annotations__ if name != "retry"}
    assert {setting.name for setting in SETTINGS} == library.union(curve)


def test_options_of_a_schedule_are_the_settings_of_the_library():
    assert {setting.name for setting in schedules.SETTINGS} == ScheduleSettings.__annotations__.keys()


@pytest.mark.parametrize("argv", [["--from", "-1h"], ["--from=-1h"]])
def test_how_long_ago_may_begin_with_a_dash(argv):
    assert COMMANDS["fetch"].parse(["t", *argv]).start < datetime.now(UTC)


@pytest.mark.parametrize("argv", [["--since", "-1h"], ["--since=-1h"]])
def test_since_how_long_ago_may_begin_with_a_dash(argv):
    assert COMMANDS["queue find"].parse(["q", *argv]).since < datetime.now(UTC)


def test_options_of_enqueue_are_the_options_of_the_library():
    typed = vars(COMMANDS["enqueue"].parse(["q"]))
    assert typed.keys() >= EnqueueOptions.__annotations__.keys()
    assert set(NAMES) == EnqueueOptions.__annotations__.keys() - {"headers"}


@pytest.mark.parametrize(
    "argv",
    [
        ["q", "a", "b", "-H", "k=v"],
        ["-H", "k=v", "q", "a", "b"],
        ["q", "-H", "k=v", "a", "b"],
        ["q", "a", "-H", "k=v", "b"],
    ],
)
def test_options_may_stand_anywhere(argv):
    options = COMMANDS["enqueue"].parse(argv)
    assert (options.queue, options.bodies, options.headers) == ("q", ["a", "b"], [("k", "v")])


def test_bodies_behind_two_dashes_may_look_like_options():
    assert COMMANDS["enqueue"].parse(["q", "--", "-H", "--json"]).bodies == ["-H", "--json"]


def test_families_are_the_first_words_of_two():
    assert {"queue", "schedule", "topic", "producer", "group"} == FAMILIES
