"""Histories of queues with features that break the contract, each under the name of its anomaly."""

from tests.sim.story import LEASE, Story, bad, message, once, told

# time


@bad("early")
def delayed_message_came_before_its_time(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"delay": 10.0})
    s.receive(message("a", 0, 10, time=100.0, at=109.0))


@bad("early")
def message_for_a_certain_time_came_before_it(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"at": 200.0})
    s.receive(message("a", 0, 10, time=100.0, at=199.999))


@bad("early")
def queue_forgot_its_delay_over_a_crash(s: Story) -> None:
    s.features(delay=10.0)
    s.enqueue("a")
    s.note("crash")
    s.receive(message("a", 0, 10, time=100.0, at=101.0, redelivered=True))


@bad("early")
def message_that_was_put_off_came_at_its_old_time(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"delay": 10.0})
    s.reschedule(0, 500.0)
    s.receive(message("a", 0, 10, time=100.0, at=110.0))


@bad("early")
def nacked_message_came_before_its_delay_in_a_queue_with_features(s: Story) -> None:
    s.features()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10), delay=20.0)
    s.receive(message("a", 0, 11, attempt=2, delivery=2, history=told("nacked")))


@bad("expired delivered")
def message_came_after_its_time_to_live(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"ttl": 5.0})
    s.receive(message("a", 0, 10, time=100.0, at=105.0))


@bad("expired delivered")
def message_came_back_after_the_time_its_queue_gives(s: Story) -> None:
    s.features(ttl=60.0)
    s.enqueue("a")
    s.receive(message("a", 0, 10, time=100.0, at=101.0))
    s.now += LEASE
    s.receive(message("a", 0, 11, time=100.0, at=161.0, attempt=2, delivery=2, history=told("expired")))


# message groups


@bad("group order")
def later_message_of_a_group_came_first(s: Story) -> None:
    s.features()
    s.enqueue("a", "b", traits={"group": "g"})
    s.receive(message("b", 1, 10))
    s.settle("ack", (1, 10))
    s.receive(message("a", 0, 11))


@bad("group order")
def failed_head_of_a_group_was_overtaken(s: Story) -> None:
    s.features()
    s.enqueue("a", "b", traits={"group": "g"})
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10))
    s.receive(message("b", 1, 11))
    s.settle("ack", (1, 11))
    s.receive(message("a", 0, 12, attempt=2, delivery=2, history=told("nacked")))


@bad("group order")
def ack_that_let_the_next_one_go_was_lost_in_a_crash(s: Story) -> None:
    s.features()
    s.enqueue("a", "b", traits={"group": "g"})
    s.receive(message("a", 0, 10))
    s.settle("ack", (0, 10), answer="unknown")
    s.receive(message("b", 1, 11))
    s.note("crash")
    s.receive(message("a", 0, 21, redelivered=True))


@bad("group order")
def unique_jobs_ran_in_another_order(s: Story) -> None:
    s.features()
    s.enqueue("a", "b", traits={"job": "j", "conflict": "run_after"})
    s.receive(message("b", 1, 10))
    s.settle("ack", (1, 10))
    s.receive(message("a", 0, 11))


@bad("group concurrency")
def two_of_a_group_were_in_flight(s: Story) -> None:
    s.features()
    s.enqueue("a", "b", traits={"group": "g"})
    s.receive(message("a", 0, 10))
    s.receive(message("b", 1, 11), by="other")


@bad("group concurrency")
def tenant_had_more_in_flight_than_it_may(s: Story) -> None:
    s.features(fair=True, group_concurrency=2)
    s.enqueue("a", "b", "c", traits={"group": "g"})
    s.receive(message("a", 0, 10), message("b", 1, 11))
    s.receive(message("c", 2, 12), by="other")


# priority, ids and keys


@bad("priority inversion")
def lower_priority_came_first(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"priority": 1})
    s.enqueue("b", first=1, traits={"priority": 9})
    s.receive(message("a", 0, 10, time=100.0, at=102.0))
    s.receive(message("b", 1, 11, time=101.0, at=103.0))


@bad("priority inversion")
def lower_priority_came_first_where_nothing_had_expired_yet(s: Story) -> None:
    s.features()
    s.enqueue("b", "c", traits={"priority": 9, "ttl": 500.0})
    s.enqueue("a", first=2, traits={"priority": 1})
    s.receive(message("a", 2, 10, time=103.0, at=104.0))
    s.receive(message("b", 0, 11, time=102.0, at=106.0))


@bad("priority inversion")
def plain_message_came_before_one_with_priority(s: Story) -> None:
    s.features()
    s.enqueue("b", traits={"priority": 5})
    s.enqueue("a", first=1)
    s.receive(message("a", 1, 10, time=101.0, at=102.0), message("b", 0, 11, time=100.0, at=102.0))


@bad("dedup")
def two_messages_with_one_id_within_the_window(s: Story) -> None:
    s.features()
    s.enqueue("a", "b", traits={"dedup": "d"})
    s.receive(message("a", 0, 10, time=100.0), message("b", 1, 11, time=100.0))


@bad("dedup")
def id_was_forgotten_in_a_crash(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"dedup": "d"})
    s.receive(message("a", 0, 10, time=100.0))
    s.settle("ack", (0, 10))
    s.note("crash")
    s.enqueue("b", first=1, traits={"dedup": "d"})
    s.receive(message("b", 1, 11, time=399.0))


@bad("dedup")
def duplicate_was_delivered(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"dedup": "d"})
    s.enqueue("b", first=1, twins=[0], traits={"dedup": "d"})
    s.receive(message("b", 1, 10, time=100.0))


@bad("dedup")
def receipt_of_a_duplicate_names_another_message(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"dedup": "d"})
    s.enqueue("b", first=1, twins=[0], traits={"dedup": "e"})


@bad("lost")
def message_called_a_duplicate_by_nobody_is_gone(s: Story) -> None:
    s.features()
    s.enqueue("a", "b", traits={"dedup": "d"})
    s.receive(message("a", 0, 10))
    s.settle("ack", (0, 10))
    s.drained("q", "dead")


@bad("job key")
def job_was_taken_while_another_was_not_done(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"job": "j", "conflict": "reject"})
    s.receive(message("a", 0, 10, time=100.0, at=101.0))
    s.enqueue("b", first=1, traits={"job": "j", "conflict": "keep"})
    s.settle("nack", (0, 10))
    s.receive(message("a", 0, 11, time=100.0, at=104.0, attempt=2, delivery=2, history=told("nacked")))
    s.settle("ack", (0, 11))
    s.receive(message("b", 1, 12, time=102.0, at=105.0))


@bad("job key")
def replaced_job_was_delivered(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"job": "j", "conflict": "reject"})
    s.enqueue("b", first=1, traits={"job": "j", "conflict": "replace"})
    s.receive(message("a", 0, 10, time=100.0, at=104.0))
    s.settle("ack", (0, 10))
    s.receive(message("b", 1, 11, time=102.0, at=105.0))


# what is told of a message


@bad("history")
def dead_letter_forgot_a_try_in_a_crash(s: Story) -> None:
    s.features()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10))
    s.note("crash")
    s.receive(message("a", 0, 21, attempt=2, delivery=2, history=told("nacked")))
    s.settle("dead_letter", (0, 21))
    s.receive(message("a", 0, 30, history=told("rejected")), queue="dead")


@bad("history")
def dead_letter_has_no_history(s: Story) -> None:
    s.features()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("dead_letter", (0, 10))
    s.receive(message("a", 0, 30), queue="dead")


@bad("history")
def dead_letter_names_another_origin(s: Story) -> None:
    s.features()
    s.enqueue("a", first=4)
    s.receive(message("a", 4, 10))
    s.settle("dead_letter", (4, 10))
    s.receive(message("a", 0, 30, history=told("rejected", offset=0)), queue="dead")


@bad("history")
def failed_message_does_not_tell_of_its_tries(s: Story) -> None:
    s.features()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10))
    s.receive(message("a", 0, 11, attempt=2, delivery=2))


@bad("checkpoint")
def next_try_does_not_know_the_checkpoint(s: Story) -> None:
    s.features()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("checkpoint", (0, 10), checkpoint="half", lease=1.0)
    s.settle("release", (0, 10))
    s.receive(message("a", 0, 11, delivery=2))


@bad("checkpoint")
def crash_brought_an_older_checkpoint_back(s: Story) -> None:
    s.features()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("checkpoint", (0, 10), checkpoint="third", lease=1.0)
    s.settle("checkpoint", (0, 10), checkpoint="half", lease=1.0)
    s.note("crash")
    s.receive(message("a", 0, 21, redelivered=True, checkpoint="third"))


@bad("delivered twice")
def message_settled_as_it_was_delivered_came_again(s: Story) -> None:
    s.features()
    s.enqueue("a")
    s.receive(once("a", 0))
    s.note("crash")
    s.receive(once("a", 0))


@bad("delivered twice")
def message_settled_as_it_was_delivered_came_under_a_lease(s: Story) -> None:
    s.features()
    s.enqueue("a")
    s.receive(once("a", 0))
    s.receive(message("a", 0, 11, redelivered=True))


# moves


@bad("transfer split")
def moved_message_is_in_both_queues(s: Story) -> None:
    s.features()
    s.features("r", None)
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("release", (0, 10))
    s.transfer("r")
    s.receive(message("a", 0, 20), queue="r")
    s.receive(message("a", 0, 21, delivery=2))


@bad("transfer split")
def moved_message_is_in_neither_queue(s: Story) -> None:
    s.features()
    s.features("r", None)
    s.enqueue("a")
    s.transfer("r", answer="unknown")
    s.drained("q", "dead", "r")


@bad("transfer split")
def acked_message_was_moved_all_the_same(s: Story) -> None:
    s.features()
    s.features("r", None)
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.transfer("r")
    s.settle("ack", (0, 10))
    s.receive(message("a", 0, 20), queue="r")


@bad("transfer split")
def redriven_dead_letter_stayed_where_it_was(s: Story) -> None:
    s.features()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("dead_letter", (0, 10))
    s.receive(message("a", 0, 11, history=told("rejected")), queue="dead")
    s.settle("release", (0, 11), queue="dead")
    s.transfer(None, queue="dead")
    s.receive(message("a", 1, 12, history=told("rejected")))
    s.receive(message("a", 0, 13, delivery=2, history=told("rejected")), queue="dead")


@bad("dead-letter split")
def dead_letter_came_from_its_queue_with_features_again(s: Story) -> None:
    s.features()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("dead_letter", (0, 10), answer="unknown")
    s.receive(message("a", 0, 11, history=told("rejected")), queue="dead")
    s.receive(message("a", 0, 12, delivery=2))


@bad("dead-letter split")
def expired_dead_letter_is_nowhere(s: Story) -> None:
    s.features(on_expiry="dead_letter", ttl=5.0, max_attempts=1)
    s.enqueue("a")
    s.receive(message("a", 0, 10, delivery=10))
    s.drained("q", "dead")


@bad("dirty read")
def message_of_a_queue_with_features_vanished(s: Story) -> None:
    s.features()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.note("crash")
    s.drained("q", "dead")


# answers and schedules


@bad("reply")
def answer_of_an_acked_message_is_nowhere(s: Story) -> None:
    s.features()
    s.features("r", None)
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.reply((0, 10), "b", to="r")
    s.drained("q", "dead", "r")


@bad("reply")
def answered_message_came_again(s: Story) -> None:
    s.features()
    s.features("r", None)
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.reply((0, 10), "b", to="r", answer="unknown")
    s.note("crash")
    s.receive(message("b", 0, 20), queue="r")
    s.receive(message("a", 0, 21, redelivered=True))


@bad("aborted read")
def answer_under_a_stale_lease_was_delivered(s: Story) -> None:
    s.features()
    s.features("r", None)
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("reply", (0, 10), stale=True, to="r", values=["b"])
    s.receive(message("b", 0, 20), queue="r")


def scheduled(s: Story, runs: int) -> None:
    s.features()
    s.op("schedule", {"first": 100.0}, queue="q", schedule="s", every=10.0)
    s.note("runs", schedule="s", runs=runs)


@bad("schedule")
def one_run_enqueued_two_messages(s: Story) -> None:
    scheduled(s, 1)
    s.receive(message("s", 0, 10, time=110.0), message("s", 1, 11, time=120.0))


@bad("schedule")
def run_came_twice_over_a_crash(s: Story) -> None:
    scheduled(s, 2)
    s.receive(message("s", 0, 10, time=100.0), message("s", 1, 11, time=101.0))


@bad("schedule")
def message_of_a_run_is_missing(s: Story) -> None:
    scheduled(s, 2)
    s.receive(message("s", 0, 10, time=100.0))
    s.settle("ack", (0, 10))
    s.drained("q", "dead")


# sums


@bad("books")
def duplicates_are_in_no_account(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"dedup": "d"})
    s.enqueue("b", first=1, twins=[0], traits={"dedup": "d"})
    s.stats(ready=1, total=1)


@bad("books")
def message_moved_away_is_in_no_account(s: Story) -> None:
    s.stats(settled=1, total=1, acked=0, dead_lettered=0, expired=0, purged=0, duplicate=0, moved=0)
