"""Many groups at the end of one partition: what is produced is in memory once, however many read it."""

import gc
from dataclasses import replace
from typing import Any

import pytest
from tests.model.bench import SETTINGS, Bench, batch

from penstock_broker.answers import Reading
from penstock_broker.core import BURST_BYTES_MAX
from penstock_broker.outputs import Send
from penstock_broker.session import Connection
from penstock_protocol.limits import MIB
from penstock_protocol.messages import topics as t
from penstock_protocol.slices import SLICE_BYTES

GROUPS = 50


def sent_of(bench: Bench, producer: Connection, records: memoryview) -> list[Any]:
    """What readers are sent, as it is, when that was produced."""
    bench.ask(producer, t.Produce("prices", 0, None, records))
    sent: list[Any] = []
    while not sent or bench.jobs:
        bench.run_jobs()
        for output in bench.core.drain(bench.clock.now()):
            if isinstance(output, Send):
                sent.append(output.message)
            else:
                bench.jobs.append(output)
    return [message.payload for message in sent if isinstance(message, t.Fetched)]


@pytest.mark.parametrize("in_parts", [False, True])
def test_every_reader_at_the_end_is_sent_the_same_bytes_and_none_gets_a_copy(in_parts: bool) -> None:
    bench = Bench()
    producer = bench.connect()
    bench.call(producer, t.CreateTopic("prices", {}, "check"))
    readers = [bench.connect(bytes([number]) * 16) for number in range(1, GROUPS + 1)]
    for reader in readers:
        bench.ask(reader, t.Fetch("prices", 0, 0, 1_000, 1 << 20, 60_000, None, in_parts))
    bench.settle()
    for _ in range(1 + in_parts):
        records = batch(*[b"x" * 100] * 100)
        fetched = sent_of(bench, producer, records)
        assert len(fetched) == GROUPS
        assert [len(stamps) for stamps, _ in fetched] == [SLICE_BYTES] * GROUPS
        assert all(isinstance(bytes_of, memoryview) for _, bytes_of in fetched)
        assert len({id(bytes_of.obj) for _, bytes_of in fetched}) == 1
        assert all(bytes_of == records for _, bytes_of in fetched)


def test_a_connection_is_sent_so_much_in_a_turn_and_the_rest_when_its_socket_has_taken_that() -> None:
    roomy = replace(SETTINGS, journal_budget_bytes=64 * MIB, journal_file_bytes_max=4 * MIB)
    bench = Bench(settings=roomy)
    me = bench.connect()
    bench.call(me, t.CreateTopic("prices", {}, "check"))
    for _ in range(4):
        bench.until_taken(me, t.Produce("prices", 0, None, batch(bytes(MIB - 1_000))))
    asked = [bench.ask(me, t.Fetch("prices", 0, offset, 1, MIB, 0)) for offset in (0, 1, 2, 3)]
    bench.turn()
    came = [(me, correlation) in bench.replies for correlation in asked]
    assert came == [True] * (BURST_BYTES_MAX // MIB + 1) + [False]
    bench.turn()
    assert (me, asked[-1]) in bench.replies


def test_what_was_sent_is_let_go_at_once_without_a_search_for_circles() -> None:
    bench = Bench()
    me = bench.connect()
    bench.call(me, t.CreateTopic("prices", {}, "check"))
    gc.collect()
    gc.disable()
    try:
        for in_parts in (False, True):
            bench.ask(me, t.Fetch("prices", 0, 0, 100, 1 << 20, 60_000, None, in_parts))
            bench.call(me, t.Produce("prices", 0, None, batch(b"x")))
        assert [each for each in gc.get_objects() if isinstance(each, Reading)] == []
    finally:
        gc.enable()
