"""Values as people type them, and the same values as people read them.

    30s 5m 12h 7d 250ms      durations; a plain number is seconds
    64KiB 8GiB               sizes; a plain number is bytes
    2026-12-01T08:00Z -1h    instants, or how long ago
    yes no                   switches
    user=acme user:=42       headers: text, and what is no text
    acme=3,umbrella=0.5      weights
    none                     unlimited, where the setting allows it

Each reader is an argparse `type`: it raises `ArgumentTypeError` that says what to write. Nothing here
knows a command.
"""

import math
import re
import time
from argparse import SUPPRESS, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

from penstock.cli.command import Argument, argument

SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
BYTES = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "\\": "\\"}

Place: TypeAlias = str | int | datetime


# Read


def duration(text: str) -> float:
    """Seconds."""
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)([a-z]*)", text)
    if not found or (found[2] or "s") not in SECONDS:
        raise ArgumentTypeError(f"{text!r} is not a duration: write it like 250ms, 30s, 5m, 12h or 7d")
    return float(found[1]) * SECONDS[found[2] or "s"]


def size(text: str) -> int:
    """Bytes."""
    found = re.fullmatch(r"(\d{1,15})([A-Za-z]*)", text)
    if not found or (found[2] or "B") not in BYTES:
        raise ArgumentTypeError(f"{text!r} is not a size: write it like 4096, 64KiB, 10MiB or 8GiB")
    return int(found[1]) * BYTES[found[2] or "B"]


def count(text: str) -> int:
    """A number of things."""
    if not re.fullmatch(r"\d{1,18}", text):
        raise ArgumentTypeError(f"{text!r} is not a number: write it like 1000")
    return int(text)


def at_most(text: str) -> float:
    """How many at most: a number, or infinity for `none`."""
    return math.inf if text == "none" else count(text)


def number(text: str) -> float:
    """A number that may have a fraction."""
    if not re.fullmatch(r"\d{1,12}(\.\d{1,12})?", text):
        raise ArgumentTypeError(f"{text!r} is not a number: write it like 2 or 0.2")
    return float(text)


def place(text: str) -> Place:
    """Where to begin: `earliest`, `latest`, an offset, an instant, or `-1h`, the one so long ago."""
    if text in ("earliest", "latest"):
        return text
    if re.fullmatch(r"\d{1,18}", text):
        return int(text)
    try:
        return instant(text)
    except ArgumentTypeError:
        raise ArgumentTypeError(
            f"{text!r} is no place to begin: write earliest, latest, an offset like 42, an instant like"
            " 2026-12-01T08:00Z, or -1h"
        ) from None


def instant(text: str) -> datetime:
    """A point in time, with its zone, or how long ago."""
    if re.fullmatch(r"-\d.*[a-z]", text):
        return ago(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ArgumentTypeError(
            f"{text!r} is no instant: write it like 2026-12-01T08:00Z or 2026-12-01T08:00+01:00, or -1h"
        )
    return found


def ago(text: str) -> datetime:
    """`-1h`: the instant so long ago."""
    return datetime.fromtimestamp(max(0.0, time.time() - duration(text[1:])), UTC)


def switch(text: str) -> bool:
    """Yes or no."""
    if text not in ("yes", "no"):
        raise ArgumentTypeError(f"{text!r} is neither: write yes or no")
    return text == "yes"


def weights(text: str) -> dict[str, float]:
    """Names with a number each; `none` is none of them."""
    found: dict[str, float] = {}
    for pair in [] if text == "none" else utf8(text).split(","):
        name, equals, weight = pair.rpartition("=")
        if not equals or not name:
            raise ArgumentTypeError(f"{pair!r} is no weight: write them like acme=3,umbrella=0.5")
        found[name] = number(weight)
    return found


def weights_text(weights: Mapping[str, float]) -> str:
    """As they can be typed."""
    return ",".join(f"{name}={weight:g}" for name, weight in weights.items()) or "none"


def utf8(text: str) -> str:
    """A name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ArgumentTypeError(f"{text!r} is not UTF-8") from None
    return text


def header(text: str) -> tuple[str, str]:
    """One `name=value`."""
    name, equals, value = utf8(text).partition("=")
    if not equals or not name:
        raise ArgumentTypeError(f"{text!r} is not a header: write it like trace=abc")
    return name, value


def header_sought(text: str) -> tuple[str, str | int | float | bool]:
    """One `name=text`, or `name:=value` with a number, true or false."""
    name, _, value = utf8(text).partition("=")
    if not name.endswith(":"):
        return header(text)
    if value in ("true", "false"):
        return name[:-1], value == "true"
    for read in (int, float):
        with suppress(ValueError):
            return name[:-1], read(value)
    raise ArgumentTypeError(f"{text!r} is not a header: write it like user=acme, user:=42 or paid:=true")


def unescaped(text: str) -> str:
    r"""Text with `\n`, `\t`, `\r`, `\0`, `\\` and `\xHH` replaced by what they stand for."""

    def one(found: re.Match[str]) -> str:
        code = found[1]
        if code.startswith("x") and len(code) == 3:
            return chr(int(code[1:], 16))
        if code in ESCAPES:
            return ESCAPES[code]
        raise ArgumentTypeError(rf"\{code} means nothing: known are \n \t \r \0 \\ and \xHH")

    return re.sub(r"\\(x[0-9A-Fa-f]{2}|.?)", one, text, flags=re.DOTALL)


def delimiter(text: str) -> bytes:
    """What stands between two messages; not empty."""
    if not text:
        raise ArgumentTypeError(r"a delimiter has at least one character: write it like ';' or '\t'")
    return unescaped(text).encode("utf-8", "surrogateescape")


# Show


def duration_text(seconds: float) -> str:
    """As short as it can be typed: 30s, 1.5s, 12h."""
    ms = round(seconds * 1000)
    unit = next((unit for unit, worth in SECONDS.items() if ms and ms % round(worth * 1000) == 0), "s")
    return f"{ms // round(SECONDS[unit] * 1000)}{unit}"


def size_text(size: int) -> str:
    """Exact, in the largest unit that leaves no rest: 8GiB, 1500B."""
    unit = next((unit for unit, worth in BYTES.items() if size and size % worth == 0), "B")
    return f"{size // BYTES[unit]}{unit}"


def about_size(size: int) -> str:
    """Rounded, for looking at: 1.2MiB."""
    unit = next((unit for unit, worth in BYTES.items() if size >= worth), "B")
    return f"{size}B" if unit == "B" else f"{size / BYTES[unit]:.1f}{unit}"


# Settings


class Kind(NamedTuple):
    """How a value of a setting is read from an option, shown to people, and called in the help."""

    read: Callable[[str], Any]
    show: Callable[[Any], str]
    metavar: str


def or_none(kind: Kind) -> Kind:
    """The kind that can be `none` as well."""
    return Kind(
        lambda text: None if text == "none" else kind.read(text),
        lambda value: "none" if value is None else kind.show(value),
        f"{kind.metavar}|none",
    )


DURATION = Kind(duration, duration_text, "DURATION")
SIZE = Kind(size, size_text, "SIZE")
COUNT = Kind(count, str, "N")
NUMBER = Kind(number, "{:g}".format, "X")
NAME = Kind(utf8, str, "NAME")
SWITCH = Kind(switch, lambda on: "yes" if on else "no", "yes|no")
WEIGHTS = Kind(weights, weights_text, "NAME=X,…|none")


class Setting(NamedTuple):
    """One setting of a queue or topic: `name` is the library's, the option is made of it."""

    name: str
    kind: Kind
    about: str

    @property
    def option(self) -> Argument:
        """`--the-name VALUE`, absent from the result unless it was typed."""
        return argument(
            "--" + self.name.replace("_", "-"),
            type=self.kind.read,
            metavar=self.kind.metavar,
            default=SUPPRESS,
            help=self.about,
        )


def settings_given(options: Namespace, table: Sequence[Setting]) -> dict[str, Any]:
    """The settings that were typed."""
    typed = vars(options)
    return {setting.name: typed[setting.name] for setting in table if setting.name in typed}


def settings_shown(values: Mapping[str, Any], table: Sequence[Setting]) -> list[tuple[str, str]]:
    """Every setting with its value as it would be typed."""
    return [(each.name, each.kind.show(values[each.name])) for each in table if each.name in values]
