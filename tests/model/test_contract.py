"""What was answered stays so: each feature through each way in which a life of the broker can end.

A deed is done to a broker and answered. Then the broker ends, in one way or another, and the next one on what
is left must show what was answered.
"""

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import msgpack
import pytest
from tests.fakes.clock import ManualClock
from tests.fakes.disk import Disk
from tests.fakes.memory_files import MemoryFiles
from tests.model.bench import Bench, Got, batch, got

from penstock_broker.queues.states import State
from penstock_broker.storage import archive, archiver, compactor, evacuation
from penstock_broker.storage.files import StorageError, StorageFailed, Write
from penstock_protocol.batch import BatchBuilder, Kind
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.slices import REDELIVERED, Range, encode_ranges

SECOND_MS, MINUTE_MS, YEAR_MS = 1_000, 60_000, 365 * 86_400_000
PRODUCER_ID = 7
NO_LIMITS = {"dead_letter": None, "max_attempts": None, "max_deliveries": None}
EIO = 5


class Life(Bench):
    """A broker with a queue, its dead-letter queue and a topic. `first`: it makes them."""

    def __init__(self, disk: Disk, clock: ManualClock | None = None, *, first: bool = False) -> None:
        super().__init__(MemoryFiles(disk), clock)
        self.peer = self.connect(producer_id=PRODUCER_ID)
        if first:
            self.do(q.CreateQueue("dead", NO_LIMITS, "check"))
            self.do(q.CreateQueue("jobs", {"dead_letter": "dead"}, "check"))
            self.do(t.CreateTopic("log", {}, "check"))

    @property
    def disk(self) -> Disk:
        return self.files.disk

    def do(self, request: Any) -> Any:
        reply = self.call(self.peer, request)
        assert not isinstance(reply, Exception), reply
        return reply

    def passes(self, ms: int) -> None:
        self.clock.advance(ms)
        self.settle()

    def put(self, *bodies: bytes) -> None:
        for body in bodies:
            self.do(q.Enqueue("jobs", batch(body)))

    def take(self, messages: int = 1) -> Got:
        (first, *_) = self.receive(self.peer, "jobs", messages)
        return first

    def peeked(self, name: str, state: str = "ready") -> list[bytes]:
        return bodies_of(self.do(q.Peek(name, 100, state)))

    def archived(self) -> None:
        for _ in range(3):
            self.passes(2 * MINUTE_MS)


def bodies_of(delivery: Any) -> list[bytes]:
    return [body for each in got(delivery) for body in each.bodies]


def settling(*ranges: Range) -> memoryview:
    return memoryview(encode_ranges(ranges))


# ---- Deeds, and what shows that they were done


class Deed(NamedTuple):
    """`act`: does it, and says what `look` must see in the life behind."""

    features: tuple[str, ...]
    act: Callable[[Life], Any]
    look: Callable[[Life], Any]


def enqueue(life: Life) -> Any:
    life.put(b"a", b"b")
    return [b"a", b"b"], []


def ready_and_dead(life: Life) -> Any:
    return life.peeked("jobs"), life.peeked("dead")


def lease(life: Life) -> Any:
    life.put(b"a")
    life.take()
    return [b"a"], REDELIVERED, 1


def extend(life: Life) -> Any:
    life.put(b"a")
    life.do(q.Extend("jobs", 10 * MINUTE_MS, settling(life.take().range)))
    return [b"a"], REDELIVERED, 1


def release(life: Life) -> Any:
    life.put(b"a")
    life.do(q.Nack("jobs", q.Outcome.RELEASE, None, None, settling(life.take().range)))
    return [b"a"], REDELIVERED, 1


def received(life: Life) -> Any:
    found = life.take()
    return found.bodies, found.stamps.flags, found.stamps.attempt


def nack(life: Life) -> Any:
    life.put(b"a")
    life.do(q.Nack("jobs", q.Outcome.RETRY, 10 * MINUTE_MS, None, settling(life.take().range)))
    return [b"a"], ([b"a"], REDELIVERED, 2)


def delayed_then_received(life: Life) -> Any:
    delayed = life.peeked("jobs", "delayed")
    life.passes(11 * MINUTE_MS)
    return delayed, received(life)


def ack(life: Life) -> Any:
    life.put(b"a", b"b")
    life.do(q.Ack("jobs", settling(life.take().range)))
    return [b"b"], []


def bury(life: Life) -> Any:
    life.put(b"a", b"b")
    life.do(q.Nack("jobs", q.Outcome.DEAD_LETTER, None, None, settling(life.take().range)))
    return [b"b"], [b"a"]


def purge(life: Life) -> Any:
    life.put(b"a", b"b")
    life.do(q.Purge("jobs"))
    return [], []


def administrate(life: Life) -> Any:
    life.put(b"a")
    life.do(q.CreateQueue("more", {}, "check"))
    life.do(q.AlterQueue("jobs", {"max_messages": 55}))
    life.do(t.DeleteTopic("log"))
    life.do(t.CreateTopic("log", {}, "check"))
    life.do(q.DeleteQueue("dead"))
    return {"jobs", "more"}, 55, [b"a"], 0


def administrated(life: Life) -> Any:
    queues = life.core.registry.queues
    end = life.core.registry.topics["log"].partitions[0].log.end
    return set(queues), queues["jobs"].policy.max_messages, life.peeked("jobs"), end


def produce(life: Life) -> Any:
    for body in (b"a", b"b"):
        life.do(t.Produce("log", 0, None, batch(body)))
    return [b"a", b"b"], [b"b"], 2


def fetched(life: Life) -> Any:
    whole = life.do(t.Fetch("log", 0, 0, 100, 1 << 20, 0))
    return bodies_of(whole), bodies_of(life.do(t.Fetch("log", 0, 1, 100, 1 << 20, 0))), whole.end


def commit(life: Life) -> Any:
    life.do(t.Produce("log", 0, None, batch(b"a", b"b", b"c")))
    for offset in (1, 3, 2):
        life.do(t.Commit("g", "log", ((0, offset, "here"),)))
    return 2, "here"


def committed(life: Life) -> Any:
    ((_, offset, metadata, _),) = unpack_document(life.do(t.Offsets("g", "log")).payload)
    return offset, metadata


def numbered(sequence: int, body: bytes) -> q.Enqueue:
    return q.Enqueue("jobs", batch(body, producer_id=PRODUCER_ID, sequence=sequence))


def publish_in_sequence(life: Life) -> Any:
    said = [life.do(numbered(0, b"a")), life.do(numbered(1, b"b"))]
    return [(confirm.first, True) for confirm in said], 2


def published_again(life: Life) -> Any:
    said = [life.do(numbered(0, b"a")), life.do(numbered(1, b"b"))]
    return [(confirm.first, confirm.duplicate) for confirm in said], life.queue("jobs").log.end


def retain(life: Life) -> Any:
    life.do(t.AlterTopic("log", {"retention": MINUTE_MS}))
    life.do(t.Produce("log", 0, None, batch(b"a")))
    life.passes(2 * MINUTE_MS)
    life.passes(SECOND_MS)
    life.do(t.AlterTopic("log", {"retention": None}))
    life.do(t.Produce("log", 0, None, batch(b"b")))
    return (1, 2), [b"b"]


def retained(life: Life) -> Any:
    log = life.core.registry.topics["log"].partitions[0].log
    return (log.start, log.end), bodies_of(life.do(t.Fetch("log", 0, 1, 100, 1 << 20, 0)))


def keep(life: Life) -> Any:
    life.do(q.AlterQueue("jobs", {"keep_settled": YEAR_MS}))
    life.put(b"a", b"b")
    life.do(q.Ack("jobs", settling(life.take().range)))
    return [b"b"], 1, True


def kept(life: Life) -> Any:
    queue = life.queue("jobs")
    keeps = queue.log.start == 0 and queue.is_alive(0, 1)
    return life.peeked("jobs"), queue.count(State.SETTLED), keeps


def compact(life: Life) -> Any:
    life.do(t.AlterTopic("log", {"cleanup": "compact"}))
    for number in range(12):
        builder = BatchBuilder()
        builder.add(b"%d" % number * 2_000, [(Kind.KEY, msgpack.packb(b"key %d" % (number % 2)))])
        life.do(t.Produce("log", 0, None, memoryview(builder.encode())))
    life.archived()
    for _ in range(6):
        life.passes(compactor.LOOK_EVERY_MS)
    return compacted(life)


def compacted(life: Life) -> Any:
    partition = life.core.registry.topics["log"].partitions[0]
    assert 2 <= partition.cleaned.removed < partition.cleaned.upto
    whole = life.do(t.Fetch("log", 0, 0, 100, 1 << 20, 0))
    return partition.cleaned, bodies_of(whole), whole.end


def move(life: Life) -> Any:
    life.put(b"a", b"b" * 7_000, b"c" * 7_000)
    life.archived()
    assert list(life.queue("jobs").log.stretches())
    return [b"a", b"b" * 7_000, b"c" * 7_000], []


def evacuate(life: Life) -> Any:
    life.put(*[b"%d" % number * 2_000 for number in range(9)])
    for _ in range(2):
        life.do(q.Enqueue("dead", batch(bytes(7_000))))
    life.archived()
    life.do(q.Purge("dead"))
    held = life.receive(life.peer, "jobs", 9)
    life.do(q.Ack("jobs", settling(*(each.range for each in held[1:]))))
    life.do(q.Nack("jobs", q.Outcome.RELEASE, None, None, settling(held[0].range)))
    for _ in range(4):
        life.passes(archiver.EVACUATE_EVERY_MS)
    assert life.core.engine.archiver.bytes_moved[archive.Kind.MOVED]
    return [b"0" * 2_000], []


def checkpoint(life: Life) -> Any:
    for body in (b"a", b"b", b"c"):
        life.put(body)
        life.core.engine.checkpoint_now()
        life.settle()
    return [b"a", b"b", b"c"], []


DEEDS = (
    Deed(("enqueue",), enqueue, ready_and_dead),
    Deed(("receive/lease",), lease, received),
    Deed(("extend",), extend, received),
    Deed(("release",), release, received),
    Deed(("nack/retry", "delay"), nack, delayed_then_received),
    Deed(("ack",), ack, ready_and_dead),
    Deed(("dead letter",), bury, ready_and_dead),
    Deed(("purge",), purge, ready_and_dead),
    Deed(("create/alter/delete",), administrate, administrated),
    Deed(("produce", "fetch"), produce, fetched),
    Deed(("offsets",), commit, committed),
    Deed(("producer dedup",), publish_in_sequence, published_again),
    Deed(("retention",), retain, retained),
    Deed(("keep_settled",), keep, kept),
    Deed(("compaction",), compact, compacted),
    Deed(("archive",), move, ready_and_dead),
    Deed(("evacuation",), evacuate, ready_and_dead),
    Deed(("checkpoint",), checkpoint, ready_and_dead),
)

# ---- Ends


def kill(life: Life) -> Disk:
    return life.files.kill().disk


def power_cut(life: Life) -> Disk:
    return life.disk.crashed()


def stop(life: Life) -> Disk:
    life.core.stop(life.clock.now())
    life.settle()
    return life.disk.crashed()


def torn_write(life: Life) -> Disk:
    """Of one more block the header is stored, and hardly anything behind it."""
    life.ask(life.peer, q.DeleteQueue("jobs"))
    life.turn()
    (write,) = (job for job in life.jobs if isinstance(job, Write))
    disk = life.disk.crashed()
    disk.damage(write.name, write.offset, bytes(write.data[0][:90]))
    return disk


def failed_write(life: Life) -> Disk:
    life.disk.fail(1, EIO, short=True)
    with pytest.raises(StorageFailed):
        life.call(life.peer, t.CreateTopic("never", {}, "check"))
    return life.disk.crashed(Random(1))


def failed_sync(life: Life) -> Disk:
    life.disk.fail(2, EIO)
    with pytest.raises(StorageFailed):
        life.call(life.peer, t.CreateTopic("never", {}, "check"))
    life.disk.drop_caches()
    return life.files.kill().disk


def damaged_checkpoint(life: Life) -> Disk:
    for _ in range(2):
        life.core.engine.checkpoint_now()
        life.settle()
    disk = life.disk.crashed()
    newest = Bench(MemoryFiles(life.disk.crashed()), life.clock).core.report.slots[0]
    disk.flip(newest.name, 9, 0x41)
    return disk


def second_broker(life: Life) -> Disk:
    with pytest.raises(StorageError, match="in use"):
        Life(life.disk, life.clock)
    return kill(life)


def clock_back(life: Life) -> Disk:
    life.clock.jump_wall(-10 * YEAR_MS)
    life.settle()
    return kill(life)


ENDS: tuple[tuple[str, Callable[[Life], Disk]], ...] = (
    ("kill -9", kill),
    ("power cut", power_cut),
    ("restart", stop),
    ("torn write", torn_write),
    ("failed write/sync", failed_write),
    ("failed write/sync", failed_sync),
    ("checkpoint damaged", damaged_checkpoint),
    ("second broker", second_broker),
    ("clock jump", clock_back),
)


CASES = [
    pytest.param(
        deed,
        end,
        id=f"{deed.act.__name__}-{end.__name__}",
        marks=pytest.mark.covers(*deed.features, fault),
    )
    for deed in DEEDS
    for fault, end in ENDS
]


@pytest.mark.parametrize(("deed", "end"), CASES)
def test_what_was_answered_is_so_in_the_life_behind(
    deed: Deed, end: Callable[[Life], Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evacuation, "SEGMENT_BYTES_MIN", 1)
    life = Life(Disk(), first=True)
    wanted = deed.act(life)
    after = Life(end(life), life.clock)
    assert deed.look(after) == wanted
