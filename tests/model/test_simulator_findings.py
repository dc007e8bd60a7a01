"""What the simulator found, each as the shortest run that shows it."""

import pytest
from tests.fakes.disk import Disk
from tests.fakes.memory_files import MemoryFiles
from tests.model.bench import Bench, batch, got
from tests.model.traits import batch_of, message, seen

from penstock_broker.queues.states import State
from penstock_broker.storage.files import Job, Load, Prepare
from penstock_protocol.errors import DiskFull, NotFound, TooLarge
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import session as s
from penstock_protocol.messages import topics as t
from penstock_protocol.slices import REDELIVERED, encode_ranges

NO_LIMITS = {"dead_letter": None, "max_attempts": None, "max_deliveries": None}


def with_queues(dead: dict[str, int | None] | None = None, **settings: object) -> Bench:
    """A broker with a queue and its dead-letter queue."""
    bench = Bench()
    c = bench.connect()
    bench.call(c, q.CreateQueue("jobs.dead", {**NO_LIMITS, **(dead or {})}, "check"))
    bench.call(c, q.CreateQueue("jobs", {"dead_letter": "jobs.dead", **settings}, "check"))
    return bench


def reject(bench: Bench, *bodies: bytes) -> None:
    """Have messages dead-lettered."""
    c = bench.connect()
    for body in bodies:
        bench.enqueue(c, "jobs", body)
    ranges = encode_ranges([item.range for item in bench.receive(c, "jobs")])
    bench.call(c, q.Nack("jobs", q.Outcome.DEAD_LETTER, None, "bad", memoryview(ranges)))


def test_entry_with_several_parts_for_one_machine_is_replayed_whole() -> None:
    bench = with_queues()
    reject(bench, b"a", b"b", b"c")  # three batches, buried in one entry
    again = Bench(bench.files.crash())
    assert [item.bodies for item in again.receive(again.connect(), "jobs.dead")] == [[b"a"], [b"b"], [b"c"]]


def test_dead_letters_that_wait_leave_one_by_one_as_room_comes() -> None:
    bench = with_queues({"max_messages": 1})
    reject(bench, b"a", b"b")
    assert bench.queue("jobs").count(State.WAITING) == 2
    c = bench.connect()
    arrived = []
    for _ in range(50):
        bench.clock.advance(100)  # a queue that somebody asks all the time is looked after too
        for item in bench.receive(c, "jobs.dead", 1):
            arrived += item.bodies
            bench.ack(c, "jobs.dead", item.range)
        bench.receive(c, "jobs")
    assert arrived == [b"a", b"b"]
    assert bench.queue("jobs").messages == 0


def test_dead_letters_of_a_queue_whose_dead_letter_queue_was_altered_away_come_back() -> None:
    bench = with_queues({"max_messages": 0})
    reject(bench, b"a")
    assert bench.queue("jobs").count(State.WAITING) == 1
    c = bench.connect()
    bench.call(c, q.AlterQueue("jobs", NO_LIMITS))
    bench.clock.advance(1_000)
    bench.settle()
    assert [item.bodies for item in bench.receive(c, "jobs")] == [[b"a"]]


def test_message_handed_out_while_the_node_stops_would_say_so_later() -> None:
    bench = with_queues()
    c = bench.connect()
    bench.enqueue(c, "jobs", b"a")
    bench.core.stop(bench.clock.now())
    asked = bench.ask(c, q.Receive("jobs", 1, 0))
    bench.settle()
    assert bench.core.stopped
    delivered = got(bench.replies[c, asked]) if (c, asked) in bench.replies else []
    again = Bench(bench.files.kill())
    (item,) = again.receive(again.connect(), "jobs")
    assert bool(item.stamps.flags & REDELIVERED) == bool(delivered)


def test_segment_dropped_before_a_crash_but_not_from_the_disk_goes_at_the_next_start() -> None:
    bench = with_queues()
    c = bench.connect()
    bench.enqueue(c, "jobs", *[b"x" * 2_000] * 4)
    for _ in range(8):
        bench.enqueue(c, "jobs", b"x" * 2_000)
    for _ in range(2):
        bench.core.engine.checkpoint_now()
        bench.settle()
    bench.clock.advance(61_000)
    bench.settle()
    assert any(name.startswith("segment-") for name in bench.files.names())
    bench.ack(c, "jobs", *(item.range for item in bench.receive(c, "jobs")))
    bench.clock.advance(1_000)
    while any(name.startswith("segment-") for name in bench.files.names()):
        bench.turn()
        if any(job.name.startswith("segment-") for job in bench.jobs):
            break  # dropped for good, and the power goes before the file does
        bench.run_jobs()
    again = Bench(bench.files.crash())
    again.settle()
    assert not [name for name in again.files.names() if name.startswith("segment-")]


class OneFailure(MemoryFiles):
    """The first file to be recycled is not."""

    failed: Prepare | None = None

    def run(self, job: Job) -> object:
        """Do a job."""
        if isinstance(job, Prepare) and job.recycle is not None and self.failed is None:
            self.failed = job
            raise OSError(5, "Input/output error")
        return super().run(job)


def test_file_whose_recycling_failed_does_not_stay_behind() -> None:
    files = OneFailure()
    bench = Bench(files)
    c = bench.connect()
    bench.call(c, q.CreateQueue("jobs", NO_LIMITS, "check"))
    for _ in range(100):
        bench.enqueue(c, "jobs", b"x" * 3_000)
        bench.ack(c, "jobs", *(item.range for item in bench.receive(c, "jobs")))
    assert files.failed is not None
    assert files.failed.recycle not in files.names()


def test_many_short_lives_do_not_fill_the_journal_budget_for_good() -> None:
    bench = with_queues()
    for _ in range(60):
        bench = Bench(bench.files.kill())
        bench.settle()
    assert bench.core.engine.journal.bytes <= 2 * 256 << 10
    confirm = bench.enqueue(bench.connect(), "jobs", b"a")
    assert isinstance(confirm, q.Confirm), confirm


def test_fetch_whose_topic_is_deleted_before_its_answer_leaves_says_so() -> None:
    bench = Bench()
    c = bench.connect()
    bench.call(c, t.CreateTopic("t", {"partitions": 1}, "check"))
    bench.ask(c, t.Produce("t", 0, None, batch(b"a")))
    asked = bench.ask(c, t.Fetch("t", 0, 0, 10, 1_000, 0))
    bench.ask(c, t.DeleteTopic("t"))
    bench.settle()
    assert isinstance(bench.replies[c, asked], NotFound)


def test_push_that_never_left_is_undone_when_its_session_ends_not_counted_as_tried() -> None:
    bench = with_queues(max_deliveries=1)
    c = bench.connect()
    bench.call(c, q.Consume("jobs", 1, 10, None, 0, False, b""))
    bench.ask(c, q.Enqueue("jobs", batch(b"a")))
    bench.turn()  # handed out, and waiting to be durable
    bench.ask(c, s.Goodbye())
    bench.settle()
    (item,) = bench.receive(bench.connect(b"t" * 16), "jobs")
    assert item.bodies == [b"a"]
    assert item.stamps.delivery == 1


class ColdFiles(MemoryFiles):
    """Nothing is in memory. `readable`: it can be read all the same."""

    readable = True

    def peek(self, name: str, offset: int, length: int) -> bytes | None:
        """Bytes, which are cold."""
        return None

    def run(self, job: Job) -> object:
        """Do a job."""
        if isinstance(job, Load) and not self.readable:
            raise OSError(5, "Input/output error")
        return super().run(job)


def test_nack_that_makes_a_dead_letter_is_answered_when_the_dead_letter_is_durable() -> None:
    bench = with_queues(max_attempts=1)
    c = bench.connect()
    bench.enqueue(c, "jobs", b"a")
    bench.enqueue(c, "jobs", b"b")  # proves the block of the first, which is left where it is, cold
    bench = Bench(ColdFiles(bench.files.kill().disk))
    c = bench.connect()
    (item,) = bench.receive(c, "jobs", 1)
    asked = bench.ask(c, q.Nack("jobs", q.Outcome.RETRY, 0, None, memoryview(encode_ranges([item.range]))))
    while (c, asked) not in bench.replies:
        bench.turn()
        if (c, asked) not in bench.replies:
            bench.run_jobs()
    again = Bench(bench.files.crash())
    assert [item.bodies for item in again.receive(again.connect(), "jobs.dead")] == [[b"a"]]


def test_nothing_comes_behind_the_reply_to_stop_not_even_that_the_queue_is_gone() -> None:
    bench = with_queues()
    c = bench.connect()
    bench.call(c, q.Consume("jobs", 1, 10, None, 0, False, b""))
    bench.ask(c, q.DeleteQueue("jobs"))
    bench.turn()
    stopped = bench.ask(c, q.Stop(1))
    bench.turn()
    assert (c, stopped) not in bench.replies
    bench.settle()
    assert bench.pushed == [q.Deliver(1, 0, b"")]
    assert (c, stopped) in bench.replies


def test_dead_letters_that_are_too_large_for_one_entry_of_a_small_journal_are_several() -> None:
    bench = with_queues()
    bodies = [b"x" * 50_000, b"y" * 50_000, b"z" * 50_000]  # an entry takes at most 128 KiB here
    reject(bench, *bodies)
    assert [item.bodies for item in bench.receive(bench.connect(), "jobs.dead")] == [[b] for b in bodies]


def test_receive_that_waits_takes_nothing_any_more_when_its_client_has_said_goodbye() -> None:
    bench = with_queues()
    c, other = bench.connect(), bench.connect(b"t" * 16)
    bench.ask(c, q.Receive("jobs", 1, 1_000))
    bench.turn()
    bench.ask(c, s.Goodbye())
    bench.enqueue(other, "jobs", b"a")
    assert [item.bodies for item in bench.receive(other, "jobs")] == [[b"a"]]


def test_start_on_a_full_disk_takes_any_file_that_is_large_enough() -> None:
    bench = with_queues()
    files = bench.files.kill()
    for name in [name for name in files.names() if name.startswith("journal-")][1:]:
        files.disk.unlink(name)
    files.disk.create("journal-000000000077")
    files.disk.write("journal-000000000077", 0, bytes(64 << 10))
    files.disk.taken = files.disk.free
    again = Bench(files)
    c = again.connect()
    assert isinstance(again.enqueue(c, "jobs", b"a"), DiskFull)
    files.disk.taken = 0
    again.clock.advance(1_000)
    again.settle()
    assert isinstance(again.enqueue(c, "jobs", b"a"), q.Confirm)


def test_journal_files_of_no_use_are_dropped_at_the_start() -> None:
    bench = with_queues()
    files = bench.files.kill()
    for number in range(70, 80):
        files.disk.create(f"journal-{number:012d}")
    again = Bench(files)
    again.settle()
    assert not [name for name, size in files.names().items() if not size]


def test_confirmed_dead_letter_whose_bytes_could_not_be_read_is_one_after_a_crash_too() -> None:
    bench = with_queues()
    bench.enqueue(bench.connect(), "jobs", b"a")
    files = ColdFiles(bench.files.kill().disk)
    cold = Bench(files)
    c = cold.connect()
    (item,) = cold.receive(c, "jobs")
    files.readable = False
    rejected = q.Nack("jobs", q.Outcome.DEAD_LETTER, None, "bad", memoryview(encode_ranges([item.range])))
    assert cold.call(c, rejected).messages == 1
    again = Bench(files.crash())
    c = again.connect()
    assert again.receive(c, "jobs") == []
    again.clock.advance(1_000)
    again.settle()
    assert [item.bodies for item in again.receive(c, "jobs.dead")] == [[b"a"]]


@pytest.mark.parametrize("taken", [0, 100_000, 200_000, 300_000])
def test_publishers_that_fill_the_disk_within_a_second_leave_room_for_settles(taken: int) -> None:
    files = MemoryFiles(Disk(capacity=1 << 20))
    bench = Bench(files)
    c = bench.connect()
    bench.call(c, q.CreateQueue("jobs", NO_LIMITS, "check"))
    for _ in range(2_000):
        bench.ask(c, q.Enqueue("jobs", batch(b"x" * 3_000)))
        bench.turn()
        bench.run_jobs()
        files.disk.taken = taken  # by somebody else, all at once
    assert any(isinstance(reply, DiskFull) for reply in bench.replies.values())
    for item in bench.receive(c, "jobs", 50):
        assert bench.ack(c, "jobs", item.range).messages == item.stamps.messages


def test_receive_whose_queue_is_deleted_before_its_wait_is_looked_at_is_answered_once() -> None:
    bench = with_queues()
    c = bench.connect()
    waiting = bench.ask(c, q.Receive("jobs", 1, 0))
    bench.ask(c, q.DeleteQueue("jobs"))
    bench.settle()
    assert isinstance(bench.replies[c, waiting], NotFound)


def test_short_poll_at_the_moment_when_a_lease_ends_gets_what_is_ready() -> None:
    bench = with_queues(visibility_timeout=100)
    c = bench.connect()
    bench.enqueue(c, "jobs", b"leased")
    assert bench.receive(c, "jobs")
    bench.enqueue(c, "jobs", b"ready")
    bench.clock.advance(100)
    assert [body for item in bench.receive(c, "jobs") for body in item.bodies][:1] == [b"ready"]


# ---- Queues with features


@pytest.mark.parametrize("found", [False, True], ids=["and moved", "and found"])
def test_messages_may_be_looked_for_before_they_are_written(found: bool) -> None:  # seeds 2 and 6
    bench = with_queues()
    c = bench.connect()
    bench.call(c, q.CreateQueue("others", {}, "check"))
    bench.ask(c, q.Enqueue("jobs", batch(b"a", b"b")))
    request = q.Find("jobs", 50, 0, {}) if found else q.Transfer("jobs", "others", "ready", 50, 0, {})
    reply = bench.call(c, request)
    if found:
        assert reply.slices == 2
    else:
        assert [item.bodies for item in bench.receive(c, "others")] == [[b"a", b"b"]]
        assert bench.queue("jobs").messages == 0


def test_messages_may_die_for_want_of_room_before_they_are_written() -> None:
    bench = with_queues(max_messages=1, overflow="dead_letter_oldest")
    c = bench.connect()
    bench.ask(c, q.Enqueue("jobs", batch(b"a")))
    bench.ask(c, q.Enqueue("jobs", batch(b"b")))
    bench.settle()
    assert [item.bodies for item in bench.receive(c, "jobs.dead")] == [[b"a"]]
    assert [item.bodies for item in bench.receive(c, "jobs")] == [[b"b"]]


def test_message_with_priority_waits_for_its_own_batch_to_be_durable() -> None:  # seed 5
    bench = with_queues()
    c = bench.connect()
    bench.enqueue(c, "jobs", b"plain")
    asked = bench.ask(c, q.Receive("jobs", 10, 1_000))
    bench.ask(c, q.Enqueue("jobs", batch_of(message(b"urgent", priority=9))))
    bench.turn()
    assert (c, asked) not in bench.replies
    bench.settle()
    assert [item.bodies for item in got(bench.replies[c, asked])] == [[b"urgent"], [b"plain"]]


def test_messages_of_a_deleted_queue_do_not_expire() -> None:  # seed 6
    bench = with_queues()
    c = bench.connect()
    bench.call(c, q.Enqueue("jobs", batch_of(message(b"a", ttl=100))))
    bench.clock.advance(200)
    bench.ask(c, q.Enqueue("jobs", batch(b"b")))  # somebody looks at the queue in this turn
    bench.ask(c, q.DeleteQueue("jobs"))
    bench.settle()
    assert "jobs" not in bench.core.registry.queues


def test_message_tells_of_a_try_though_a_crash_undid_its_death() -> None:  # seed 343
    bench = with_queues()
    c = bench.connect()
    bench.enqueue(c, "jobs", b"a", b"b")
    noted = [("attempt", 0, 1, "c", 0, 1, "rejected", "bad")]  # and then, before it is buried, a crash
    bench.core.deliveries.note(bench.queue("jobs"), noted, bench.clock.now())
    bench.settle()
    again = Bench(bench.files.kill())
    first, second = seen(again.call(again.connect(), q.Receive("jobs", 10, 0)))
    assert [attempt[-2:] for attempt in first.history["attempts"]] == [["rejected", "bad"]]
    assert second.history is None


def test_message_whose_answer_is_refused_is_still_leased() -> None:  # seed 353 led there
    bench = with_queues(visibility_timeout=1_000)
    c = bench.connect()
    bench.call(c, q.CreateQueue("answers", {}, "check"))
    bench.enqueue(c, "jobs", b"a")
    (item,) = bench.receive(c, "jobs")
    head = encode_ranges([item.range])
    refused = bench.call(c, q.Reply("jobs", "answers", memoryview(head + batch(b"x" * 200_000))))
    assert isinstance(refused, TooLarge)
    assert bench.call(c, q.Reply("jobs", "answers", memoryview(head + batch(b"short")))).messages == 1
    assert [item.bodies for item in bench.receive(c, "answers")] == [[b"short"]]


@pytest.mark.parametrize("what", ["reply", "checkpoint", "move"])
def test_full_disk_refuses_what_takes_room_as_a_publish_does(what: str) -> None:  # seed 353 led there
    bench = with_queues(visibility_timeout=10_000)
    c = bench.connect()
    bench.call(c, q.CreateQueue("others", {}, "check"))
    bench.enqueue(c, "jobs", b"a", b"b")
    (item,) = bench.receive(c, "jobs", 1)
    bench.files.disk.taken = bench.files.disk.free
    bench.core.engine.disk_full = True
    head = encode_ranges([item.range])
    request = {
        "reply": q.Reply("jobs", "others", memoryview(head + batch(b"x"))),
        "checkpoint": q.Checkpoint("jobs", 10_000, memoryview(head + b"half")),
        "move": q.Transfer("jobs", "others", "ready", 10, 0, {}),
    }[what]
    assert isinstance(bench.call(c, request), DiskFull)
    assert bench.ack(c, "jobs", item.range).messages == 1


def damage(files: MemoryFiles, body: bytes) -> None:
    """Change a bit of it, wherever it lies."""
    found = {name: files.read(name, 0, size).find(body) for name, size in files.names().items()}
    assert max(found.values()) >= 0
    for name, at in found.items():
        if at >= 0:
            files.disk.flip(name, at, 1)


@pytest.mark.parametrize("damaged", [None, 3])
def test_dead_letters_that_take_several_entries_are_confirmed_with_the_last(damaged: int | None) -> None:
    bench = with_queues(max_attempts=1)  # seed 1072
    c = bench.connect()
    bodies = [b"%d" % number * 20_000 for number in range(7)]  # together more than half a journal
    for body in [*bodies, b"proves the block of the last, which is left where it is, cold"]:
        bench.enqueue(c, "jobs", body)
    files = ColdFiles(bench.files.kill().disk)
    bench = Bench(files)
    c = bench.connect()
    ranges = [item.range for item in bench.receive(c, "jobs", 7)]
    if damaged is not None:
        damage(files, bodies.pop(damaged))
    asked = bench.ask(c, q.Nack("jobs", q.Outcome.DEAD_LETTER, None, None, memoryview(encode_ranges(ranges))))
    while (c, asked) not in bench.replies:
        bench.turn()
        if (c, asked) not in bench.replies:
            bench.run_jobs()
    again = Bench(bench.files.crash())
    found = again.receive(again.connect(), "jobs.dead")
    assert [body for item in found for body in item.bodies] == bodies


def test_message_that_expired_and_is_not_buried_yet_is_known_to_a_checkpoint() -> None:  # seed 443
    bench = with_queues(on_expiry="dead_letter")
    c = bench.connect()
    bench.call(c, q.Enqueue("jobs", batch_of(message(b"a", ttl=100))))
    bench.enqueue(c, "jobs", b"b")  # proves the block of the first, which is left where it is, cold
    bench = Bench(ColdFiles(bench.files.kill().disk), bench.clock)
    bench.clock.advance(100)
    bench.turn()
    bench.jobs = [job for job in bench.jobs if not isinstance(job, Load)]  # the disk is slow
    bench.core.engine.checkpoint_now()
    bench.settle()
    again = Bench(bench.files.kill(), bench.clock)
    c = again.connect()
    assert [item.bodies for item in again.receive(c, "jobs")] == [[b"b"]]
    assert [item.bodies for item in again.receive(c, "jobs.dead")] == [[b"a"]]


def test_message_that_expired_while_it_could_not_be_read_does_not_come_back() -> None:  # seed 546
    bench = with_queues()
    c = bench.connect()
    bench.call(c, q.Enqueue("jobs", batch_of(message(b"a", ttl=100))))
    bench.enqueue(c, "jobs", b"b")  # proves the block of the first, which is left where it is, cold
    files = ColdFiles(bench.files.kill().disk)
    files.readable = False
    bench = Bench(files, bench.clock)
    bench.call(bench.connect(), q.Receive("jobs", 1, 0))
    assert bench.queue("jobs").count(State.WAITING) == 1
    bench.clock.advance(100)
    bench.settle()
    bench.core.engine.checkpoint_now()
    bench.settle()
    again = Bench(bench.files.kill(), bench.clock)
    assert [item.bodies for item in again.receive(again.connect(), "jobs")] == [[b"b"]]
