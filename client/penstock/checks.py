"""What callers hand in and nobody can mean: refused before anything is sent, with what is allowed instead.

Types, and what the wire does not carry; ranges that are the broker's are judged there. Nothing here is called
record by record.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from math import isnan
from typing import Any, TypeVar, get_args

from penstock.errors import Invalid
from penstock.outgoing import Outgoing
from penstock.plan import Assignor
from penstock.values import IfExists, TopicPartition
from penstock_protocol.limits import INT_MAX, PARTITIONS_MAX

T = TypeVar("T")

NAME = "1 to 250 characters of A-Z a-z 0-9 . _ : -, not beginning with a dot"
UINT_MAX = 2**64 - 1


def text(what: str, value: object) -> None:
    """Raises `Invalid` for what is no text, or none that the wire carries."""
    if not isinstance(value, str) or not _is_unicode(value):
        raise Invalid(f"{what}={value!r} is not allowed", hint="allowed: text, as far as UTF-8 has it")


def name(what: str, value: T) -> T:
    """It, if it may name something: text with something in it. Raises `Invalid`."""
    if not isinstance(value, str) or not value or not _is_unicode(value):
        raise Invalid(f"{what}={value!r} cannot be a name", hint=NAME)
    return value


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
        raise Invalid(f"{what}={value!r} is not allowed", hint=f"allowed: a whole number {allowed}")


def timeout(value: object) -> None:
    """Raises `Invalid` for what is no number of seconds."""
    if not isinstance(value, int | float) or isinstance(value, bool) or isnan(value):
        raise Invalid(f"timeout={value!r} is not allowed", hint="allowed: seconds, as a number")


def codec(given: T) -> T:
    """It, if it has the methods of a codec. Raises `Invalid`."""
    if not (callable(getattr(given, "encode", None)) and callable(getattr(given, "decode", None))):
        raise Invalid(f"codec={given!r} is no codec", hint="for instance codec=penstock.codecs.json")
    return given


def listed(what: str, values: Iterable[T], example: str) -> tuple[T, ...]:
    """What several things were given as. Raises `Invalid` for what is no list."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise Invalid(f"{what}={values!r} is no list", hint=f"for instance {what}={example}")
    return tuple(values)


def administration(request: Any) -> None:
    """Raises `Invalid` for a request that names or sets what cannot be sent."""
    if hasattr(request, "name"):
        name("name", request.name)
    if hasattr(request, "prefix"):
        text("prefix", request.prefix)
    if getattr(request, "if_exists", "check") not in get_args(IfExists):
        allowed = ", ".join(get_args(IfExists))
        raise Invalid(f"if_exists={request.if_exists!r} is not allowed", hint=f"allowed: {allowed}")
    for setting, value in getattr(request, "settings", {}).items():
        for each in value if isinstance(value, tuple | list) else (value,):
            if not _is_carried(each):
                hint = "allowed: text, numbers of up to 64 bits, True, False and None"
                raise Invalid(f"{setting}={value!r} is not allowed", hint=hint)


def _is_carried(value: object) -> bool:
    if isinstance(value, str):
        return _is_unicode(value)
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
        raise Invalid(f"assignor={options['assignor']!r} is not known", hint=f"known: {known}")
    if not isinstance(options.get("auto_commit", False), bool):
        raise Invalid(f"auto_commit={options['auto_commit']!r} is not allowed", hint="True or False")
    for callback in ("on_assigned", "on_revoked"):
        given = options.get(callback)
        if given is not None and not callable(given):
            raise Invalid(f"{callback}={given!r} cannot be called", hint="pass a function (partitions)")
    until = options.get("until")
    if isinstance(until, Mapping):
        for each, offset in until.items():
            place(each)
            whole(f"until[{each!r}]", offset)
    elif not isinstance(until, str | datetime | None):
        raise Invalid(f"until={until!r} is no end", hint='"now", a datetime, or offsets by partition')


def unsendable(item: Outgoing, error: Exception) -> Invalid:
    """Why a record has no form on the wire: which part of it is wrong, where that can be said."""
    key: Any = item.key
    headers: Any = item.headers
    timestamp: Any = item.timestamp
    if not (
        _is_unicode(key) if isinstance(key, str) else isinstance(key, bytes | bytearray | memoryview | None)
    ):
        return Invalid(f"key={key!r} is not allowed", hint="allowed: bytes, or text as far as UTF-8 has it")
    if not isinstance(headers, Mapping | None):
        return Invalid(f"headers={headers!r} is no mapping", hint='for instance headers={"type": "order"}')
    if not isinstance(timestamp, datetime | None):
        return Invalid(f"timestamp={timestamp!r} is no datetime", hint="datetime.now(timezone.utc)")
    return Invalid(f"a record has no form on the wire: {error}")


def partition(number: object) -> None:
    """Raises `Invalid` for what is no number of a partition."""
    whole("partition", number, most=PARTITIONS_MAX - 1)


def topic_partition(place: object) -> None:
    """Raises `Invalid` for what is no partition of one of several topics."""
    if not isinstance(place, tuple) or len(place) != len(TopicPartition._fields):
        raise Invalid(
            f"{place!r} is no partition of a topic", hint='for instance TopicPartition("orders", 0)'
        )
    name("topic", place[0])
    partition(place[1])
