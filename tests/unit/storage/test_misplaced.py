"""Bytes that are whole and stand in the wrong place: nobody is given another's messages."""

import pytest
from tests.fakes.memory_files import MemoryFiles
from tests.model.bench import Bench, batch, got

from penstock_broker.storage import archive
from penstock_broker.storage.log import Stretch
from penstock_broker.storage.segment import index_bytes, segment_name
from penstock_protocol.errors import Corrupt
from penstock_protocol.messages import queues as q

ARCHIVED_AFTER_MS = 61_000
BODY_BYTES = 1_000
FILLING = b"f" * 7_000


@pytest.fixture(autouse=True)
def blocks_of_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "BLOCK_BYTES_TARGET", BODY_BYTES)


def archived(names: str, rounds: int = 1, each: int = 1) -> Bench:
    """In every round each queue gets messages that then move to a segment."""
    bench = Bench()
    connection = bench.connect()
    for name in {*names, "filling"}:
        bench.call(connection, q.CreateQueue(name, {}, "check"))
    for number in range(rounds):
        for name in names:
            for _ in range(each):
                bench.ask(connection, q.Enqueue(name, batch(f"{name}{number}".encode() * (BODY_BYTES // 2))))
        bench.settle()
        for _ in range(2):
            bench.enqueue(connection, "filling", FILLING)
        for _ in range(4):
            bench.clock.advance(ARCHIVED_AFTER_MS)
            bench.settle()
    return bench


def stretches(bench: Bench, name: str) -> list[Stretch]:
    return list(bench.queue(name).log.stretches())


def put(bench: Bench, one: Stretch, other: Stretch) -> Bench:
    """The life after a misdirected write put `one` where `other` stood."""
    disk = bench.files.disk.crashed()
    content = disk.names[segment_name(one.segment)].stored[one.at : one.at + one.length]
    assert one.length == other.length
    disk.damage(segment_name(other.segment), other.at, bytes(content))
    return Bench(MemoryFiles(disk), bench.clock)


def test_block_of_another_log_is_corrupt() -> None:
    bench = archived("ab")
    (one,), (other,) = stretches(bench, "a"), stretches(bench, "b")
    life = put(bench, one, other)
    assert isinstance(life.call(life.connect(), q.Receive("b", 1, 0)), Corrupt)


def test_block_of_the_same_log_from_another_place_is_corrupt() -> None:
    bench = archived("a", rounds=2)
    one, other = stretches(bench, "a")
    life = put(bench, one, other)
    peer = life.connect()
    assert got(life.call(peer, q.Receive("a", 1, 0)))
    assert isinstance(life.call(peer, q.Receive("a", 1, 0)), Corrupt)


def test_index_of_another_stretch_is_made_again() -> None:
    bench = archived("ab", each=3)
    (one,), (other,) = stretches(bench, "a"), stretches(bench, "b")
    assert one.blocks == other.blocks == 3
    disk = bench.files.disk.crashed()
    size = index_bytes(one.blocks)
    at = one.at + one.length - size
    content = disk.names[segment_name(one.segment)].stored[at : at + size]
    disk.damage(segment_name(other.segment), other.at + other.length - size, bytes(content))
    life = Bench(MemoryFiles(disk), bench.clock)
    reply = life.call(life.connect(), q.Receive("b", 3, 0))
    assert [body[:2] for each in got(reply) for body in each.bodies] == [b"b0"] * 3
    assert life.core.engine.reads.indexes_rebuilt == 1
