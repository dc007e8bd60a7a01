"""Reading and writing descriptors beside a running event loop."""

import asyncio
import os

import pytest

from penstock.cli import pipes


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    open_ends = {reader, writer}

    def close(fd):
        open_ends.discard(fd)
        os.close(fd)

    yield reader, writer, close
    for fd in open_ends:
        os.close(fd)


async def test_reading_waits_without_holding_up_the_loop(pipe):
    reader, writer, _ = pipe
    reading = asyncio.create_task(pipes.read(reader))
    await asyncio.sleep(0)
    assert not reading.done()
    os.write(writer, b"here")
    assert await reading == b"here"


async def test_end_of_a_pipe_reads_as_nothing(pipe):
    reader, writer, close = pipe
    close(writer)
    assert await pipes.read(reader) == b""


async def test_regular_file_is_always_ready(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    with path.open("rb") as file:
        size = 0
        while data := await pipes.read(file.fileno()):
            size += len(data)
    assert size == 3_000_000


async def test_waiting_for_input_ends_after_its_time(pipe):
    reader, writer, _ = pipe
    assert not await pipes.readable_within(reader, 0.001)
    os.write(writer, b"x")
    assert await pipes.readable_within(reader, 60)


async def test_writing_more_than_a_pipe_holds_waits_for_the_reader(pipe):
    reader, writer, _ = pipe
    data = os.urandom(300_000)
    writing = asyncio.create_task(pipes.write(writer, data))
    received = b""
    while len(received) < len(data):
        received += await pipes.read(reader)
    await writing
    assert received == data


async def test_write_that_waits_can_be_cancelled(pipe):
    _, writer, _ = pipe
    writing = asyncio.create_task(pipes.write(writer, bytes(300_000)))
    await asyncio.sleep(0)
    assert not writing.done()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing


async def test_writing_to_a_pipe_without_a_reader_is_a_broken_pipe(pipe):
    reader, writer, close = pipe
    close(reader)
    with pytest.raises(BrokenPipeError):
        await pipes.write(writer, b"x")


async def test_reader_that_goes_while_nothing_is_written_ends_the_block(pipe):
    reader, writer, close = pipe

    async def follow():
        async with pipes.while_read(writer):
            await asyncio.Event().wait()

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    assert not following.done()
    close(reader)
    with pytest.raises(BrokenPipeError):
        await following


async def test_cancelling_the_block_is_not_a_broken_pipe(pipe):
    _, writer, _ = pipe

    async def follow():
        async with pipes.while_read(writer):
            await asyncio.Event().wait()

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


async def test_regular_file_has_no_reader_to_lose(tmp_path):
    with (tmp_path / "out").open("wb") as file:
        async with pipes.while_read(file.fileno()):
            await pipes.write(file.fileno(), b"x" * 2_500_000)
    assert (tmp_path / "out").stat().st_size == 2_500_000
