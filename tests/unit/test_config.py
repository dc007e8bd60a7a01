"""Every setting from every place, and what is refused."""

import json
import tomllib
from pathlib import Path

import pytest

from penstock_broker import config
from penstock_broker.config import SETTINGS, ConfigError, Given, assignment, load

NOWHERE: dict[str, str] = {}


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "penstock.toml"
    path.write_text(text, "utf-8")
    return str(path)


def test_defaults_stand_without_any_source() -> None:
    loaded = load(environ=NOWHERE)
    assert loaded.config.server.port == 7420
    assert loaded.config.storage.data == "./penstock-data"
    assert loaded.config.server.session_grace_ms == 10_000
    assert set(loaded.origins.values()) == {"default"}


def test_flags_go_before_environment_before_file_before_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, "[server]\nport = 1\nhttp_port = 2\nhost = 'a'\n")
    environ = {"PENSTOCK_SERVER__PORT": "3", "PENSTOCK_SERVER__HTTP_PORT": "4"}
    loaded = load([Given("server.port", "5", "--port")], file, environ)
    server = loaded.config.server
    assert (server.port, server.http_port, server.host, server.http_host) == (5, 4, "a", "127.0.0.1")
    assert [loaded.origins[f"server.{key}"] for key in ("port", "http_port", "host", "http_host")] == [
        "--port",
        "PENSTOCK_SERVER__HTTP_PORT",
        file,
        "default",
    ]


@pytest.mark.parametrize(
    ("given", "attribute", "value"),
    [
        ("server.session_grace=50ms", "session_grace_ms", 50),
        ("server.session_grace=30s", "session_grace_ms", 30_000),
        ("server.session_grace=5m", "session_grace_ms", 300_000),
        ("server.session_grace=1h", "session_grace_ms", 3_600_000),
        ("limits.message_bytes=2MiB", "message_bytes", 2 << 20),
        ("limits.message_bytes=512KiB", "message_bytes", 512 << 10),
        ("limits.message_bytes=1000", "message_bytes", 1000),
        ("limits.publish_pool_bytes=8GiB", "publish_pool_bytes", 8 << 30),
        ("storage.journal_budget_bytes=auto", "journal_budget_bytes", None),
        ("storage.journal_budget_bytes=64MiB", "journal_budget_bytes", 64 << 20),
        ("log.format=json", "format", "json"),
        ("storage.durability=fsync", "durability", "fsync"),
        ("storage.durability=interval:50ms", "durability", "interval:50ms"),
        ("storage.durability=os", "durability", "os"),
        ("metrics.objects_max=0", "objects_max", 0),
    ],
)
def test_value_is_read_in_its_unit(given: str, attribute: str, value: object) -> None:
    loaded = load([assignment(given)], environ=NOWHERE)
    section = given.partition(".")[0]
    assert getattr(getattr(loaded.config, section), attribute) == value


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("server.prot=1", "--set: there is no setting 'server.prot'; the nearest is server.port"),
        ("serve.port=1", "there is no setting 'serve.port'; the nearest is server.port"),
        ("port=1", "the nearest is server.port"),
        ("server.port=65536", "server.port = '65536' must be a number from 0 to 65535"),
        ("server.port=-1", "must be a number"),
        ("server.port=http", "must be a number"),
        ("server.host=", "must be a text"),
        ("server.session_grace=10", "with its unit (50ms 30s 5m 12h 7d)"),
        ("server.session_grace=10 minutes", "with its unit"),
        ("server.stop_timeout=2d", 'must be a duration from "1s" to "1h"'),
        ("limits.message_bytes=7MiB", 'must be a size from "1B" to "6MiB"'),
        ("limits.message_bytes=1MB", "must be a size"),
        ("log.level=loud", "must be one of debug, info, warning, error"),
        ("storage.durability=never", "must be fsync, interval:50ms (from 1ms to 60000ms) or os"),
        ("storage.durability=interval:0ms", "must be fsync, interval:50ms"),
    ],
)
def test_value_that_cannot_be_used_is_refused_in_one_line(given: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load([assignment(given)], environ=NOWHERE)
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_assignment_without_equals_sign_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"write section\.key=value"):
        assignment("server.port")


def test_unknown_key_in_the_environment_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"PENSTOCK_SERVER__PROT: .* nearest is server\.port"):
        load(environ={"PENSTOCK_SERVER__PROT": "1"})


def test_environment_of_the_client_is_none_of_our_business() -> None:
    environ = {"PENSTOCK_URL": "penstock://localhost", "PENSTOCK_TOKEN": "secret", "PATH__X": "/bin"}
    assert set(load(environ=environ).origins.values()) == {"default"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[server]\nprot = 1\n", "there is no setting 'server.prot'"),
        ("port = 1\n", "there is no setting 'port'"),
        ("[sever]\nport = 1\n", "the nearest is server.port"),
        ("[server.port]\nx = 1\n", "must be a number"),
        ("[server]\nport = true\n", "must be a number"),
        ("[server]\nport = 1.5\n", "must be a number"),
        ("[server\n", "is not TOML"),
        ("[storage]\njournal_file_bytes_min = '128MiB'\n", "larger than storage.journal_file_bytes_max"),
    ],
)
def test_file_that_is_wrong_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load((), written(tmp_path, text), NOWHERE)
    assert complaint in str(refusal.value)


def test_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file"):
        load((), str(tmp_path / "none.toml"), NOWHERE)


@pytest.mark.parametrize("origin", [True, False])
def test_shown_settings_are_a_file_that_brings_them_about(tmp_path: Path, origin: bool) -> None:
    given = ["server.session_grace=90s", "limits.message_bytes=3000", "storage.data=/var/lib/penstock"]
    loaded = load([assignment(each) for each in given], environ=NOWHERE)
    text = config.as_toml(loaded, origin=origin)
    assert 'session_grace = "90s"' in text
    assert load((), written(tmp_path, text), NOWHERE).config == loaded.config
    assert sum(map(len, tomllib.loads(text).values())) == len(SETTINGS)


def test_origin_of_every_setting_is_shown() -> None:
    loaded = load([assignment("server.port=0")], environ={"PENSTOCK_LOG__LEVEL": "debug"})
    lines = config.as_toml(loaded, origin=True).splitlines()
    assert next(line for line in lines if line.startswith("port")).endswith("# --set")
    assert next(line for line in lines if line.startswith("level")).endswith("# PENSTOCK_LOG__LEVEL")
    shown = json.loads(config.as_json(loaded, origin=True))
    assert shown["server.port"] == {"value": 0, "origin": "--set"}
    assert json.loads(config.as_json(loaded, origin=False))["log.level"] == "debug"


def test_service_manager_is_taken_from_the_environment() -> None:
    assert config.supervisor({}) == (None, False)
    assert config.supervisor({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000"}) == ("/run/n", True)
