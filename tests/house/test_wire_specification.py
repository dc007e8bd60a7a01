"""The wire specification says what the code says: tables, fields, limits, settings."""

import re
from collections.abc import Iterator
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from penstock_broker.queues import policy as queues
from penstock_broker.queues import schedules
from penstock_broker.topics import policy as topics
from penstock_protocol import errors, limits, verbs
from penstock_protocol.messages.session import Failure

SPECIFICATION = Path(__file__).parents[2] / "protocol/penstock_protocol/README.md"
TEXT = SPECIFICATION.read_text("utf-8")
WIRE_NAMES = {int: "int", str: "text", bytes: "bytes", bool: "bool", NoneType: "nil"}
MESSAGES: dict[str, Any] = {
    **{verb.name: verb.request for verb in verbs.VERBS},
    **{verb.reply.__name__: verb.reply for verb in verbs.VERBS if verb.reply},
    Failure.__name__: Failure,
}
"""Heading of the section → class that it describes."""


def sections() -> Iterator[tuple[str, str]]:
    """(name, text) of each part under a third-level heading; a heading may have several names."""
    for part in re.split(r"^### ", TEXT, flags=re.M)[1:]:
        heading, _, text = re.split(r"^## ", part, maxsplit=1, flags=re.M)[0].partition("\n")
        for name in heading.split(", "):
            yield name, text


SECTIONS = dict(sections())
SETTINGS = {
    "Queue settings": (queues.Policy, queues.SETTINGS),
    "Schedule settings": (schedules.Rhythm, schedules.SETTINGS),
    "Topic settings": (topics.Policy, topics.SETTINGS),
}
"""Heading of the section → what holds the defaults, and the checks."""


def rows(text: str) -> list[list[str]]:
    """Cells of the first table in `text`, without its two head lines."""
    table = re.search(r"^\|.*\n\|[-|]+\n((?:\|.*\n?)*)", text, flags=re.M)
    return (
        [[cell.strip() for cell in line[1:-1].split("|")] for line in table[1].splitlines()] if table else []
    )


def between(marker: str) -> str:
    """What stands between two marker comments."""
    return TEXT.split(f"<!-- {marker} -->\n")[1].split(f"\n<!-- /{marker} -->")[0]


def wire_type(annotation: Any) -> str:
    """The type as the specification calls it."""
    if annotation in WIRE_NAMES:
        return WIRE_NAMES[annotation]
    if get_origin(annotation) is dict:
        return "map"
    if get_origin(annotation) is UnionType:
        return " or ".join(map(wire_type, get_args(annotation)))
    items, _ = get_args(annotation)
    inner = ", ".join(map(wire_type, get_args(items)))
    return f"array of ({inner})" if inner else f"array of {wire_type(items)}"


def number(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def plain(value: Decimal) -> float:
    """As a client would send it: an int where it is one."""
    return int(value) if value == int(value) else float(value)


@pytest.mark.parametrize(("marker", "module"), [("verbs", verbs), ("errors", errors)])
def test_table_is_the_one_the_code_prints(marker: str, module: Any) -> None:
    assert between(marker) == module.markdown()


@pytest.mark.parametrize("name", MESSAGES)
def test_section_lists_the_fields_in_wire_order(name: str) -> None:
    cls = MESSAGES[name]
    expected = [field for field in cls._fields if field != "payload"]
    described = rows(SECTIONS[name])
    assert [row[0] for row in described] == expected
    assert ("Payload:" in SECTIONS[name]) == ("payload" in cls._fields)
    defaults = [row[0] for row in described if "default" in row[-1].split("; ")[-1]]
    assert defaults == [field for field in expected if field in cls._field_defaults]


@pytest.mark.parametrize(
    "name", sorted(MESSAGES.keys() - {"CREATE_TOPIC"})
)  # there a queue's name may be nil
def test_section_gives_the_type_of_each_field(name: str) -> None:
    hints = get_type_hints(MESSAGES[name])
    assert [row[1] for row in rows(SECTIONS[name])] == [
        wire_type(hints[field]) for field in MESSAGES[name]._fields if field != "payload"
    ]


@pytest.mark.parametrize("verb", verbs.VERBS, ids=[verb.name for verb in verbs.VERBS])
def test_section_names_the_reply(verb: verbs.Verb) -> None:
    found = re.findall(r"\[(\w+)\]\(#\w+\)", SECTIONS[verb.name])
    assert found == ([verb.reply.__name__] if verb.reply else [])


@pytest.mark.parametrize("verb", verbs.VERBS, ids=[verb.name for verb in verbs.VERBS])
def test_section_answers_with_errors_that_exist(verb: verbs.Verb) -> None:
    names = {error.__name__ for error in errors.TABLE.values()}
    assert set(re.findall(r"`([A-Z]\w+)`", SECTIONS[verb.name])) <= names


def test_limits_are_those_of_the_code() -> None:
    described = {name: number(value) for name, value, _ in rows(TEXT.split("## 18. Limits")[1])}
    assert described == {
        name: value for name, value in vars(limits).items() if name.isupper() and name not in ("KIB", "MIB")
    }


@pytest.mark.parametrize("heading", SETTINGS)
def test_settings_have_the_defaults_of_the_code(heading: str) -> None:
    described = {row[0]: row[2] for row in rows(SECTIONS[heading])}
    policy, checks = SETTINGS[heading]
    defaults = {field.name: field.default for field in fields(policy)}
    assert described.keys() == defaults.keys() == checks.keys()
    for name, default in defaults.items():
        if name == "dead_letter":
            assert described[name] == "`<name>.dead`"
        elif default is None or isinstance(default, str):
            assert described[name] == (default or "nil")
        elif isinstance(default, bool):
            assert described[name] == str(default).lower()
        elif default == ():
            assert described[name] == "empty"
        else:
            assert float(number(described[name])) == default


@pytest.mark.parametrize("heading", SETTINGS)
def test_settings_have_the_ranges_of_the_code(heading: str) -> None:
    for name, _, _, described in rows(SECTIONS[heading]):
        bounds = re.match(r"([\d,.]+) … ([\d,]+)", described)
        if bounds is None:
            continue
        check, allowed = SETTINGS[heading][1][name]
        low, high = (plain(number(bound)) for bound in bounds.groups())
        high = limits.INT_MAX if "2^63" in described else high
        assert check(low), allowed
        assert check(high), allowed
        assert not check(low - 1), allowed
        assert not check(high + 1), allowed
        assert check(None) == ("nil" in described)


def test_links_lead_to_headings() -> None:
    headings = re.findall(r"^#+ (.+)$", TEXT, flags=re.M)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, anchor = target.partition("#")
        assert (SPECIFICATION.parent / path).exists(), target
        assert path or anchor in anchors, target
