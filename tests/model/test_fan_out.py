"""Many groups at the end of one partition: what is produced is in memory once, however many read it."""

from tests.model.bench import Bench, batch

from penstock_broker.outputs import Send
from penstock_protocol.messages import topics as t
from penstock_protocol.slices import SLICE_BYTES

GROUPS = 50


def test_every_reader_at_the_end_is_sent_the_same_bytes_and_none_gets_a_copy() -> None:
    bench = Bench()
    producer = bench.connect()
    bench.call(producer, t.CreateTopic("prices", {}, "check"))
    readers = [bench.connect(bytes([number]) * 16) for number in range(1, GROUPS + 1)]
    for reader in readers:
        bench.ask(reader, t.Fetch("prices", 0, 0, 100, 1 << 20, 60_000))
    bench.settle()
    records = batch(*[b"x" * 100] * 100)
    bench.ask(producer, t.Produce("prices", 0, None, records))
    sent = []
    now = bench.clock.now
    while not sent or bench.jobs:
        bench.run_jobs()
        for output in bench.core.drain(now()):
            if isinstance(output, Send):
                sent.append(output.message)
            else:
                bench.jobs.append(output)
    fetched = [message.payload for message in sent if isinstance(message, t.Fetched)]
    assert len(fetched) == GROUPS
    assert [len(stamps) for stamps, _ in fetched] == [SLICE_BYTES] * GROUPS
    assert all(isinstance(bytes_of, memoryview) for _, bytes_of in fetched)
    assert len({id(bytes_of.obj) for _, bytes_of in fetched}) == 1
    assert all(bytes_of == records for _, bytes_of in fetched)
