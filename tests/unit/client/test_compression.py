"""Compressed batches in the client: what was given comes back, and nothing that lies is believed."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.client_wire import LOG
from tests.fakes.scripted_server import ScriptedServer

import penstock
from penstock import codecs, compression, runs
from penstock.compression import CODECS, codec_of, compressor
from penstock.errors import Corrupt, Invalid
from penstock.lanes import Address, Batch, Lane
from penstock.record import Record, RecordRun
from penstock_protocol.batch import HEADER_BYTES, LZ4, ZSTD, BatchView, sealed, to_u32
from penstock_protocol.cuts import cut, picked
from penstock_protocol.limits import COMPRESSION_RATIO_MAX, INFLATED_BYTES_MAX
from penstock_protocol.messages.topics import Produce
from penstock_protocol.slices import Slice

BODIES = [b"north " * 20, b"", b"south " * 20, b"east " * 20]
each_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def encoded(bodies: Sequence[bytes], codec: int) -> BatchView:
    lane = Lane(Address(Produce, "lines"), 7, lambda: 8)
    batch = Batch(lane, lambda _batch, _outcome: None, codec)
    for body in bodies:
        batch.add(body, (), batch.cost(body, ()))
    return BatchView(batch.encoded(7, 0))


def run_of(view: BatchView, first: int = 40) -> RecordRun[bytes]:
    stamps = Slice(0, first, first, 1, LOG.bytes, 0, 3, view.count, 1, 0, 0, view.length)
    return RecordRun(stamps, view.view, "lines", codecs.raw)


def values(view: BatchView) -> list[bytes | None]:
    run = run_of(view)
    return [Record(run, index).value for index in range(view.count)]


def claiming(codec: int, blob: bytes, size: int) -> BatchView:
    """A batch of one record that says that `blob` inflates to `size` bytes."""
    return BatchView(sealed(1, 0, 0, 0, [to_u32([size]), blob], codec, size))


# There and back


@each_codec
def test_what_was_given_comes_back(codec: int) -> None:
    view = encoded(BODIES, codec)
    view.check(1 << 20)
    assert (view.codec, view.inflated) == (codec, len(b"".join(BODIES)))
    assert view.length < HEADER_BYTES + len(b"".join(BODIES))
    assert values(view) == BODIES


@each_codec
def test_what_does_not_get_smaller_goes_as_it_is(codec: int) -> None:
    view = encoded([bytes(range(250))], codec)
    assert (view.codec, view.inflated) == (0, 0)
    assert values(view) == [bytes(range(250))]


def test_what_gets_smaller_beyond_what_a_broker_takes_goes_as_it_is() -> None:
    body = bytes(4 << 20)
    assert len(compressor(ZSTD)(body)) * COMPRESSION_RATIO_MAX < len(body)
    view = encoded([body], ZSTD)
    assert view.codec == 0
    view.check(4 << 20)


@pytest.mark.parametrize("codec", [LZ4, ZSTD])
@given(
    bodies=st.lists(st.binary(max_size=40).map(lambda body: body * 5), min_size=1, max_size=12),
    data=st.data(),
)
def test_parts_of_a_compressed_batch_are_the_same_values(
    codec: int, bodies: list[bytes], data: st.DataObject
) -> None:
    view, expected = encoded(bodies, codec), bodies
    for _ in range(2):
        chosen = sorted(data.draw(st.sets(st.integers(0, len(expected) - 1), min_size=1)))
        view, expected = BatchView(picked(view, chosen)), [expected[index] for index in chosen]
        assert values(view) == expected
        assert run_of(view).bodies(0, view.count) == b"".join(expected)
        assert run_of(view).bodies(view.count - 1, 1) == expected[-1]


def test_a_batch_is_inflated_once_and_only_when_a_value_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[BatchView] = []
    inflate = compression.inflated

    def counted(batch: BatchView, stamps: Slice) -> memoryview:
        found.append(batch)
        return inflate(batch, stamps)

    monkeypatch.setattr(runs, "inflated", counted)
    run = run_of(encoded(BODIES, LZ4))
    records = [Record(run, index) for index in range(4)]
    assert [record.key for record in records] == [None] * 4
    assert [record.offset for record in records] == [40, 41, 42, 43]
    assert found == []
    assert [record.raw for record in records] == BODIES
    assert run.bodies(1, 2) == BODIES[2]
    assert len(found) == 1


async def test_handles_of_one_topic_share_their_sequences_whatever_they_compress() -> None:
    async with ScriptedServer() as server, penstock.connect(server.url) as client:
        plain, packed = client.topic("lines"), client.topic("lines", compression="zstd")
        asked = []
        for topic in (plain, packed, plain):
            task = asyncio.ensure_future(topic.produce(BODIES[0], partition=0))
            asked.append(await server.asked(Produce))
            asked[-1].confirm(len(asked) - 1)
            await task
    views = [each.batch for each in asked]
    assert [view.codec for view in views] == [0, ZSTD, 0]
    assert [view.sequence for view in views] == [0, 1, 2]
    assert len({view.producer_id for view in views}) == 1


# What is not believed


def two_frames(body: bytes) -> bytes:
    return compressor(ZSTD)(body) + compressor(ZSTD)(body)


def without_size(body: bytes) -> bytes:
    zstd = compression._library(ZSTD)
    squeezing = zstd.ZstdCompressor()
    return bytes(squeezing.compress(body) + squeezing.flush())


def wide() -> bytes:
    """A frame with its size, and with a window of 16 MiB, which its reader would have to allocate."""
    options = {compression._library(ZSTD).CompressionParameter.window_log: 24}
    frame = bytearray(compression._library(ZSTD).compress(b"\0" * (17 << 20), options=options))
    assert not frame[4] & 0x20, "not in one segment, so it states its window"
    assert frame[5] >> 3 == 24 - 10
    return bytes(frame)


LIES: dict[str, tuple[int, Callable[[bytes], bytes], int]] = {
    "lz4: garbage": (LZ4, lambda body: b"\xff" * 20, 0),
    "lz4: nothing": (LZ4, lambda body: b"", 0),
    "lz4: more than announced": (LZ4, compressor(LZ4), -1),
    "lz4: less than announced": (LZ4, compressor(LZ4), 1),
    "lz4: cut short": (LZ4, lambda body: compressor(LZ4)(body)[:-2], 0),
    "zstd: garbage": (ZSTD, lambda body: b"\xff" * 20, 0),
    "zstd: nothing": (ZSTD, lambda body: b"", 0),
    "zstd: more than announced": (ZSTD, compressor(ZSTD), -1),
    "zstd: less than announced": (ZSTD, compressor(ZSTD), 1),
    "zstd: cut short": (ZSTD, lambda body: compressor(ZSTD)(body)[:-2], 0),
    "zstd: two frames": (ZSTD, two_frames, 0),
    "zstd: bytes behind the frame": (ZSTD, lambda body: compressor(ZSTD)(body) + b"x", 0),
    "zstd: a frame that does not state its size": (ZSTD, without_size, 0),
    "zstd: a skippable frame": (ZSTD, lambda body: b"\x50\x2a\x4d\x18\x04\0\0\0abcd", 0),
}


@pytest.mark.parametrize(("codec", "squeeze", "more"), LIES.values(), ids=LIES)
def test_bodies_that_are_not_what_the_batch_says_are_corrupt(
    codec: int, squeeze: Callable[[bytes], bytes], more: int
) -> None:
    body = b"north " * 100
    run = run_of(claiming(codec, squeeze(body), len(body) + more))
    record = Record(run, 0)
    assert record.offset == 40
    with pytest.raises(Corrupt, match="offsets 40 to 40 of partition 3") as caught:
        record.value  # noqa: B018
    assert caught.value.detail == {"partition": 3, "first": 40, "messages": 1}
    assert "go on reading" in (caught.value.hint or "")


@each_codec
def test_a_batch_that_announces_more_than_a_reader_takes_is_not_even_tried(
    codec: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_from_lz4", "_from_zstd"):
        monkeypatch.setattr(compression, name, lambda *_: pytest.fail("it was tried"))
    with pytest.raises(Corrupt, match=r"inflate to 8,388,609 bytes; the limit is 8,388,608"):
        values(claiming(codec, b"xyz", INFLATED_BYTES_MAX + 1))


def test_a_frame_that_needs_a_large_window_is_refused_by_its_header() -> None:
    frame = wide()
    size = int.from_bytes(frame[6:10], "little")
    assert size == 17 << 20
    few = bytearray(frame)
    few[6:10] = (1 << 20).to_bytes(4, "little")  # it states that it has 1 MiB, in that window
    with pytest.raises(Corrupt, match="memory"):
        values(claiming(ZSTD, bytes(few), 1 << 20))


@each_codec
def test_any_byte_of_the_bodies_may_be_anything_and_is_corrupt_or_as_long_as_announced(codec: int) -> None:
    view = encoded(BODIES, codec)
    blob = bytes(view.bodies())
    for position in range(len(blob)):
        for value in (0, 0x7F, 0xFF, blob[position] ^ 1):
            damaged = blob[:position] + bytes([value]) + blob[position + 1 :]
            try:
                (found,) = values(claiming(codec, damaged, view.inflated))
            except Corrupt:
                continue
            assert len(found or b"") == view.inflated


# What is not there


def test_a_compression_that_is_not_known_is_invalid() -> None:
    assert codec_of(None) == 0
    with pytest.raises(Invalid, match="'gzip': it can be lz4, zstd or None"):
        codec_of("gzip")
    client: Any = object()
    with pytest.raises(Invalid, match="'gzip'"):
        penstock.Topic(client, "lines", codecs.raw, compression="gzip")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "modules"), [("lz4", ["lz4"]), ("zstd", ["backports", "compression"])])
def test_a_missing_library_is_named_with_what_to_install(
    name: str, modules: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = encoded(BODIES, CODECS[name])
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    compression._library.cache_clear()
    with pytest.raises(Invalid, match=f"no library for {name}") as caught:
        codec_of(name)
    assert "pip install 'penstock[compression]'" in (caught.value.hint or "")
    record = Record(run_of(view), 0)
    assert record.key is None, "what stands outside can be read all the same"
    with pytest.raises(Invalid, match=f"no library for {name}"):
        record.value  # noqa: B018


def test_the_whole_of_a_compressed_batch_is_served_as_it_is() -> None:
    view = encoded(BODIES, LZ4)
    assert cut(view, 0, 4) is view.view
