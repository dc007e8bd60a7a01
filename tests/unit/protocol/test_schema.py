"""Fields of messages: checked where they enter, against type and limit, whatever arrives."""

import struct
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.format.examples import EXAMPLES

from penstock_protocol.errors import Invalid
from penstock_protocol.limits import (
    FIELDS_ARRAY_MAX,
    FIELDS_BYTES_MAX,
    FIELDS_MAP_MAX,
    FIELDS_STRING_BYTES_MAX,
    INT_MAX,
)
from penstock_protocol.messages import schema
from penstock_protocol.messages.queues import CreateQueue, Enqueue, Nack, Receive
from penstock_protocol.messages.schema import decode, encode, pack_document, unpack, unpack_document
from penstock_protocol.messages.session import Hello, Ping, Welcome
from penstock_protocol.messages.topics import Commit, OffsetReply
from penstock_protocol.verbs import VERBS

NOTHING = memoryview(b"")
CLASSES = sorted(
    {cls for verb in VERBS for cls in (verb.request, verb.reply) if cls}, key=lambda cls: cls.__name__
)
MESSAGES = [example.message for example in EXAMPLES if not example.is_error]
WRONG: list[object] = [
    None,
    True,
    -1,
    INT_MAX + 1,
    1.5,
    "text",
    b"bytes",
    [],
    [1],
    [[0, 1, ""]],
    {},
    {"a": 1},
]
classes = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def decoded(cls: type[Any], *values: object) -> Any:
    payload = NOTHING if "payload" not in cls._fields else memoryview(b"payload")
    return decode(cls, msgpack.packb(list(values)), payload)


# what goes in comes out


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_message_comes_out_as_it_went_in(message: Any) -> None:
    fields, payload = encode(message)
    assert isinstance(payload, bytes | bytearray)
    assert decode(type(message), fields, memoryview(payload)) == message


def test_missing_fields_take_their_defaults() -> None:
    assert decoded(Receive, "q", 1, 2) == Receive("q", 1, 2, None, False)
    assert decoded(Receive, "q", 1, 2, 3) == Receive("q", 1, 2, 3, False)
    assert decoded(Receive, "q", 1, 2, 3, True) == Receive("q", 1, 2, 3, True)


@classes
def test_too_few_and_too_many_fields_are_invalid(cls: type[Any]) -> None:
    found = schema.schema_of(cls)
    for count in {0, found.required - 1, len(found.names) + 1} - {-1}:
        if not found.required <= count <= len(found.names):
            with pytest.raises(Invalid, match=rf"{cls.__name__} takes .*\b{len(found.names)} fields"):
                decoded(cls, *[0] * count)


def test_payload_where_none_belongs_is_invalid() -> None:
    with pytest.raises(Invalid, match="Ping carries no payload"):
        decode(Ping, msgpack.packb([]), memoryview(b"x"))


# types


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_field_refuses_what_is_not_of_its_type(message: Any) -> None:
    found = schema.schema_of(type(message))
    values = list(message[: len(found.names)])
    for i, name in enumerate(found.names):
        refusals = []
        for wrong in WRONG:
            try:
                decoded(type(message), *values[:i], wrong, *values[i + 1 :])
            except Invalid as error:
                refusals.append(error.message)
        assert len(refusals) > len(WRONG) / 2
        assert set(refusals) == {f"{type(message).__name__}: {name} has a wrong type or range"}


TYPES = {
    "an int": (OffsetReply, (INT_MAX,), [(True,), (-1,), (INT_MAX + 1,), (1.0,), (None,), ("1",)]),
    "text or nothing": (CreateQueue, (None, {}, "keep"), [(b"q", {}, "keep"), (1, {}, "keep")]),
    "a flat map": (
        CreateQueue,
        ("q", {"a": None, "b": [1, "x", None]}, "keep"),
        [("q", {"a": {}}, "keep"), ("q", {"a": [[1]]}, "keep"), ("q", {b"a": 1}, "keep"), ("q", [], "keep")],
    ),
    "bytes": (Hello, (b"m", 1, 1, b"s", 0), [("m", 1, 1, b"s", 0), (b"m", 1, 1, None, 0)]),
    "a truth": (Receive, ("q", 1, 0, None, False), [("q", 1, 0, None, 0), ("q", 1, 0, None, None)]),
    "a list of triples": (
        Commit,
        ("g", "t", [[0, 1, ""], [1, 2, "m"]]),
        [("g", "t", [[0, 1]]), ("g", "t", [[0, "1", ""]]), ("g", "t", [7]), ("g", "t", None), ("g", "t", {})],
    ),
}


@pytest.mark.parametrize("case", TYPES.values(), ids=TYPES)
def test_field_takes_its_type_and_no_other(case: tuple[type[Any], tuple[object, ...], list[Any]]) -> None:
    cls, right, wrongs = case
    assert decoded(cls, *right)
    for wrong in wrongs:
        with pytest.raises(Invalid, match="has a wrong type or range"):
            decoded(cls, *wrong)


def test_message_classes_may_only_use_types_of_the_wire() -> None:
    class Odd(NamedTuple):
        value: complex

    with pytest.raises(AssertionError, match="the wire has no type"):
        schema.schema_of(Odd)


def test_payload_must_be_the_last_field() -> None:
    class Odd(NamedTuple):
        payload: Any
        value: int

    with pytest.raises(AssertionError, match="the payload is the last field"):
        schema.schema_of(Odd)


@classes
def test_every_message_class_has_a_schema(cls: type[Any]) -> None:
    found = schema.schema_of(cls)
    assert len(found.checks) == len(found.names) <= FIELDS_ARRAY_MAX
    assert found.required + len(found.defaults) == len(found.names)


# bombs and garbage

BOMBS = {
    "nothing at all": b"",
    "an array that claims four billion": b"\xdd\xff\xff\xff\xff",
    "a map that claims four billion": b"\xdf\xff\xff\xff\xff",
    "text that claims four gigabytes": b"\xdb\xff\xff\xff\xff",
    "bytes that claim four gigabytes": b"\xc6\xff\xff\xff\xff",
    "arrays nested to the limit of a frame": b"\x91" * (FIELDS_BYTES_MAX - 1) + b"\x90",
    "maps nested in maps": b"\x81\xa1a" * 20_000 + b"\xc0",
    "wide arrays in wide arrays": (b"\xdc" + struct.pack(">H", FIELDS_ARRAY_MAX)) * 21_000,
    "an array with one element too many": msgpack.packb([0] * (FIELDS_ARRAY_MAX + 1)),
    "a map with one key too many": msgpack.packb([{str(i): i for i in range(FIELDS_MAP_MAX + 1)}]),
    "text one byte too long": msgpack.packb(["x" * (FIELDS_STRING_BYTES_MAX + 1)]),
    "bytes one byte too long": msgpack.packb([b"x" * (FIELDS_STRING_BYTES_MAX + 1)]),
    "an ext type": msgpack.packb([msgpack.ExtType(5, b"data")]),
    "an empty ext type": b"\x91\xc7\x00\x05",
    "a timestamp": msgpack.packb([msgpack.Timestamp(1, 2)]),
    "text that is not UTF-8": b"\x91\xa2\xff\xff",
    "a surrogate": b"\x91\xa3\xed\xa0\x80",
    "a number as a key": msgpack.packb([{1: 2}]),
    "a list as a key": b"\x91\x81\x90\x01",
    "a byte that msgpack never uses": b"\x91\xc1",
    "bytes behind the value": msgpack.packb([1]) + b"\x01",
    "a truncated array": b"\x92\x01",
    "no array": b"\x01",
    "a map instead of an array": b"\x80",
}


@pytest.mark.parametrize("fields", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("cls", [CreateQueue, Welcome], ids=lambda cls: cls.__name__)
def test_bomb_is_invalid(fields: bytes, cls: type[Any]) -> None:
    with pytest.raises(Invalid):
        decode(cls, fields, NOTHING)


@pytest.mark.parametrize("fields", [BOMBS[name] for name in BOMBS if "nothing" not in name])
def test_bomb_in_a_document_is_invalid_or_as_large_as_itself(fields: bytes) -> None:
    try:
        unpack_document(fields)
    except Invalid:
        return
    assert len(fields) <= FIELDS_BYTES_MAX


@given(st.binary(max_size=200))
def test_garbage_is_invalid_or_a_value(fields: bytes) -> None:
    for cls in (CreateQueue, Commit, Nack):
        try:
            message = decode(cls, fields, NOTHING)
        except Invalid:
            continue
        assert isinstance(message, cls)


values_strategy = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(values_strategy, max_size=6))
def test_any_fields_are_invalid_or_of_the_declared_types(values: list[object]) -> None:
    for cls in CLASSES:
        try:
            message = decode(cls, msgpack.packb(values), NOTHING)
        except Invalid:
            continue
        assert decode(cls, encode(message)[0], NOTHING) == message


# documents


@given(values_strategy)
def test_document_survives_the_way(value: object) -> None:
    packed = pack_document(value)
    assert pack_document(unpack_document(packed)) == packed


def test_document_may_be_larger_than_the_fields_of_a_frame() -> None:
    rows = [[i, "x" * 20] for i in range(10_000)]
    assert unpack_document(pack_document(rows)) == rows


@pytest.mark.parametrize("payload", [b"", b"\xdd\xff\xff\xff\xff", b"\x91\xc1", msgpack.packb(1) + b"\x01"])
def test_malformed_document_is_invalid(payload: bytes) -> None:
    with pytest.raises(Invalid, match="payload of a reply"):
        unpack_document(payload)


def test_payload_of_several_buffers_is_handed_on_as_it_is() -> None:
    assert encode(Enqueue("q", (b"a", b"b"))) == (msgpack.packb(("q",)), (b"a", b"b"))


def test_unpacked_arrays_are_tuples() -> None:
    assert unpack(msgpack.packb([1, [2, 3]])) == (1, (2, 3))
