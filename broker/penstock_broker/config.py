"""Every setting of the broker, and the only reader of the environment and of the configuration file.

    flags  >  environment (PENSTOCK_SECTION__KEY)  >  TOML file  >  defaults

Each value is checked where it enters and remembers where it came from. A key that does not exist is an
error, not a wish. A duration is text with its unit (`50ms 30s 5m 12h 7d`) and is kept in ms; a size is
text with its unit (`64KiB 8GiB`) or a number of bytes. Nobody below the composition root reads this:
everyone else is given values.
"""

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from penstock_broker import durability
from penstock_broker.settings import CoreSettings
from penstock_protocol.limits import MESSAGE_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
DURATIONS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
SIZES = {"TiB": 1 << 40, "GiB": GIB, "MiB": MIB, "KiB": KIB, "B": 1}
ENVIRONMENT_PREFIX = "PENSTOCK_"
CORE = CoreSettings()
"""The core's own defaults."""


class ConfigError(Exception):
    """A setting that cannot be used: one line that names it and says what to write."""


class Kind(NamedTuple):
    """How a value is read (`ValueError`: what it should be) and how it is shown, as a TOML literal."""

    read: Callable[[object], Any]
    show: Callable[[Any], str]


# ---- Kinds of values


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text")
    return value


def _number(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        given = int(value) if isinstance(value, str) and value.isdecimal() else value
        if type(given) is not int or not least <= given <= most:
            raise ValueError(f"a number from {least} to {most}")
        return given

    return read


def _with_unit(value: object, units: Mapping[str, int]) -> int | None:
    found = re.fullmatch(r"(\d{1,15}) ?([A-Za-z]+)", value) if isinstance(value, str) else None
    return int(found[1]) * units[found[2]] if found and found[2] in units else None


def _in_unit(value: int, units: Mapping[str, int]) -> str:
    unit = next(name for name, worth in units.items() if value % worth == 0 and (value or worth == 1))
    return f'"{value // units[unit]}{unit}"'


def _duration(least: int, most: int) -> Kind:
    def read(value: object) -> int:
        given = _with_unit(value, DURATIONS)
        if given is None or not least <= given <= most:
            shortest, longest = _in_unit(least, DURATIONS), _in_unit(most, DURATIONS)
            raise ValueError(f"a duration from {shortest} to {longest}, with its unit (50ms 30s 5m 12h 7d)")
        return given

    return Kind(read, lambda value: _in_unit(value, DURATIONS))


def _size(least: int, most: int) -> Kind:
    plain = _number(least, most)

    def read(value: object) -> int:
        try:
            with_unit = _with_unit(value, SIZES)
            return plain(value if with_unit is None else with_unit)
        except ValueError:
            smallest, largest = _in_unit(least, SIZES), _in_unit(most, SIZES)
            raise ValueError(f"a size from {smallest} to {largest} (64KiB 64MiB 8GiB)") from None

    return Kind(read, lambda value: _in_unit(value, SIZES))


def _size_or_auto(least: int, most: int) -> Kind:
    size = _size(least, most)
    return Kind(
        lambda value: None if value == "auto" else size.read(value),
        lambda value: '"auto"' if value is None else size.show(value),
    )


def _one_of(*choices: str) -> Kind:
    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return str(value)

    return Kind(read, json.dumps)


def _durability(value: object) -> str:
    return durability.name(durability.parse(value))


TEXT = Kind(_text, json.dumps)
DURABILITY = Kind(_durability, json.dumps)
PORT = Kind(_number(0, 65_535), str)


def _count(least: int, most: int) -> Kind:
    return Kind(_number(least, most), str)


def _share(value: object) -> float:
    try:
        given = float(value) if isinstance(value, str | int | float) else -1.0
    except ValueError:
        given = -1.0
    if isinstance(value, bool) or not 0 <= given <= 1:
        raise ValueError("a number from 0 to 1")
    return given


SHARE = Kind(_share, str)


def _setting(default: Any, kind: Kind, about: str) -> Any:
    return field(default=default, metadata={"kind": kind, "about": about})


# ---- The settings


@dataclass(frozen=True, slots=True)
class Server:
    """Where the broker listens, and whom it lets in."""

    host: str = _setting("127.0.0.1", TEXT, "address for clients")
    port: int = _setting(7420, PORT, "port for clients; 0 picks a free one")
    http_host: str = _setting("127.0.0.1", TEXT, "address for metrics and health")
    http_port: int = _setting(7421, PORT, "port for metrics and health; 0 picks a free one")
    connections_max: int = _setting(12_000, _count(1, 1_000_000), "connections of the node")
    connections_per_address_max: int = _setting(1_000, _count(1, 1_000_000), "of one address before HELLO")
    session_grace_ms: int = _setting(
        CORE.session_grace_ms, _duration(0, 3_600_000), "life of a session without a socket"
    )
    stop_timeout_ms: int = _setting(30_000, _duration(1_000, 3_600_000), "longest drain after SIGTERM")


@dataclass(frozen=True, slots=True)
class Storage:
    """Where data lies, and what a confirm means."""

    data: str = _setting("./penstock-data", TEXT, "data directory; one broker at a time")
    durability: str = _setting(
        CORE.durability, DURABILITY, "what a confirm waits for: fsync, interval:50ms or os"
    )
    journal_budget_bytes: int | None = _setting(
        CORE.journal_budget_bytes,
        _size_or_auto(4 * MIB, 1 << 40),
        "journal on disk; auto: 1GiB, at most 1/8 of the disk",
    )
    journal_file_bytes_min: int = _setting(
        CORE.journal_file_bytes_min, _size(64 * KIB, GIB), "size of the first journal file"
    )
    journal_file_bytes_max: int = _setting(
        CORE.journal_file_bytes_max, _size(64 * KIB, GIB), "size it doubles up to"
    )
    compaction_dirty_ratio: float = _setting(
        CORE.compaction_dirty_ratio, SHARE, "share of a partition's bytes not compacted yet that starts it"
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may use up."""

    message_bytes: int = _setting(CORE.message_bytes_max, _size(1, MESSAGE_BYTES_MAX), "body of one message")
    publish_pool_bytes: int = _setting(
        CORE.publish_pool_bytes, _size(MIB, 1 << 40), "publishes without a confirm, all connections together"
    )
    credit_bytes: int = _setting(
        CORE.credit_bytes, _size(64 * KIB, GIB), "publishes without a confirm, one connection"
    )
    requests: int = _setting(
        CORE.requests_max, _count(1, REQUESTS_IN_FLIGHT_MAX), "requests without a reply, one connection"
    )


@dataclass(frozen=True, slots=True)
class Groups:
    """How consumer groups notice who is gone."""

    session_timeout_ms: int = _setting(
        CORE.group_session_ms, _duration(1_000, 3_600_000), "silence after which a member is gone"
    )
    heartbeat_ms: int = _setting(
        CORE.group_heartbeat_ms, _duration(100, 600_000), "longest pause between signs of life of a member"
    )
    rebalance_timeout_ms: int = _setting(
        CORE.group_rebalance_ms,
        _duration(1_000, 86_400_000),
        "time a member has to give a partition up",
    )
    offsets_retention_ms: int = _setting(
        CORE.group_offsets_ms,
        _duration(60_000, 3650 * 86_400_000),
        "life of the offsets of an empty group",
    )


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a scrape shows."""

    objects_max: int = _setting(
        1_000, _count(0, 1_000_000), "queues, partitions, group partitions (of each) shown one by one"
    )


@dataclass(frozen=True, slots=True)
class Log:
    """How the log on stderr looks."""

    format: str = _setting("auto", _one_of("auto", "json", "console"), "auto: console on a terminal")
    level: str = _setting("info", _one_of("debug", "info", "warning", "error"), "least level that is shown")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, by section."""

    server: Server = field(default_factory=Server)
    storage: Storage = field(default_factory=Storage)
    limits: Limits = field(default_factory=Limits)
    groups: Groups = field(default_factory=Groups)
    metrics: Metrics = field(default_factory=Metrics)
    log: Log = field(default_factory=Log)


class Setting(NamedTuple):
    """One setting as users know it. A duration's key carries no unit: its value does."""

    section: str
    attribute: str
    kind: Kind
    default: Any
    about: str

    @property
    def key(self) -> str:
        """`section.key`."""
        return f"{self.section}.{self.attribute.removesuffix('_ms')}"


def _settings() -> Iterator[Setting]:
    for section in fields(Config):
        for each in fields(section.type):  # type: ignore[arg-type]  # every section is a dataclass
            yield Setting(
                section.name, each.name, each.metadata["kind"], each.default, each.metadata["about"]
            )


SETTINGS = {setting.key: setting for setting in _settings()}


# ---- Reading them


class Given(NamedTuple):
    """A value somebody wrote. `origin`: where, as that person would say it."""

    key: str
    value: object
    origin: str


class Loaded(NamedTuple):
    """The settings in force. `origins`: key → where its value came from."""

    config: Config
    origins: dict[str, str]


def load(
    flags: Sequence[Given] = (), file: str | None = None, environ: Mapping[str, str] = os.environ
) -> Loaded:
    """The settings from all four places. Raises `ConfigError` for the first that cannot be used."""
    origins = dict.fromkeys(SETTINGS, "default")
    values: dict[str, dict[str, Any]] = {section.name: {} for section in fields(Config)}
    from_file = _from_file(Path(file)) if file is not None else []
    for given in (*from_file, *_from_environment(environ), *flags):
        setting = _find(given)
        values[setting.section][setting.attribute] = _read(setting, given)
        origins[given.key] = given.origin
    sections: dict[str, Any] = {
        section.name: section.type(**values[section.name])  # type: ignore[operator]  # a dataclass
        for section in fields(Config)
    }
    config = Config(**sections)
    if config.storage.journal_file_bytes_min > config.storage.journal_file_bytes_max:
        raise ConfigError("storage.journal_file_bytes_min is larger than storage.journal_file_bytes_max")
    if config.groups.heartbeat_ms * 2 > config.groups.session_timeout_ms:
        raise ConfigError("groups.session_timeout must be at least twice groups.heartbeat")
    return Loaded(config, origins)


def assignment(text: str) -> Given:
    """`section.key=value` as `--set` takes it."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(
            f"--set {text}: write section.key=value, for instance --set metrics.objects_max=100"
        )
    return Given(key.strip(), value.strip(), "--set")


def _from_file(path: Path) -> Iterator[Given]:
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    for section, table in tables.items():
        if not isinstance(table, dict):
            yield Given(section, table, str(path))
            continue
        for key, value in table.items():
            yield Given(f"{section}.{key}", value, str(path))


def _from_environment(environ: Mapping[str, str]) -> Iterator[Given]:
    for name in sorted(environ):
        section, separator, key = name.removeprefix(ENVIRONMENT_PREFIX).partition("__")
        if name.startswith(ENVIRONMENT_PREFIX) and separator:
            yield Given(f"{section}.{key}".lower(), environ[name], name)


def _find(given: Given) -> Setting:
    setting = SETTINGS.get(given.key)
    if setting is None:
        nearest = get_close_matches(given.key, SETTINGS, 1, 0.0)
        raise ConfigError(f"{given.origin}: there is no setting {given.key!r}; the nearest is {nearest[0]}")
    return setting


def _read(setting: Setting, given: Given) -> Any:
    try:
        return setting.kind.read(given.value)
    except ValueError as error:
        raise ConfigError(f"{given.origin}: {given.key} = {given.value!r} must be {error}") from None


# ---- Showing them


def shown(loaded: Loaded) -> Iterator[tuple[Setting, str, str]]:
    """Each setting with its value as a TOML literal and where that came from."""
    for key, setting in SETTINGS.items():
        value = getattr(getattr(loaded.config, setting.section), setting.attribute)
        yield setting, setting.kind.show(value), loaded.origins[key]


def as_toml(loaded: Loaded, *, origin: bool) -> str:
    """The settings as a configuration file that would bring them about."""
    lines: list[str] = []
    section = None
    for setting, value, source in shown(loaded):
        if setting.section != section:
            section = setting.section
            lines += ["", f"[{section}]"]
        line = f"{setting.key.partition('.')[2]} = {value}"
        lines.append(f"{line:<40} # {source if origin else setting.about}")
    return "\n".join(lines[1:])


def as_json(loaded: Loaded, *, origin: bool) -> str:
    """The settings as one JSON object: key → value, or key → {value, origin}."""
    values = {setting.key: (json.loads(value), source) for setting, value, source in shown(loaded)}
    return json.dumps(
        {
            key: {"value": value, "origin": source} if origin else value
            for key, (value, source) in values.items()
        },
        indent=2,
    )


# ---- The service manager


class Supervisor(NamedTuple):
    """What systemd puts into the environment. `socket`: address for notifications, or None."""

    socket: str | None
    watchdog: bool


def supervisor(environ: Mapping[str, str] = os.environ) -> Supervisor:
    """Whom to tell about readiness and life."""
    return Supervisor(environ.get("NOTIFY_SOCKET") or None, bool(environ.get("WATCHDOG_USEC")))
