"""The part of msgpack that is used here; the package itself ships no types."""

from typing import Any

class UnpackException(Exception): ...

def packb(o: object, /) -> bytes: ...
def unpackb(
    packed: bytes | bytearray | memoryview,
    /,
    *,
    use_list: bool = ...,
    strict_map_key: bool = ...,
    max_array_len: int = ...,
    max_map_len: int = ...,
    max_str_len: int = ...,
    max_bin_len: int = ...,
    max_ext_len: int = ...,
) -> Any: ...
