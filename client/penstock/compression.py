"""Compression of the bodies of a batch, as `client.topic(name, compression=…)` asks for it; and the way back.

    name   library (extra `compression`)                         what is in the batch
    lz4    lz4                                                   one block
    zstd   the standard library's compression.zstd from 3.14     one frame, level 3, with its content size
           on, else backports.zstd, which is the same

A batch is compressed whole when it is sent, and inflated whole when the first of its bodies is touched: 1 MiB
takes about 1 ms with lz4 and 4 ms with zstd, back a quarter of that. Nothing that came is trusted: a batch
says how large it was, which is bounded, and what its bytes say of themselves is compared before anything is
allocated for it.
"""

import sys
from functools import cache, partial
from typing import Any, Literal, TypeAlias

from penstock.errors import Corrupt, Error, Invalid
from penstock_protocol.batch import LZ4, ZSTD, BatchView, Compress, Kind
from penstock_protocol.limits import INFLATED_BYTES_MAX
from penstock_protocol.slices import Slice

Compression: TypeAlias = Literal["lz4", "zstd"]
CODECS = {"lz4": LZ4, "zstd": ZSTD}
NAMES = {codec: name for name, codec in CODECS.items()}
ZSTD_WINDOW_LOG_MAX = INFLATED_BYTES_MAX.bit_length() - 1
INSTALL = "pip install 'penstock[compression]'"


class _Wrong(ValueError):
    """What came is not what it says it is."""


def codec_of(name: str | None) -> int:
    """What a batch compressed like that says in its header; 0 for None. Raises `Invalid` for a name that is
    not known, or whose library is missing."""
    if name is None:
        return 0
    codec = CODECS.get(name)
    if codec is None:
        raise Invalid(f"compression={name!r}: it can be {', '.join(CODECS)} or None")
    _library(codec)
    return codec


def compressor(codec: int) -> Compress:
    """Bytes → fewer bytes."""
    library = _library(codec)
    if codec == LZ4:
        return partial(library.compress, store_size=False)
    compress: Compress = library.compress
    return compress


def inflated(batch: BatchView, stamps: Slice) -> memoryview:
    """The bodies of a compressed batch as its ends divide them. Raises `Corrupt` if they are not what the
    header says, `Invalid` if the library is missing."""
    codec, size = batch.codec, batch.inflated
    library = _library(codec)
    try:
        if size > INFLATED_BYTES_MAX:
            raise _Wrong(f"they say that they inflate to {size:,} bytes; the limit is {INFLATED_BYTES_MAX:,}")
        data = (_from_lz4 if codec == LZ4 else _from_zstd)(library, batch.bodies(), size)
        if len(data) != size:
            raise _Wrong(f"they inflate to {len(data):,} bytes; {size:,} were announced")
    except _Wrong as error:
        first, last = stamps.first, stamps.first + batch.deltas[-1]
        raise Corrupt(
            f"the bodies of offsets {first} to {last} of partition {stamps.partition} are no good"
            f" {NAMES[codec]}: {error}",
            hint="their producer is faulty; go on reading behind them",
            detail={"partition": stamps.partition, "first": first, "messages": last + 1 - first},
        ) from error
    starts = batch.integers(Kind.START)
    return memoryview(data) if starts is None else _gathered(memoryview(data), starts, batch.ends())


def _from_lz4(block: Any, data: memoryview, size: int) -> bytes:
    try:
        found: bytes = block.decompress(data, uncompressed_size=size)
    except block.LZ4BlockError as error:
        raise _Wrong(error) from error
    return found


def _from_zstd(zstd: Any, data: memoryview, size: int) -> bytes:
    try:
        stated = zstd.get_frame_info(data).decompressed_size
        if stated != size:
            raise _Wrong(f"the frame states {stated} bytes; {size:,} were announced")
        decompressor = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX}
        )
        found: bytes = decompressor.decompress(data, size + 1)
    except zstd.ZstdError as error:
        raise _Wrong(error) from error
    if not decompressor.eof or decompressor.unused_data:
        raise _Wrong("they are not one whole frame")
    return found


def _gathered(data: memoryview, starts: list[int], ends: list[int]) -> memoryview:
    """The bodies that begin there, one behind the other: what `ends` of a part of a batch divide."""
    pieces: list[tuple[int, int]] = []
    before = 0
    for start, end in zip(starts, ends, strict=True):
        if pieces and pieces[-1][1] == start:
            pieces[-1] = pieces[-1][0], start + end - before
        elif end > before:
            pieces.append((start, start + end - before))
        before = end
    if len(pieces) == 1:
        return data[slice(*pieces[0])]
    return memoryview(b"".join([data[start:end] for start, end in pieces]))


@cache
def _library(codec: int) -> Any:
    """The module that does it. Raises `Invalid` that says what to install."""
    try:
        if codec == LZ4:
            from lz4 import block as module
        elif sys.version_info >= (3, 14):
            from compression import zstd as module
        else:
            from backports import zstd as module
    except ImportError as error:
        raise _missing(NAMES[codec]) from error
    return module


def _missing(name: str) -> Error:
    return Invalid(f"there is no library for {name} here", hint=INSTALL)
