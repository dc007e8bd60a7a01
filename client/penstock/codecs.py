"""How values become bytes and back: `client.queue(name, codec=penstock.codecs.json)`.

A codec is any object with these two methods; the handle's type follows from what `decode` returns. With a
codec other than `raw`, every body goes through it, str and bytes too. Bytes as sent are always in `.raw`.
"""

import json as _json
from typing import Any, Protocol, TypeVar

from penstock.errors import Invalid

T_co = TypeVar("T_co", covariant=True)


class Codec(Protocol[T_co]):
    """Values of one type as bytes."""

    def encode(self, value: Any, /) -> bytes:
        """The bytes of a value; raises for one it cannot take."""
        ...

    def decode(self, raw: bytes, /) -> T_co:
        """The value of bytes that `encode` made, or another sender."""
        ...


class _Raw:
    """Bytes as they are; str as UTF-8."""

    def encode(self, value: Any, /) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, bytearray | memoryview):
            return bytes(value)
        raise Invalid(
            f"a body is bytes or str, not {type(value).__name__}", hint="pass codec=penstock.codecs.json"
        )

    def decode(self, raw: bytes, /) -> bytes:
        return raw


class _Json:
    """JSON as UTF-8; NaN and infinity are refused, because other languages cannot read them."""

    def encode(self, value: Any, /) -> bytes:
        try:
            return _json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise Invalid(
                f"JSON cannot hold this value: {error}", hint="convert it, or give a codec"
            ) from error

    def decode(self, raw: bytes, /) -> Any:
        return _json.loads(raw)


raw: Codec[bytes] = _Raw()
"""The default: bytes as they are, str as UTF-8."""

json: Codec[Any] = _Json()
"""What `json.dumps` takes and `json.loads` gives."""
