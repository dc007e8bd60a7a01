"""What a setting may be: checks with the words that name what they allow.

A leaf, because settings of queues and of topics are tables of these, and neither knows the other.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from penstock_protocol.errors import Invalid

SHOWN_CHARACTERS_MAX = 300
"""Of a value that is not allowed: a setting may be text of 32 KiB."""


class Check(NamedTuple):
    """Whether a wire value is allowed, and what is, for people."""

    holds: Callable[[Any], bool]
    allowed: str


def integer(low: int, high: int) -> Check:
    """An integer within bounds, both included."""
    return Check(
        lambda value: type(value) is int and low <= value <= high, f"an integer from {low:,} to {high:,}"
    )


def number(low: float, high: float) -> Check:
    """An integer or a float within bounds, both included."""
    return Check(
        lambda value: type(value) in (int, float) and low <= value <= high, f"a number from {low} to {high}"
    )


def choice(*names: str) -> Check:
    """One of some words."""
    return Check(lambda value: value in names, " or ".join(names))


def flag() -> Check:
    """True or False."""
    return Check(lambda value: type(value) is bool, "True or False")


def or_none(check: Check) -> Check:
    """What `check` allows, or None."""
    return Check(lambda value: value is None or check.holds(value), f"{check.allowed} or None")


def checked(what: str, table: Mapping[str, Check], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a `what`, if each is in the table and allowed. Raises `Invalid` naming setting, value
    and range."""
    for name, value in settings.items():
        check = table.get(name)
        if check is None:
            raise Invalid(f"a {what} has no setting {name!r}", hint=f"known: {', '.join(sorted(table))}")
        if not check.holds(value):
            raise Invalid(
                f"{name}={value!r:.{SHOWN_CHARACTERS_MAX}} is not allowed", hint=f"allowed: {check.allowed}"
            )
    return dict(settings)
