"""Values as people type them."""

import math
from argparse import ArgumentTypeError, Namespace
from datetime import UTC, datetime, timedelta

import pytest

from penstock.cli import arguments
from penstock.cli.arguments import COUNT, DURATION, SIZE, SWITCH, WEIGHTS, Setting, or_none


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30.0),
        ("5m", 300.0),
        ("12h", 43_200.0),
        ("7d", 604_800.0),
        ("1.5s", 1.5),
        ("2", 2.0),
    ],
)
def test_duration_is_a_number_with_a_unit_or_seconds(text, seconds):
    assert arguments.duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("64KiB", 65_536), ("10MiB", 10 << 20), ("8GiB", 8 << 30), ("0", 0)]
)
def test_size_is_a_number_with_a_unit_or_bytes(text, size):
    assert arguments.size(text) == size


REFUSED = [
    (arguments.duration, ["5 minutes", "-5s", "", "inf", "1e9", "5S"], "write it like 250ms, 30s"),
    (arguments.size, ["8GB", "1.5GiB", "-1", ""], "write it like 4096, 64KiB"),
    (arguments.count, ["-1", "1_000", "many", ""], "write it like 1000"),
    (arguments.at_most, ["all", "-1"], "write it like 1000"),
    (arguments.number, ["nan", "-1", "1e9"], "write it like 2 or 0.2"),
    (
        arguments.place,
        ["yesterday", "-10", "-", ""],
        "write earliest, latest, an offset like 42, an instant like 2026-12-01T08:00Z, or -1h",
    ),
    (
        arguments.instant,
        ["now", "2026-01-02", "2026-01-02T03:04", "-1", ""],
        "write it like 2026-12-01T08:00Z",
    ),
    (arguments.switch, ["on", "true", "", "YES"], "write yes or no"),
    (arguments.weights, ["acme", "=3", "a=1,", ""], "write them like acme=3,umbrella=0.5"),
    (arguments.weights, ["acme=much"], "write it like 2 or 0.2"),
    (arguments.header, ["no value", "=value"], "write it like trace=abc"),
    (arguments.header, ["k=\udcff"], "is not UTF-8"),
    (arguments.utf8, ["\udcff"], "is not UTF-8"),
    (arguments.delimiter, [""], "write it like"),
    (arguments.unescaped, [r"\q", "ends in \\", r"\x4"], "known are"),
]


@pytest.mark.parametrize(
    ("read", "text", "said"), [(read, text, said) for read, texts, said in REFUSED for text in texts]
)
def test_what_cannot_be_read_says_what_to_write(read, text, said):
    with pytest.raises(ArgumentTypeError, match=said):
        read(text)


@pytest.mark.parametrize("text", ["250ms", "1500ms", "30s", "5m", "12h", "7d", "0s"])
def test_duration_is_shown_as_it_is_typed(text):
    assert arguments.duration_text(arguments.duration(text)) == text


@pytest.mark.parametrize("text", ["0B", "1500B", "64KiB", "8GiB", "1TiB"])
def test_size_is_shown_as_it_is_typed(text):
    assert arguments.size_text(arguments.size(text)) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (1023, "1023B"), (1024, "1.0KiB"), (1_300_000, "1.2MiB")]
)
def test_size_to_look_at_is_rounded(size, text):
    assert arguments.about_size(size) == text


def test_none_is_unlimited_where_the_setting_allows_it():
    assert or_none(SIZE).read("none") is None
    assert or_none(SIZE).read("1KiB") == 1024
    assert or_none(SIZE).show(None) == "none"
    with pytest.raises(ArgumentTypeError):
        SIZE.read("none")


def test_limit_none_is_infinite():
    assert arguments.at_most("none") == math.inf
    assert arguments.at_most("7") == 7


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("earliest", "earliest"),
        ("latest", "latest"),
        ("42", 42),
    ],
)
def test_place_is_an_end_or_an_offset(text, place):
    assert arguments.place(text) == place


def test_place_may_be_how_long_ago():
    before = datetime.now(UTC)
    place = arguments.place("-1h")
    assert before <= place + timedelta(hours=1) <= datetime.now(UTC)


def test_longer_ago_than_anything_is_the_beginning_of_time():
    assert arguments.place("-999999999999d") == datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["2026-01-02T03:04Z", "2026-01-02T04:04+01:00", "2026-01-02T03:04:00.000+00:00"]
)
def test_instant_has_its_zone(text):
    assert arguments.instant(text) == datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def test_instant_may_be_how_long_ago():
    before = datetime.now(UTC)
    assert before <= arguments.instant("-1h") + timedelta(hours=1) <= datetime.now(UTC)


@pytest.mark.parametrize("text", ["yes", "no"])
def test_switch_is_shown_as_it_is_typed(text):
    assert SWITCH.show(SWITCH.read(text)) == text


@pytest.mark.parametrize("text", ["acme=3", "acme=3,umbrella=0.5", "a=b=2", "none"])
def test_weights_are_shown_as_they_are_typed(text):
    assert WEIGHTS.show(WEIGHTS.read(text)) == text


def test_header_value_may_hold_an_equals_sign():
    assert arguments.header("query=a=b") == ("query", "a=b")


def test_escapes_stand_for_characters():
    assert arguments.unescaped(r"a\tb\n\0\\n\x41") == "a\tb\n\0\\nA"


def test_delimiter_keeps_bytes_that_are_not_utf8():
    assert arguments.delimiter("\udcff") == b"\xff"
    assert arguments.delimiter(r"\r\n") == b"\r\n"


TABLE = (
    Setting("visibility_timeout", DURATION, "lease"),
    Setting("max_attempts", or_none(COUNT), "tries"),
    Setting("max_bytes", or_none(SIZE), "size"),
)


def test_option_is_made_of_the_name_of_the_setting():
    assert [setting.option.names for setting in TABLE] == [
        ("--visibility-timeout",),
        ("--max-attempts",),
        ("--max-bytes",),
    ]


def test_only_the_settings_that_were_typed_are_given():
    typed = Namespace(queue="q", visibility_timeout=30.0, max_attempts=None)
    assert arguments.settings_given(typed, TABLE) == {"visibility_timeout": 30.0, "max_attempts": None}


def test_settings_are_shown_as_they_would_be_typed():
    values = {"visibility_timeout": 90.0, "max_attempts": None, "max_bytes": 8 << 30, "unknown": 1}
    shown = [("visibility_timeout", "90s"), ("max_attempts", "none"), ("max_bytes", "8GiB")]
    assert arguments.settings_shown(values, TABLE) == shown
