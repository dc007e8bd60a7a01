"""Histories that the contract allows, near the edge of what it forbids."""

from tests.sim.story import BACKOFF, LEASE, Story, good, message


@good
def dead_letter_whose_one_try_nobody_saw_waited_for_room(s: Story) -> None:
    s.settings(max_attempts=1)
    s.enqueue("a")
    s.op("receive", "unknown", by="lost", queue="q", wait=1.0)
    s.now += 10 * LEASE
    s.receive()
    s.receive(message("a", 0, 99), queue="dead")


@good
def message_enqueued_delivered_acked(s: Story) -> None:
    s.settings()
    s.enqueue("a", "b")
    s.receive(message("a", 0, 10), message("b", 1, 10 + 1))
    s.settle("ack", (0, 10), (1, 11))
    s.receive()
    s.stats(settled=2, total=2, acked=2, dead_lettered=0, expired=0, purged=0)
    s.drained()


@good
def unknown_publish_appeared_once_or_never(s: Story) -> None:
    s.enqueue("a", answer="unknown")
    s.enqueue("b", answer="unknown")
    s.enqueue("c", answer="refused")
    s.receive(message("b", 0, 10))
    s.settle("ack", (0, 10))
    s.stats(settled=1, total=1)
    s.drained()


@good
def unknown_ack_may_or_may_not_hold(s: Story) -> None:
    s.enqueue("a", "b")
    s.receive(message("a", 0, 10), message("b", 1, 11))
    s.settle("ack", (0, 10), (1, 11), answer="unknown")
    s.note("crash")
    s.receive(message("b", 1, 21, redelivered=True))
    s.settle("ack", (1, 21))
    s.drained()


@good
def message_redelivered_after_its_lease_ran_out(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.now += LEASE
    s.receive(message("a", 0, 11, attempt=2, delivery=2), by="other")
    s.settle("ack", (0, 10), stale=True)
    s.settle("ack", (0, 11), by="other")
    s.drained()


@good
def late_ack_that_was_refused(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.now += LEASE
    s.receive(message("a", 0, 11, attempt=2, delivery=2), by="other")
    s.settle("ack", (0, 10), answer="refused")


@good
def crash_between_delivery_and_ack(s: Story) -> None:
    s.settings(max_attempts=1)
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.note("crash")
    s.receive(message("a", 0, 20, redelivered=True))
    s.settle("ack", (0, 10), stale=True)
    s.settle("ack", (0, 20))
    s.drained()


@good
def message_dead_lettered_after_its_last_attempt(s: Story) -> None:
    s.settings(max_attempts=2)
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10), delay=None)
    s.now += BACKOFF
    s.receive(message("a", 0, 11, attempt=2, delivery=2))
    s.settle("nack", (0, 11))
    s.receive(message("a", 0, 99), queue="dead")
    s.settle("ack", (0, 99), queue="dead")
    s.stats(settled=1, total=1, dead_lettered=1, acked=0)
    s.drained("q", "dead")


@good
def dead_letter_without_room_waits(s: Story) -> None:
    s.settings(max_attempts=1)
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10))
    s.stats(waiting=1, total=1)
    s.now += 10 * LEASE
    s.receive()
    s.drained("q", "dead")


@good
def released_message_keeps_its_attempt(s: Story) -> None:
    s.enqueue("a", "b")
    s.receive(message("a", 0, 10))
    s.settle("release", (0, 10))
    s.receive(message("a", 0, 11, delivery=2), message("b", 1, 12))


@good
def deliveries_that_nobody_saw_leave_gaps_in_the_counts(s: Story) -> None:
    s.enqueue("a", "b")
    s.op("receive", "unknown", by="lost", queue="q", wait=1.0)
    s.receive(message("b", 1, 11))
    s.now += LEASE
    s.receive(message("a", 0, 12, attempt=2, delivery=2))


@good
def pushed_messages_of_a_lost_session_go_to_others(s: Story) -> None:
    s.enqueue("a")
    s.note("deliver", by="c", queue="q", messages=[message("a", 0, 10)], since=2.0)
    s.note("disconnect", by="c")
    s.receive(message("a", 0, 11, delivery=2), by="other")
    s.settle("ack", (0, 11), by="other")
    s.drained()


@good
def messages_that_never_reached_a_lost_session_come_later_than_others(s: Story) -> None:
    s.enqueue("a", "b")
    s.receive(message("b", 1, 11), by="other")
    s.note("disconnect", by="c")
    s.receive(message("a", 0, 12), by="other")


@good
def messages_handed_to_a_process_of_whose_loss_the_broker_had_not_heard(s: Story) -> None:
    since = s.now
    s.note("disconnect", by="c")
    s.enqueue("a", "b")
    s.receive(message("b", 1, 11), by="other")
    s.receive(message("a", 0, 12), by="other")
    s.note("noticed", by="c", since=since)


@good
def ready_message_that_is_not_handed_to_who_reads_nothing(s: Story) -> None:
    s.settings()
    s.enqueue("a")
    s.now += 2 * LEASE + 5
    since = s.now
    s.receive()
    s.note("blocked", by="c", since=since)
    s.receive(message("a", 0, 10))
    s.settle("ack", (0, 10))


@good
def lease_cut_short_by_an_extension(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("extend", (0, 10), lease=0.5)
    s.receive(message("a", 0, 11, attempt=2, delivery=2), by="other")


@good
def forward_jump_of_the_clock_shortens_a_delay(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10), delay=20.0)
    s.note("clock", jump=3600.0)
    s.receive(message("a", 0, 11, attempt=2, delivery=2))


@good
def receives_that_overlap_may_cross(s: Story) -> None:
    s.enqueue("a", "b")
    first = s.by("c").invoke("receive", queue="q", wait=20.0)
    s.receive(message("b", 1, 11))
    s.by("c").ok(first, messages=[message("a", 0, 10)])


@good
def empty_receive_soon_after_a_crash(s: Story) -> None:
    s.settings()
    s.enqueue("a")
    s.now += 10 * LEASE
    s.note("crash")
    s.receive()
    s.receive(message("a", 0, 10, redelivered=True))


@good
def purged_message_is_gone(s: Story) -> None:
    s.settings()
    s.enqueue("a")
    s.op("purge", {}, queue="q")
    s.now += 10 * LEASE
    s.receive()
    s.stats(settled=1, total=1, acked=0, dead_lettered=0, expired=0, purged=1)
    s.drained()


@good
def records_produced_read_and_committed(s: Story) -> None:
    s.produce("a", "b")
    s.produce("c", answer="unknown")
    s.fetch(0, "a", "b", end=3)
    s.poll((0, "a"), (1, "b"))
    s.poll((2, "c"))
    s.poll((0, "a"), assignment=2)
    s.op("end", {"end": 3}, log="t/0")
    s.fetch(3)
    s.committed(None)
    s.commit(1)
    s.commit(3, answer="unknown")
    s.committed(1)
    s.committed(3)
    s.note("drained", log="t/0")


@good
def records_that_retention_gave_up_were_never_read(s: Story) -> None:
    s.produce("a", "b", "c")
    s.fetch(2, "c")
    s.note("trimmed", log="t/0", start=2)
    s.note("drained", log="t/0")


@good
def unknown_commit_took_effect_over_a_crash(s: Story) -> None:
    s.produce("a", "b")
    s.commit(1)
    s.commit(2, answer="unknown")
    s.note("crash")
    s.committed(2)


@good
def commits_of_the_present_generation(s: Story) -> None:
    s.produce("a")
    s.op("generation", {"generation": 5}, by="new", group="g")
    s.commit(1, generation=5, by="new")
    s.commit(1, generation=4, answer="refused")
    s.commit(1)


@good
def partition_is_handed_over_and_read_on(s: Story) -> None:
    s.produce("a", "b", "c")
    s.op("generation", {"generation": 4}, by="old", group="g", log="t/0")
    s.op("generation", {"generation": 4}, by="old", group="g", log="t/1")
    s.poll((0, "a"), assignment=4)
    s.commit(1, generation=4, by="old")
    s.op("generation", {"generation": 5}, by="new", group="g", log="t/0")
    s.commit(1, generation=4, answer="refused", by="old")
    s.poll((1, "b"), (2, "c"), assignment=5)
    s.commit(3, generation=5, by="new")


@good
def group_of_explicit_partitions_may_commit_what_it_likes(s: Story) -> None:
    s.produce("a", "b", "c")
    s.commit(3)
