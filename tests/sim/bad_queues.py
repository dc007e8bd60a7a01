"""Histories of queues that break the contract, each under the name of its anomaly."""

from tests.sim.story import BACKOFF, LEASE, Story, bad, message

# what became of messages


@bad("lost")
def confirmed_message_never_delivered(s: Story) -> None:
    s.enqueue("a", "b")
    s.receive(message("b", 1, 10))
    s.settle("ack", (1, 10))
    s.drained()


@bad("lost")
def confirmed_message_gone_after_a_crash(s: Story) -> None:
    s.enqueue("a")
    s.note("crash")
    s.receive()
    s.drained()


@bad("dirty read")
def delivered_message_vanished_without_a_settle(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.note("crash")
    s.drained()


@bad("dirty read")
def unconfirmed_message_was_shown_and_taken_back(s: Story) -> None:
    s.enqueue("a", answer="unknown")
    s.receive(message("a", 0, 10))
    s.settle("release", (0, 10))
    s.drained()


@bad("phantom")
def message_that_nobody_sent(s: Story) -> None:
    s.receive(message("ghost", 0, 10))


@bad("corrupt")
def message_with_wrong_bytes(s: Story) -> None:
    s.enqueue("a")
    s.receive(message(None, 0, 10))


@bad("aborted read")
def refused_message_was_delivered(s: Story) -> None:
    s.enqueue("a", answer="refused")
    s.receive(message("a", 0, 10))


@bad("resurrected")
def acked_message_delivered_again(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("ack", (0, 10))
    s.receive(message("a", 0, 11, attempt=2, delivery=2))


@bad("resurrected")
def acked_message_came_back_with_a_crash(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("ack", (0, 10))
    s.note("crash")
    s.receive(message("a", 0, 11, redelivered=True))


@bad("double effect")
def retried_publish_stands_twice_in_the_queue(s: Story) -> None:
    s.enqueue("a", answer="unknown")
    s.receive(message("a", 0, 10), message("a", 1, 11))


@bad("double effect")
def message_delivered_at_another_offset_than_confirmed(s: Story) -> None:
    s.enqueue("a", first=4)
    s.receive(message("a", 5, 10))


@bad("inconsistent offset")
def two_messages_confirmed_at_one_offset(s: Story) -> None:
    s.enqueue("a")
    s.note("crash")
    s.op("enqueue", "unknown", queue="q", values=["b"])
    s.receive(message("b", 0, 10, redelivered=True))


@bad("nonmonotonic send")
def later_enqueue_got_an_earlier_offset(s: Story) -> None:
    s.enqueue("b", first=1)
    s.enqueue("a", first=0)


@bad("dead-letter split")
def dead_lettered_message_in_neither_queue(s: Story) -> None:
    s.settings()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("dead_letter", (0, 10))
    s.drained("q", "dead")


@bad("dead-letter split")
def message_gone_after_its_last_attempt(s: Story) -> None:
    s.settings(max_attempts=1)
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10))
    s.drained("q", "dead")


@bad("dead-letter split")
def dead_letter_is_also_delivered_from_its_own_queue(s: Story) -> None:
    s.settings()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("dead_letter", (0, 10), answer="unknown")
    s.receive(message("a", 0, 99), queue="dead")
    s.receive(message("a", 0, 11, delivery=2))


@bad("dead-letter split")
def dead_lettered_message_handed_out_again(s: Story) -> None:
    s.settings()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("dead_letter", (0, 10))
    s.receive(message("a", 0, 11, delivery=2))


# leases


@bad("double lease")
def message_handed_out_while_leased(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.receive(message("a", 0, 11, attempt=2, delivery=2), by="other")


@bad("double lease")
def one_token_given_twice(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.now += LEASE
    s.receive(message("a", 0, 10, attempt=2, delivery=2))


@bad("double lease")
def token_went_back_over_a_crash(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10, attempt=2, delivery=2))
    s.note("crash")
    s.receive(message("a", 0, 9, redelivered=True))


@bad("double lease")
def late_ack_was_accepted(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.now += LEASE
    s.receive(message("a", 0, 11, attempt=2, delivery=2), by="other")
    s.settle("ack", (0, 10))


@bad("double lease")
def extended_lease_was_given_away(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("extend", (0, 10), lease=100.0)
    s.now += LEASE
    s.receive(message("a", 0, 11, attempt=2, delivery=2), by="other")


@bad("double lease")
def pushed_message_was_given_to_another(s: Story) -> None:
    s.enqueue("a")
    s.note("deliver", by="c", queue="q", messages=[message("a", 0, 10)], since=2.0)
    s.receive(message("a", 0, 11, attempt=2, delivery=2), by="other")


@bad("unflagged redelivery")
def second_delivery_says_it_is_the_first(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10))
    s.receive(message("a", 0, 11, attempt=2, delivery=2, redelivered=False))


@bad("unflagged redelivery")
def delivery_after_a_crash_says_it_is_the_first(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.note("crash")
    s.receive(message("a", 0, 11))


@bad("early")
def nacked_message_came_before_its_delay(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10), delay=20.0)
    s.receive(message("a", 0, 11, attempt=2, delivery=2))


@bad("order")
def first_deliveries_were_inverted(s: Story) -> None:
    s.enqueue("a", "b")
    s.receive(message("b", 1, 10))
    s.receive(message("a", 0, 11))


@bad("stuck")
def ready_message_was_withheld_from_a_hungry_consumer(s: Story) -> None:
    s.settings()
    s.enqueue("a")
    s.now += 2 * LEASE + 5
    s.receive()
    s.receive(message("a", 0, 10))


@bad("stuck")
def released_message_never_came_back(s: Story) -> None:
    s.settings()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("release", (0, 10))
    s.now += 3 * LEASE + BACKOFF + 5
    s.receive()


# counts


@bad("count")
def delivered_beyond_max_attempts(s: Story) -> None:
    s.settings(max_attempts=1)
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10))
    s.receive(message("a", 0, 11, attempt=2, delivery=2))


@bad("count")
def nack_was_not_counted(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10))
    s.receive(message("a", 0, 11, attempt=1, delivery=2))


@bad("count")
def nack_was_forgotten_in_a_crash(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10))
    s.note("crash")
    s.receive(message("a", 0, 11, attempt=1, delivery=1, redelivered=True))


@bad("count")
def lease_that_ran_out_was_not_counted(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.now += LEASE
    s.receive(message("a", 0, 11, attempt=1, delivery=2))


@bad("count")
def release_was_counted_as_a_failure(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("release", (0, 10))
    s.receive(message("a", 0, 11, attempt=2, delivery=2))


@bad("count")
def delivery_number_was_given_twice(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("release", (0, 10))
    s.receive(message("a", 0, 11, delivery=1, redelivered=True))


@bad("count")
def released_forever_beyond_max_deliveries(s: Story) -> None:
    s.settings(max_deliveries=2)
    s.enqueue("a")
    for delivery in (1, 2, 3):
        s.receive(message("a", 0, 9 + delivery, delivery=delivery))
        s.settle("release", (0, 9 + delivery))


@bad("count")
def tried_more_often_than_attempts_and_crashes_allow(s: Story) -> None:
    s.settings(max_attempts=1)
    s.enqueue("a")
    for token in (10, 11, 12):
        s.receive(message("a", 0, token, redelivered=True))
        s.now += LEASE
        if token == 10:
            s.note("crash")


@bad("count")
def dead_letter_before_its_last_attempt(s: Story) -> None:
    s.settings()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10))
    s.receive(message("a", 0, 99), queue="dead")


# sums


@bad("books")
def states_do_not_add_up(s: Story) -> None:
    s.enqueue("a", "b")
    s.stats(ready=1, total=2)


@bad("books")
def outcomes_do_not_add_up(s: Story) -> None:
    s.stats(acked=1, dead_lettered=0, expired=0, purged=0)


@bad("books")
def broker_counts_more_than_was_sent(s: Story) -> None:
    s.enqueue("a", answer="unknown")
    s.enqueue("b", answer="refused")
    s.stats(ready=2, total=2)


@bad("books")
def broker_counts_fewer_acks_than_it_confirmed(s: Story) -> None:
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("ack", (0, 10))
    s.stats(ready=1, total=1, acked=0)
