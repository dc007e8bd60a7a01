"""Histories of queues with features that the contract allows, near the edge of what it forbids."""

from tests.sim.story import LEASE, PLAIN_FEATURES, Story, good, message, once, told


@good
def delayed_message_came_in_its_millisecond(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"delay": 10.0})
    s.receive(message("a", 0, 10, time=100.0, at=110.0))
    s.settle("ack", (0, 10))
    s.drained("q", "dead")


@good
def rescheduled_message_came_at_once(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"delay": 10.0})
    s.reschedule(0, 0.0)
    s.receive(message("a", 0, 10, time=100.0, at=101.0))


@good
def redriven_message_is_not_delayed_again(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"delay": 10.0})
    s.receive(message("a", 0, 10, time=100.0, at=110.0))
    s.settle("dead_letter", (0, 10))
    s.transfer(None, queue="dead")
    s.receive(message("a", 1, 12, time=111.0, at=111.0, history=told("rejected")))
    s.settle("ack", (1, 12))
    s.drained("q", "dead")


@good
def cancelled_and_expired_messages_are_gone(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"delay": 10.0})
    s.reschedule(0, None)
    s.enqueue("b", first=1, traits={"ttl": 1.0})
    s.drained("q", "dead")


@good
def message_came_a_millisecond_before_it_expired(s: Story) -> None:
    s.features(ttl=10.0)
    s.enqueue("a", traits={"ttl": 5.0})
    s.receive(message("a", 0, 10, time=100.0, at=104.999))


@good
def group_goes_on_behind_its_head(s: Story) -> None:
    s.features()
    s.enqueue("a", "b", traits={"group": "g"})
    s.enqueue("c", first=2, traits={"group": "h"})
    s.receive(message("a", 0, 10), message("c", 2, 11))
    s.settle("nack", (0, 10))
    s.receive(message("a", 0, 12, attempt=2, delivery=2, history=told("nacked")))
    s.settle("ack", (0, 12))
    s.receive(message("b", 1, 13))
    s.settle("ack", (1, 13), (2, 11))
    s.drained("q", "dead")


@good
def failed_head_steps_aside_where_that_is_wanted(s: Story) -> None:
    s.features(group_failure="skip")
    s.enqueue("a", "b", traits={"group": "g"})
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10))
    s.receive(message("b", 1, 11))
    s.settle("ack", (1, 11))
    s.receive(message("a", 0, 12, attempt=2, delivery=2, history=told("nacked")))


@good
def next_of_a_group_came_when_the_lease_was_over(s: Story) -> None:
    s.features(group_concurrency=1, fair=True)
    s.enqueue("a", "b", traits={"group": "g"})
    s.receive(message("b", 1, 10))
    s.now += LEASE
    s.receive(message("a", 0, 11), by="other")


@good
def priority_of_what_came_later_or_had_to_wait_does_not_count(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"priority": 1})
    s.enqueue("b", first=1, traits={"priority": 9, "delay": 1.0})
    s.enqueue("c", first=2, traits={"priority": 9})
    s.receive(message("a", 0, 10, time=100.0, at=102.0))
    s.receive(message("c", 2, 11, time=102.0, at=103.0), message("b", 1, 12, time=101.0, at=103.0))


@good
def priority_of_what_was_about_to_be_sent_with_one_that_expired(s: Story) -> None:
    s.features()
    s.enqueue("b", "c", traits={"priority": 9, "ttl": 5.0})
    s.enqueue("a", first=2, traits={"priority": 1})
    s.receive(message("a", 2, 10, time=103.0, at=104.0))
    s.receive(message("b", 0, 11, time=102.0, at=106.0))


@good
def priority_of_what_somebody_lost_may_have_had(s: Story) -> None:
    s.features()
    s.enqueue("b", traits={"priority": 9})
    s.enqueue("a", first=1, traits={"priority": 1})
    s.note("disconnect", by="lost")
    s.receive(message("a", 1, 10, time=101.0, at=102.0))
    s.receive(message("b", 0, 11, time=100.0, at=103.0))


@good
def job_was_sent_again_in_a_life_whose_clock_had_fallen_behind(s: Story) -> None:
    s.features(job_scope="queued")
    s.note("clock", jump=-100.0)
    job = {"job": "j", "conflict": "replace"}
    s.enqueue("a", traits=job)
    op = s.by("p").invoke("enqueue", queue="q", values=["b"], traits=[job])
    s.receive(message("a", 0, 10, time=100.0, at=104.0))
    s.note("crash")
    s.by("p").ok(op, first=1)
    s.receive(message("b", 1, 20, time=103.0, at=105.0, redelivered=True))


@good
def duplicate_was_named_and_the_id_is_free_after_the_window(s: Story) -> None:
    s.features(dedup_window=5.0)
    s.enqueue("a", traits={"dedup": "d"})
    s.enqueue("b", first=1, twins=[0], traits={"dedup": "d"})
    s.enqueue("c", first=2, traits={"dedup": "d"})
    s.receive(message("a", 0, 10, time=100.0), message("c", 2, 11, time=105.0))
    s.settle("ack", (0, 10), (2, 11))
    s.stats(settled=3, total=3, acked=2, dead_lettered=0, expired=0, purged=0, duplicate=1, moved=0)
    s.drained("q", "dead")


@good
def jobs_with_one_key_ran_one_after_the_other(s: Story) -> None:
    s.features()
    s.enqueue("a", traits={"job": "j", "conflict": "reject"})
    s.receive(message("a", 0, 10, time=100.0, at=100.5))
    s.enqueue("b", first=1, traits={"job": "j", "conflict": "run_after"})
    s.enqueue("c", first=2, traits={"job": "j", "conflict": "replace"})
    s.settle("ack", (0, 10))
    s.receive(message("c", 2, 11, time=102.0, at=103.0))
    s.settle("ack", (2, 11))
    s.drained("q", "dead")


@good
def dead_letter_tells_of_every_try_and_of_its_origin(s: Story) -> None:
    s.features(max_attempts=2)
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10))
    s.receive(message("a", 0, 11, attempt=2, delivery=2, history=told("nacked")))
    s.settle("nack", (0, 11))
    s.receive(message("a", 0, 30, history=told("nacked", "nacked")), queue="dead")
    s.settle("ack", (0, 30), queue="dead")
    s.drained("q", "dead")


@good
def last_try_was_noted_and_the_death_lost_in_a_crash(s: Story) -> None:
    s.features(max_attempts=1)
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10), answer="unknown")
    s.note("crash")
    s.receive(message("a", 0, 21, redelivered=True, history=told("nacked")))


@good
def later_checkpoint_that_nobody_confirmed(s: Story) -> None:
    s.features()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("checkpoint", (0, 10), checkpoint="third", lease=LEASE)
    s.settle("checkpoint", (0, 10), checkpoint="half", lease=LEASE, answer="unknown")
    s.note("crash")
    s.receive(message("a", 0, 21, redelivered=True, checkpoint="half"))
    s.settle("ack", (0, 21))
    s.drained("q", "dead")


@good
def delivered_at_most_once_or_never(s: Story) -> None:
    s.features()
    s.enqueue("a", "b")
    s.receive(once("a", 0))
    s.op("receive", "unknown", by="lost", queue="q", wait=0.0, once=True)
    s.note("crash")
    s.drained("q", "dead")


@good
def message_moved_there_and_back_again(s: Story) -> None:
    s.features()
    s.features("r", None)
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("release", (0, 10))
    s.transfer("r")
    s.receive(message("a", 0, 20), queue="r")
    s.settle("release", (0, 20), queue="r")
    s.transfer("q", queue="r")
    s.receive(message("a", 1, 21))
    s.settle("ack", (1, 21))
    s.drained("q", "dead", "r")


@good
def message_moved_to_where_fewer_attempts_are_made_is_handed_out_once_more(s: Story) -> None:
    s.features()
    s.settings("r", dead_letter=None, max_attempts=1, special=PLAIN_FEATURES)
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10), delay=0)
    s.transfer("r")
    s.receive(message("a", 0, 20, attempt=2, delivery=2), queue="r")
    s.settle("ack", (0, 20), queue="r")
    s.drained("q", "dead", "r")


@good
def settled_message_was_replayed(s: Story) -> None:
    s.features()
    s.enqueue("a")
    s.receive(message("a", 0, 10))
    s.settle("ack", (0, 10))
    s.transfer("q", "settled")
    s.receive(message("a", 1, 21, replayed=True))
    s.settle("ack", (1, 21))
    s.drained("q", "dead")


@good
def reply_took_effect_whole_or_not_at_all(s: Story) -> None:
    s.features()
    s.features("r", None)
    s.enqueue("a", "b")
    s.receive(message("a", 0, 10), message("b", 1, 11))
    s.reply((0, 10), "x", to="r", answer="unknown")
    s.reply((1, 11), "y", to="r", answer="unknown")
    s.note("crash")
    s.receive(message("x", 0, 20), queue="r")
    s.settle("ack", (0, 20), queue="r")
    s.receive(message("b", 1, 21, redelivered=True))
    s.settle("ack", (1, 21))
    s.drained("q", "dead", "r")


@good
def schedule_ran_in_time_and_late(s: Story) -> None:
    s.features()
    s.op("schedule", {"first": 100.0}, queue="q", schedule="s", every=10.0)
    s.note("crash")
    s.receive(message("s", 0, 10, time=100.0), message("s", 1, 11, time=135.0))
    s.settle("ack", (0, 10), (1, 11))
    s.note("runs", schedule="s", runs=2)
    s.drained("q", "dead")
