"""What callers hand in and nobody can mean: refused before anything is sent, with what is allowed instead.

Types, and what the wire does not carry; ranges that are the broker's are judged there. Nothing here is called
record by record.
"""

import re
from collections.abc import AsyncIterable, Callable, Collection, Iterable, Mapping
from datetime import datetime
from inspect import isawaitable
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from penstock.errors import Invalid
from penstock.plan import Assignor
from penstock.values import IfExists, TopicPartition, shown
from penstock_protocol.limits import (
    FIELDS_STRING_BYTES_MAX,
    INT_MAX,
    LABEL_BYTES_MAX,
    METADATA_BYTES_MAX,
    NAME_CHARACTERS_MAX_DERIVED,
    PARTITIONS_MAX,
    SCHEDULE_RUNS_MAX,
)

if TYPE_CHECKING:
    from penstock.outgoing import Outgoing

T = TypeVar("T")

NAME = "1 to 250 characters of A-Z a-z 0-9 . _ : -, not beginning with a dot"
TEXT = f"text of up to {FIELDS_STRING_BYTES_MAX:,} bytes, as far as UTF-8 has it"
NAMED = re.compile(r"[A-Za-z0-9_:-][A-Za-z0-9._:-]*")
QUEUES_BY_NAME = ("dead_letter", "source")
"""Settings that name something: the broker's error would not tell which of them is wrong."""
UINT_MAX = 2**64 - 1


def text(what: str, value: object) -> None:
    """Raises `Invalid` for what is no text, or none that the wire carries."""
    if not isinstance(value, str) or not _is_carried(value):
        raise Invalid(f"{what}={shown(value)} is not allowed", hint=f"allowed: {TEXT}")


def metadata(value: object) -> None:
    """Raises `Invalid` for what cannot stand beside an offset."""
    if not isinstance(value, str) or not _is_unicode(value) or len(value.encode()) > METADATA_BYTES_MAX:
        hint = f"allowed: text of up to {METADATA_BYTES_MAX:,} bytes"
        raise Invalid(f"metadata={shown(value)} is not allowed", hint=hint)


def name(what: str, value: T) -> T:
    """It, if it may name something: text with something in it, and not too much. Raises `Invalid`."""
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= NAME_CHARACTERS_MAX_DERIVED
        or not _is_unicode(value)
    ):
        raise Invalid(f"{what}={shown(value)} cannot be a name", hint=NAME)
    return value


def full_name(what: str, value: object) -> None:
    """Raises `Invalid` for what no queue or topic is called, where it is handed in beside other things."""
    name(what, value)
    if not (isinstance(value, str) and NAMED.fullmatch(value)):
        raise Invalid(f"{what}={shown(value)} cannot be a name", hint=NAME)


def label(what: str, value: object) -> None:
    """Raises `Invalid` for what is no text of 1 to 255 bytes."""
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= LABEL_BYTES_MAX
        or not (value.isascii() or (_is_unicode(value) and len(value.encode()) <= LABEL_BYTES_MAX))
    ):
        raise Invalid(f"{what}={shown(value)}: it is text of 1 to {LABEL_BYTES_MAX} bytes of UTF-8")


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def whole(what: str, value: object, least: int = 0, most: int = INT_MAX) -> None:
    """Raises `Invalid` for what is no whole number from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        allowed = f"from {least} up" if most == INT_MAX else f"from {least} to {most:,}"
        raise Invalid(f"{what}={shown(value)} is not allowed", hint=f"allowed: a whole number {allowed}")


def number(what: str, value: object, least: float, most: float) -> None:
    """Raises `Invalid` for what is no number from `least` to `most`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        hint = f"allowed: a number from {least:,} to {most:,}"
        raise Invalid(f"{what}={shown(value)} is not allowed", hint=hint)


def flag(what: str, value: object) -> None:
    """Raises `Invalid` for what is neither True nor False."""
    if not isinstance(value, bool):
        raise Invalid(f"{what}={shown(value)} is not allowed", hint="allowed: True or False")


def choice(what: str, value: object, allowed: Collection[str]) -> None:
    """Raises `Invalid` for what is none of some words."""
    if not isinstance(value, str) or value not in allowed:
        raise Invalid(f"{what}={shown(value)} is not allowed", hint=f"allowed: {', '.join(allowed)}")


def iterable(what: str, values: object) -> None:
    """Raises `Invalid` for what no `for` and no `async for` goes through."""
    if not isinstance(values, Iterable | AsyncIterable):
        raise Invalid(
            f"{what}={shown(values)} cannot be iterated", hint="pass a list of values, or of Outgoing"
        )


def function(what: str, value: object, example: str) -> None:
    """Raises `Invalid` for what cannot be called."""
    if not callable(value):
        raise Invalid(f"{what}={shown(value)} cannot be called", hint=f"for instance {example}")


def awaited(what: str, returned: object, example: str) -> None:
    """Raises `Invalid` for what a plain function returned where a coroutine function was to be."""
    if not isawaitable(returned):
        raise Invalid(f"{what} returned {shown(returned)}, which cannot be awaited", hint=f"write {example}")


def timeout(value: object) -> None:
    """Raises `Invalid` for what is no number of seconds that a clock can count; infinity is for ever."""
    counted = isinstance(value, int | float) and not isinstance(value, bool) and (0 <= value <= INT_MAX)
    if not (counted or value == inf):
        raise Invalid(
            f"timeout={shown(value)} is not allowed", hint="allowed: seconds from 0 up, as a number"
        )


def codec(given: T) -> T:
    """It, if it has the methods of a codec. Raises `Invalid`."""
    if not (callable(getattr(given, "encode", None)) and callable(getattr(given, "decode", None))):
        raise Invalid(f"codec={shown(given)} is no codec", hint="for instance codec=penstock.codecs.json")
    return given


def listed(what: str, values: Iterable[T], example: str) -> tuple[T, ...]:
    """What several things were given as. Raises `Invalid` for what is no list."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise Invalid(f"{what}={shown(values)} is no list", hint=f"for instance {what}={example}")
    return tuple(values)


def administration(request: Any) -> None:
    """Raises `Invalid` for a request that names or sets what cannot be sent."""
    if hasattr(request, "name"):
        name("name", request.name)
    if hasattr(request, "prefix"):
        text("prefix", request.prefix)
    if hasattr(request, "runs"):
        whole("runs", request.runs, most=SCHEDULE_RUNS_MAX)
    choice("if_exists", getattr(request, "if_exists", "check"), get_args(IfExists))
    for setting, value in getattr(request, "settings", {}).items():
        if setting in QUEUES_BY_NAME and value is not None:
            full_name(setting, value)
        for each in value if isinstance(value, tuple | list) else (value,):
            if not _is_carried(each):
                hint = f"allowed: {TEXT}, numbers of up to 64 bits, True, False and None"
                raise Invalid(f"{setting}={shown(value)} is not allowed", hint=hint)


def _is_carried(value: object) -> bool:
    if isinstance(value, str):
        return _is_unicode(value) and len(value.encode()) <= FIELDS_STRING_BYTES_MAX
    if isinstance(value, int):
        return -INT_MAX <= value <= UINT_MAX
    return value is None or isinstance(value, float | bytes)


def reading(group: object, options: Mapping[str, Any], place: Callable[[Any], object]) -> None:
    """The group and those options of a consumer that nobody else looks at before its first request. `place`
    judges how `until` names a partition. Raises `Invalid`."""
    if group is not None:
        name("group", group)
    if options.get("instance") is not None:
        name("instance", options["instance"])
    if options.get("assignor", "sticky") not in get_args(Assignor):
        known = ", ".join(get_args(Assignor))
        raise Invalid(f"assignor={shown(options['assignor'])} is not known", hint=f"known: {known}")
    if not isinstance(options.get("auto_commit", False), bool):
        raise Invalid(f"auto_commit={shown(options['auto_commit'])} is not allowed", hint="True or False")
    for callback in ("on_assigned", "on_revoked"):
        given = options.get(callback)
        if given is not None and not callable(given):
            raise Invalid(f"{callback}={shown(given)} cannot be called", hint="pass a function (partitions)")
    until = options.get("until")
    if isinstance(until, Mapping):
        for each, offset in until.items():
            place(each)
            whole(f"until[{each!r}]", offset)
    elif not isinstance(until, str | datetime | None):
        raise Invalid(f"until={shown(until)} is no end", hint='"now", a datetime, or offsets by partition')


def unsendable(item: "Outgoing", error: Exception) -> Invalid:
    """Why a record has no form on the wire: which part of it is wrong, where that can be said."""
    key: Any = item.key
    headers: Any = item.headers
    timestamp: Any = item.timestamp
    if not (
        _is_unicode(key) if isinstance(key, str) else isinstance(key, bytes | bytearray | memoryview | None)
    ):
        return Invalid(
            f"key={shown(key)} is not allowed", hint="allowed: bytes, or text as far as UTF-8 has it"
        )
    if not isinstance(headers, Mapping | None):
        return Invalid(
            f"headers={shown(headers)} is no mapping", hint='for instance headers={"type": "order"}'
        )
    if not isinstance(timestamp, datetime | None):
        return Invalid(f"timestamp={shown(timestamp)} is no datetime", hint="datetime.now(timezone.utc)")
    return Invalid(f"a record has no form on the wire: {error}")


def partition(number: object) -> None:
    """Raises `Invalid` for what is no number of a partition."""
    whole("partition", number, most=PARTITIONS_MAX - 1)


def topic_partition(place: object) -> None:
    """Raises `Invalid` for what is no partition of one of several topics."""
    if not isinstance(place, tuple) or len(place) != len(TopicPartition._fields):
        raise Invalid(
            f"{shown(place)} is no partition of a topic", hint='for instance TopicPartition("orders", 0)'
        )
    name("topic", place[0])
    partition(place[1])
