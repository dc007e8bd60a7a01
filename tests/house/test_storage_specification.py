"""The storage specification says what the code says, and every test it names is there."""

import ast
import re
from pathlib import Path
from textwrap import dedent

import pytest
from tests.house.source import modules

from penstock_broker import catalogue, producers
from penstock_broker.groups import offsets
from penstock_broker.queues import kept, queue, schedules, states
from penstock_broker.storage import blocks, checkpoint, entries, log, node, segment
from penstock_broker.topics import partition

SPECIFICATION = Path(__file__).parents[2] / "broker/penstock_broker/storage/README.md"
TEXT = SPECIFICATION.read_text("utf-8")
CRASH_POINTS = Path("tests/unit/storage/test_crash_points.py")
MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        blocks,
        checkpoint,
        entries,
        kept,
        log,
        node,
        offsets,
        partition,
        producers,
        queue,
        schedules,
        segment,
        states,
    )
}
CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i64": "q", "uuid": "16s"}
"""Type in the specification → struct code."""


def named_in(*trees: ast.Module) -> set[str]:
    """Names of the test functions in them."""
    return {
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


NAMED = set(re.findall(r"\btest_\w+(?![\w.])", TEXT)) - {"test_crash_points"}


def test_named_tests_exist() -> None:
    assert NAMED
    assert NAMED - named_in(*modules("tests").values()) == set()


def test_every_crash_point_that_is_tested_is_named() -> None:
    assert named_in(modules("tests")[CRASH_POINTS]) - NAMED == set()


def test_layouts_are_those_of_the_docstrings() -> None:
    shown = set(re.findall(r"^```text\n(.*?)\n```$", TEXT, flags=re.M | re.S))
    declared = {
        dedent(layout).rstrip()
        for module in MODULES.values()
        for layout in re.findall(r"^    offset  size .*?(?=\n\n)", module.__doc__ or "", flags=re.M | re.S)
    }
    assert shown == declared


def test_kinds_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", TEXT, flags=re.M)
    assert {name: int(number) for number, name in rows} == {kind.name: kind.value for kind in entries.Kind}


@pytest.mark.parametrize(
    ("name", "fields"),
    re.findall(rf"^\| ((?:{'|'.join(MODULES)})\.[A-Z_]+) \| (.*) \|$", TEXT, flags=re.M),
)
def test_fields_of_a_row_are_those_of_its_struct(name: str, fields: str) -> None:
    module, _, constant = name.partition(".")
    types = [code for word in re.sub(r"\(.*?\)", "", fields).split() if (code := CODES.get(word.rstrip(",")))]
    assert "<" + "".join(types) == getattr(MODULES[module], constant).format


def test_snapshots_have_the_kinds_of_their_machines() -> None:
    rows = re.findall(r"^\| (\d) \| (node|catalogue|queue|partition|group|schedule) \|", TEXT, flags=re.M)
    kinds = {
        **{"node": node, "catalogue": catalogue, "queue": queue},
        **{"partition": partition, "group": offsets, "schedule": schedules},
    }
    assert {name: int(kind) for kind, name in rows} == {name: module.KIND for name, module in kinds.items()}


def test_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", TEXT, flags=re.M)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, anchor = target.partition("#")
        if path:
            assert (SPECIFICATION.parent / path).is_file(), target
        else:
            assert anchor in anchors, target
