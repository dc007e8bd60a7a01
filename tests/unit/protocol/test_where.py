"""Filters: what fits a pattern, which records of a batch fit, and what cannot be asked."""

import re
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_protocol.batch import BatchBuilder, BatchView, Kind
from penstock_protocol.errors import Invalid
from penstock_protocol.limits import WHERE_CONDITIONS_MAX, WHERE_PATTERN_BYTES_MAX, WHERE_STARS_MAX
from penstock_protocol.where import Where

ALL = 10_000
ALPHABET = "ab*\\ü"
Row = tuple[Any, Any]
"""Key and headers of a record; None: it has none."""


def batch_of(*rows: Row) -> BatchView:
    builder = BatchBuilder()
    for key, headers in rows:
        cells: list[tuple[Kind, bytes | int]] = []
        if key is not None:
            cells.append((Kind.KEY, msgpack.packb(key)))
        if headers is not None:
            cells.append((Kind.HEADERS, headers if isinstance(headers, bytes) else msgpack.packb(headers)))
        builder.add(b"x", cells)
    return BatchView(builder.encode())


def found(where: dict[str, Any], *rows: Row) -> list[int]:
    return list(Where(where).find(batch_of(*rows), ALL).indexes)


def fits(pattern: str | bytes, key: bytes) -> bool:
    return found({"key": pattern}, (key, None)) == [0]


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        pytest.param("eu", ["eu"], ["eu.", "e", "", "EU"], id="exact"),
        pytest.param("", [""], ["x"], id="empty"),
        pytest.param("eu.*", ["eu.", "eu.7"], ["eu", "us.eu."], id="prefix"),
        pytest.param("*.log", [".log", "a.log"], ["log", "a.log."], id="suffix"),
        pytest.param("*", ["", "anything"], [], id="anything"),
        pytest.param("a*b*c", ["abc", "aXbXc", "abbcc"], ["ab", "acb", "abcX"], id="in between"),
        pytest.param("a*a", ["aa", "aba"], ["a"], id="ends do not overlap"),
        pytest.param("a**b", ["ab", "aXb"], ["a"], id="two stars"),
        pytest.param(r"2\*2", ["2*2"], ["22", "2x2"], id="a star"),
        pytest.param(r"c:\\*", ["c:\\", "c:\\x"], ["c:"], id="a backslash"),
        pytest.param("grün*", ["grün", "grüner"], ["grun"], id="beyond ASCII"),
    ],
)
def test_pattern(pattern: str, fitting: list[str], others: list[str]) -> None:
    assert [key for key in [*fitting, *others] if fits(pattern, key.encode())] == fitting
    rows = [(None, {"h": text}) for text in [*fitting, *others]]
    assert found({"header:h": pattern}, *rows) == list(range(len(fitting)))


def regex_of(pattern: str) -> "re.Pattern[str]":
    parts = re.findall(r"\\.|\*|.", pattern, flags=re.DOTALL)
    return re.compile("".join(".*" if p == "*" else re.escape(p[-1]) for p in parts), flags=re.DOTALL)


@given(st.text(ALPHABET, max_size=8), st.text(ALPHABET, max_size=10))
def test_any_pattern_fits_what_the_regular_expression_of_it_fits(pattern: str, text: str) -> None:
    if re.fullmatch(r"(\\.|[^\\])*", pattern, flags=re.DOTALL) is None:
        with pytest.raises(Invalid, match="lone"):
            fits(pattern, text.encode())
        return
    assert fits(pattern, text.encode()) == bool(regex_of(pattern).fullmatch(text))


def test_binary_keys_are_matched_by_patterns_of_bytes() -> None:
    assert [key for key in (b"\xff\x00a", b"\xff", b"a") if fits(b"\xff*", key)] == [b"\xff\x00a", b"\xff"]


@pytest.mark.parametrize("length", [0, 31, 255, 256, 65_536])
def test_keys_of_every_length_are_unpacked(length: int) -> None:
    assert found({"key": "k*"}, (b"k" + bytes(length), None), ("k" + "x" * length, None)) == [0, 1]


@pytest.mark.parametrize(
    ("value", "fitting", "others"),
    [
        pytest.param(2, [2, 2.0], ["2", True, None, 3], id="number"),
        pytest.param(1, [1], [True, "1"], id="one is not true"),
        pytest.param(True, [True], [1, "true", False], id="true is not one"),
        pytest.param(None, [None], [0, "", False], id="nil"),
        pytest.param(b"\x00*", [b"\x00*"], [b"\x00x", "\x00*"], id="bytes"),
        pytest.param("2", ["2"], [2, b"2"], id="text"),
    ],
)
def test_other_values_of_headers_are_compared(value: Any, fitting: list[Any], others: list[Any]) -> None:
    rows = [(None, {"h": each}) for each in [*fitting, *others]]
    assert found({"header:h": value}, *rows) == list(range(len(fitting)))


def test_all_conditions_must_hold() -> None:
    rows: list[Row] = [
        (b"eu.1", {"type": "order", "v": 2}),
        (b"us.1", {"type": "order", "v": 2}),
        (b"eu.2", {"type": "refund", "v": 2}),
        (b"eu.3", {"type": "ordered", "v": 1}),
        (b"eu.4", None),
        (None, {"type": "order", "v": 2}),
        (b"eu.5", {"type": "orders", "v": 2}),
    ]
    assert found({"key": "eu.*", "header:type": "order*", "header:v": 2}, *rows) == [0, 6]
    assert found({}, *rows) == list(range(7))


@pytest.mark.parametrize(
    "cell",
    [b"\xc1", b"\x81\xa1h", msgpack.packb(["h", "x"]), msgpack.packb({"h": ["x"]}), b"\x81\xc4\x01h\xa1x"],
    ids=["no msgpack", "cut short", "no map", "a list inside", "a name of bytes"],
)
def test_headers_that_are_none_fit_nothing_and_harm_nobody(cell: bytes) -> None:
    assert found({"header:h": "x"}, (None, cell), (None, {"h": "x"})) == [1]


def test_a_batch_without_the_column_or_the_text_is_not_looked_into() -> None:
    plain = batch_of((None, None), (None, None))
    other = batch_of((b"us.1", {"a": 1}), (b"us.2", {"a": 1}))
    for batch in (plain, other):
        for where in ({"key": "eu.*"}, {"header:type": "x"}):
            found = Where(where).find(batch, 1)
            assert (list(found.indexes), found.upto, found.looked) == ([], 2, 0)


def test_no_more_is_looked_at_than_allowed() -> None:
    batch = batch_of(*[(b"k%d" % (index % 2), None) for index in range(10)])
    found = Where({"key": "k1"}).find(batch, 4)
    assert (list(found.indexes), found.upto, found.looked) == ([1, 3], 4, 4)


ROWS = st.lists(
    st.tuples(
        st.none() | st.sampled_from([b"a", b"ab", b"b", b""]),
        st.none() | st.dictionaries(st.sampled_from("xy"), st.sampled_from(["a", "ab", 1, True, None])),
    ),
    min_size=1,
    max_size=20,
)
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "key": st.sampled_from(["a", "a*", "*b", "*", ""]),
        "header:x": st.sampled_from(["a*", "ab", 1, True, None]),
        "header:y": st.sampled_from(["*", 1]),
    },
)


def naively(where: dict[str, Any], key: bytes | None, headers: dict[str, Any] | None) -> bool:
    for name, wanted in where.items():
        there = key is not None if name == "key" else name[7:] in (headers or {})
        if not there:
            return False
        value: Any = key.decode() if name == "key" and key is not None else (headers or {}).get(name[7:])
        if isinstance(wanted, str):
            if not isinstance(value, str) or not regex_of(wanted).fullmatch(value):
                return False
        elif value != wanted or type(value) is not type(wanted):
            return False
    return True


@given(ROWS, CONDITIONS, st.integers(0, 25))
def test_a_batch_is_looked_through_as_its_records_one_by_one(
    rows: list[Any], where: dict[str, Any], most: int
) -> None:
    found = Where(where).find(batch_of(*rows), most)
    expected = [index for index, row in enumerate(rows) if naively(where, *row)]
    assert list(found.indexes) == [index for index in expected if index < found.upto]
    assert found.upto >= min(most, len(rows))
    assert found.looked in (0, found.upto)


@pytest.mark.parametrize(
    ("where", "why"),
    [
        pytest.param({"keys": "a"}, "no condition 'keys'", id="unknown"),
        pytest.param({"key": 7}, "key=7 is no pattern", id="a key that is a number"),
        pytest.param({"key": None}, "key=None is no pattern", id="no key"),
        pytest.param({"header:h": ("a",)}, "compared with a tuple", id="a list"),
        pytest.param({"key": "x" * (WHERE_PATTERN_BYTES_MAX + 1)}, "has 256 bytes", id="a long pattern"),
        pytest.param({"header:h": "ü" * 128}, "has 256 bytes", id="long in bytes"),
        pytest.param({"header:h": bytes(256)}, "with 256 bytes", id="long bytes"),
        pytest.param({"header:" + "n" * 256: "x"}, "no condition 'header:n", id="a long name"),
        pytest.param({"key": "*" * (WHERE_STARS_MAX + 1)}, "17 stars", id="many stars"),
        pytest.param({"key": "a\\"}, "lone", id="a lone backslash"),
        pytest.param({f"header:{n}": "x" for n in range(17)}, "17 conditions", id="many conditions"),
    ],
)
def test_what_cannot_be_asked(where: dict[str, Any], why: str) -> None:
    with pytest.raises(Invalid) as raised:
        Where(where)
    assert why in raised.value.message
    assert len(raised.value.message) < 400


def test_the_most_that_can_be_asked() -> None:
    where = {
        f"header:{n}": "x" * (WHERE_PATTERN_BYTES_MAX - 16) + "*" * 16 for n in range(WHERE_CONDITIONS_MAX)
    }
    headers = {str(n): "x" * WHERE_PATTERN_BYTES_MAX for n in range(WHERE_CONDITIONS_MAX)}
    assert found(where, (None, headers)) == [0]
