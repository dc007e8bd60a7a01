"""One checksum, whichever library computes it."""

import zlib

import pytest

from penstock_protocol.checksum import crc32

DATA = bytes(range(256)) * 300


@pytest.mark.parametrize("length", [0, 1, 8, 63, 64, 100, 4_096, len(DATA)])
@pytest.mark.parametrize("start", [0, 0xDEADBEEF])
def test_crc_is_that_of_zlib_over_any_buffer_from_any_start(length: int, start: int) -> None:
    expected = zlib.crc32(DATA[:length], start)
    for buffer in (DATA[:length], bytearray(DATA[:length]), memoryview(DATA)[:length]):
        assert crc32(buffer, start) == expected
