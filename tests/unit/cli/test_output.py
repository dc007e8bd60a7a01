"""Tables, JSON lines, formats."""

import json
import os
from argparse import ArgumentTypeError
from datetime import UTC, datetime
from uuid import UUID

import pytest

from penstock.cli.output import Output, bytes_as, formatter, json_line, table

FIELDS = {"b": lambda value: value, "n": lambda value: b"%d" % len(value)}


def test_table_aligns_text_left_and_numbers_right():
    assert table(("QUEUE", "READY", "OLDEST"), [("emails", 5, "1m"), ("jobs", 1200, None)]) == (
        "QUEUE   READY  OLDEST\n"
        "emails      5  1m\n"
        "jobs     1200  -\n"
    )  # fmt: skip


def test_table_without_rows_is_its_head():
    assert table(("GROUP", "TOPIC"), []) == "GROUP  TOPIC\n"


def test_column_of_numbers_and_gaps_stays_to_the_right():
    assert table(("LAG",), [(7,), (None,), (12.345,)]) == " LAG\n   7\n   -\n12.3\n"


def test_json_line_is_one_line_of_utf8():
    line = json_line({"body": "zwei\nZeilen ü"})
    assert line.count(b"\n") == 1
    assert "ü".encode() in line
    assert json.loads(line) == {"body": "zwei\nZeilen ü"}


def test_json_knows_instants_uuids_and_bytes():
    value = {"at": datetime(2026, 1, 2, 3, 4, 5, 678_900, UTC), "uuid": UUID(int=1), "raw": b"\xff"}
    assert json.loads(json_line(value)) == {
        "at": "2026-01-02T03:04:05.678Z",
        "uuid": "00000000-0000-0000-0000-000000000001",
        "raw": {"base64": "/w=="},
    }


def test_bytes_are_text_if_they_are_utf8_else_base64():
    assert bytes_as("body", "grün".encode()) == {"body": "grün"}
    assert bytes_as("body", b"\xff\xfe") == {"body_base64": "//4="}
    assert bytes_as("key", None) == {"key": None}


def test_format_puts_fields_between_text():
    assert formatter("<%b|%n> 100%%\n", FIELDS)(b"ab") == b"<ab|2> 100%\n"


def test_format_keeps_bodies_as_bytes():
    assert formatter("%b", FIELDS)(b"\xff%n") == b"\xff%n"


@pytest.mark.parametrize("text", ["%z", "%", "%b%"])
def test_format_with_an_unknown_field_names_the_known_ones(text):
    with pytest.raises(ArgumentTypeError, match="known are %b %n %%"):
        formatter(text, FIELDS)


async def test_objects_are_written_as_they_are_taken():
    reader, writer = os.pipe()
    try:
        await Output(json=True, fd=writer).objects({"n": n} for n in range(2_500))
        os.close(writer)
        with os.fdopen(reader, "rb", closefd=False) as lines:
            assert [json.loads(line)["n"] for line in lines] == list(range(2_500))
    finally:
        os.close(reader)
