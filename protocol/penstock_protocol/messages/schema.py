"""How a message class becomes an array of msgpack fields and back.

A message is a NamedTuple: its annotations are the schema, its order is the wire order, its defaults
fill what an older peer did not send. A last field called `payload` travels behind the msgpack. Every
field is checked where it enters, against its type and the limits; nothing else looks at types again.
"""

from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import msgpack

from penstock_protocol.checksum import Buffer
from penstock_protocol.errors import Invalid
from penstock_protocol.limits import FIELDS_ARRAY_MAX, FIELDS_MAP_MAX, FIELDS_STRING_BYTES_MAX, INT_MAX

Check = Callable[[object], bool]
M = TypeVar("M", bound=tuple[Any, ...])


def _is_int(value: object) -> bool:
    return type(value) is int and 0 <= value <= INT_MAX


def _is_scalar(value: object) -> bool:
    return value is None or type(value) in (bool, int, float, str, bytes)


def _is_map(value: object) -> bool:
    """A flat map with text keys: settings, details of errors. Lists of scalars are allowed as values."""
    return type(value) is dict and all(
        type(key) is str and (_is_scalar(item) or (type(item) is tuple and all(map(_is_scalar, item))))
        for key, item in value.items()
    )


def _exactly(cls: type) -> Check:
    return lambda value: type(value) is cls


SIMPLE: dict[object, Check] = {
    int: _is_int,
    str: _exactly(str),
    bytes: _exactly(bytes),
    bool: _exactly(bool),
    NoneType: lambda value: value is None,
}


def _check_of(annotation: Any) -> Check:
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return _is_map
    if origin in (Union, UnionType):
        others = [arg for arg in args if arg is not NoneType]
        assert len(others) == 1 < len(args), f"the wire knows one type or nothing, not {annotation}"
        check = _check_of(others[0])
        return lambda value: value is None or check(value)
    assert origin is tuple, f"the wire has no type for {annotation}"
    if len(args) == 2 and args[1] is Ellipsis:
        each = _check_of(args[0])
        return lambda value: type(value) is tuple and all(map(each, value))
    items = [_check_of(arg) for arg in args]
    return lambda value: (
        type(value) is tuple
        and len(value) == len(items)
        and all(check(item) for check, item in zip(items, value, strict=True))
    )


class Schema(NamedTuple):
    """What the codec knows of one message class."""

    cls: type[Any]
    names: tuple[str, ...]
    checks: tuple[Check, ...]
    required: int
    has_payload: bool
    defaults: tuple[object, ...]


_schemas: dict[type[Any], Schema] = {}


def schema_of(cls: type[Any]) -> Schema:
    """The schema of a message class, derived from its annotations once."""
    found = _schemas.get(cls)
    if found is None:
        hints = get_type_hints(cls)
        names: tuple[str, ...] = cls._fields
        has_payload = "payload" in names
        if has_payload:
            assert names[-1] == "payload", "the payload is the last field"
            names = names[:-1]
        defaults = dict(cls._field_defaults)
        required = sum(name not in defaults for name in names)
        checks = tuple(_check_of(hints[name]) for name in names)
        tail = tuple(defaults[name] for name in names[required:])
        found = _schemas[cls] = Schema(cls, names, checks, required, has_payload, tail)
    return found


def encode(message: tuple[Any, ...]) -> tuple[bytes, Buffer | tuple[Buffer, ...]]:
    """The msgpack fields of a message, and its payload (several buffers are sent one behind the other)."""
    if schema_of(type(message)).has_payload:
        return msgpack.packb(message[:-1]), message[-1]
    return msgpack.packb(tuple(message)), b""


def decode(cls: type[M], fields: Buffer, payload: memoryview) -> M:
    """A message of class `cls`. Raises `Invalid` naming the field that is wrong."""
    schema = schema_of(cls)
    values = unpack(fields)
    if type(values) is not tuple or not schema.required <= len(values) <= len(schema.names):
        least, most = schema.required, len(schema.names)
        takes = str(most) if least == most else f"{least} to {most}"
        raise Invalid(f"{cls.__name__} takes {takes} fields", hint="compare with the wire specification")
    missing = len(schema.names) - len(values)
    if missing:
        values += schema.defaults[-missing:]
    for check, value in zip(schema.checks, values, strict=True):
        if not check(value):
            raise Invalid(f"{cls.__name__}: {_name_wrong(schema, values)} has a wrong type or range")
    if schema.has_payload:
        values += (payload,)
    elif payload:
        raise Invalid(f"{cls.__name__} carries no payload")
    made: M = schema.cls._make(values)
    return made


def _name_wrong(schema: Schema, values: tuple[Any, ...]) -> str:
    return next(
        name
        for name, check, value in zip(schema.names, schema.checks, values, strict=True)
        if not check(value)
    )


def unpack(fields: Buffer) -> Any:
    """One msgpack value under the limits of a frame. Raises `Invalid` for anything else."""
    try:
        return msgpack.unpackb(
            fields,
            use_list=False,
            strict_map_key=True,
            max_array_len=FIELDS_ARRAY_MAX,
            max_map_len=FIELDS_MAP_MAX,
            max_str_len=FIELDS_STRING_BYTES_MAX,
            max_bin_len=FIELDS_STRING_BYTES_MAX,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise Invalid("the msgpack fields of a frame are malformed or above the limits") from error


def pack_document(value: object) -> bytes:
    """A reply of variable shape (a description, a listing) as payload."""
    packed: bytes = msgpack.packb(value)
    return packed


def unpack_document(payload: Buffer) -> Any:
    """The inverse of `pack_document`; no element can be larger than the payload. Raises `Invalid`."""
    size = len(payload)
    try:
        return msgpack.unpackb(
            payload,
            strict_map_key=True,
            max_array_len=size,
            max_map_len=size,
            max_str_len=size,
            max_bin_len=size,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise Invalid("the payload of a reply is malformed") from error
