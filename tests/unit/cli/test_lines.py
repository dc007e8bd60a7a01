"""Standard input as messages."""

import asyncio
import os
from contextlib import aclosing

import pytest

from penstock.cli.command import Failure
from penstock.cli.lines import BURST_BYTES_MAX, bursts
from penstock_protocol.limits import MESSAGE_BYTES_MAX


@pytest.fixture
def given(tmp_path):
    """All lines of some input, by burst."""

    async def read(data, delimiter=b"\n"):
        path = tmp_path / "input"
        path.write_bytes(data)
        with path.open("rb") as file:
            async with aclosing(bursts(delimiter, file.fileno())) as found:
                return [burst async for burst in found]

    return read


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        pytest.param(b"a\nb\n", [b"a", b"b"], id="ends with a line end"),
        pytest.param(b"a\nb", [b"a", b"b"], id="ends without one"),
        pytest.param(b"a\n\nb\n", [b"a", b"", b"b"], id="an empty line is an empty message"),
        pytest.param(b"\n", [b""], id="one empty line"),
        pytest.param(b"a\r\n\xff\n", [b"a\r", b"\xff"], id="bytes stay as they are"),
    ],
)
async def test_input_is_cut_into_lines(given, data, lines):
    assert await given(data) == [lines]


async def test_no_input_is_no_burst(given):
    assert await given(b"") == []


async def test_delimiter_may_be_longer_than_a_byte_and_fall_between_two_reads(given):
    first = b"x" * ((1 << 20) - 1)
    assert await given(first + b"--" + b"y--z", b"--") == [[first, b"y", b"z"]]


async def test_bursts_are_bounded_and_keep_the_order(given):
    lines = [b"%d" % n for n in range(1_500_000)]
    found = await given(b"\n".join(lines))
    assert len(found) > 1
    assert all(sum(map(len, burst)) <= BURST_BYTES_MAX + (1 << 20) for burst in found)
    assert [line for burst in found for line in burst] == lines


async def test_line_that_no_broker_takes_is_refused_before_it_fills_memory(given):
    with pytest.raises(Failure, match="longer than 6 MiB"):
        await given(b"x" * (MESSAGE_BYTES_MAX + (2 << 20)))


async def test_pause_of_the_input_ends_a_burst():
    reader, writer = os.pipe()
    try:
        async with aclosing(bursts(b"\n", reader)) as found:
            os.write(writer, b"a\nb\nhalf")
            assert await anext(found) == [b"a", b"b"]
            following = asyncio.ensure_future(anext(found))
            os.write(writer, b" a line\n")
            assert await following == [b"half a line"]
            os.write(writer, b"end")
            os.close(writer)
            assert await anext(found) == [b"end"]
            with pytest.raises(StopAsyncIteration):
                await anext(found)
    finally:
        os.close(reader)
