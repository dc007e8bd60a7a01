"""Histories of queues over a topic, and of rates: those that break the contract, each under the name of its
anomaly, and those near the edge of what it forbids."""

from typing import Any

from tests.sim.history import LANE
from tests.sim.story import Story, bad, good, message, told


def over(s: Story, start: str = "earliest", **changed: Any) -> None:
    """Queue "q" is over topic "t"."""
    s.features(source="t", source_start=start, **changed)


def drained(s: Story) -> None:
    """Everything is empty, and what is left of the topic was read."""
    s.drained("q", "dead")


@bad("lost")
def record_was_never_handed_out(s: Story) -> None:
    over(s)
    s.produce("a", "b")
    s.receive(message("a", 0, 10))
    s.settle("ack", (0, 10))
    drained(s)


@bad("lost")
def queue_lost_a_record_that_another_one_over_the_topic_had(s: Story) -> None:
    over(s)
    s.features("other", dead=None, source="t", source_start="earliest")
    s.produce("a")
    s.receive(message("a", 0, 10), queue="other")
    s.settle("ack", (0, 10), queue="other")
    s.drained("q", "dead", "other")


@bad("dirty read")
def record_vanished_in_a_crash(s: Story) -> None:
    over(s)
    s.produce("a")
    s.receive(message("a", 0, 10))
    s.note("crash")
    drained(s)


@bad("resurrected")
def acked_record_came_again(s: Story) -> None:
    over(s)
    s.produce("a", log="t/1")
    s.receive(message("a", LANE, 10))
    s.settle("ack", (LANE, 10))
    s.note("crash")
    s.receive(message("a", LANE, 20, redelivered=True))


@bad("dead-letter split")
def dead_record_is_in_neither_queue(s: Story) -> None:
    over(s)
    s.produce("a")
    s.receive(message("a", 0, 10))
    s.settle("dead_letter", (0, 10))
    drained(s)


@bad("history")
def dead_record_says_it_is_another(s: Story) -> None:
    over(s)
    s.produce("a", "b", log="t/1")
    s.receive(message("a", LANE, 10), message("b", LANE + 1, 10))
    s.settle("dead_letter", (LANE + 1, 10))
    s.receive(message("b", 0, 11, history=told("rejected", offset=0)), queue="dead")


@bad("order")
def records_of_a_partition_were_turned_round(s: Story) -> None:
    over(s)
    s.produce("a", "b")
    s.receive(message("b", 1, 10))
    s.receive(message("a", 0, 11))


@bad("phantom")
def record_nobody_produced_was_handed_out(s: Story) -> None:
    over(s)
    s.receive(message("ghost", 0, 10))


@bad("too old")
def queue_that_begins_with_what_is_new_had_an_old_record(s: Story) -> None:
    s.produce("a")
    over(s, "latest")
    s.receive(message("a", 0, 10))


@bad("trimmed delivered")
def record_that_retention_took_was_handed_out(s: Story) -> None:
    over(s)
    s.produce("a", "b")
    s.fetch(1, "b", start=1)
    s.receive(message("a", 0, 10))


@bad("trimmed delivered")
def record_that_retention_took_came_back_to_be_tried_again(s: Story) -> None:
    over(s)
    s.produce("a", "b", log="t/1")
    s.receive(message("a", LANE, 10))
    s.settle("nack", (LANE, 10))
    s.fetch(1, "b", start=1, log="t/1")
    s.receive(message("a", LANE, 11, attempt=2, delivery=2, history=told("nacked")))


@good
def record_is_settled_in_every_queue_over_the_topic_and_stays_there(s: Story) -> None:
    over(s)
    s.features("other", dead=None, source="t", source_start="earliest")
    s.produce("a")
    s.receive(message("a", 0, 10))
    s.settle("nack", (0, 10))
    s.receive(message("a", 0, 11), queue="other")
    s.settle("ack", (0, 11), queue="other")
    s.receive(message("a", 0, 12, attempt=2, delivery=2, history=told("nacked")))
    s.settle("dead_letter", (0, 12))
    s.fetch(0, "a", start=0)
    s.commit(1)
    s.receive(message("a", 0, 13, history=told("nacked", "rejected")), queue="dead")
    s.settle("ack", (0, 13), queue="dead")
    s.note("drained", log="t/0")
    s.drained("q", "dead", "other")


@good
def partitions_of_a_topic_go_each_by_itself(s: Story) -> None:
    over(s)
    s.produce("a", log="t/0")
    s.produce("b", "c", log="t/1")
    s.receive(message("b", LANE, 10), message("c", LANE + 1, 10))
    s.receive(message("a", 0, 11))
    s.settle("ack", (LANE, 10), (LANE + 1, 10), (0, 11))
    drained(s)


@good
def what_retention_took_is_nowhere(s: Story) -> None:
    over(s)
    s.produce("a", "b", "c")
    s.receive(message("a", 0, 10))
    s.note("trimmed", log="t/0", start=2)
    s.receive(message("c", 2, 11))
    s.settle("ack", (2, 11))
    drained(s)


@good
def record_that_was_in_hand_was_acked_after_retention_took_it(s: Story) -> None:
    over(s)
    s.produce("a", "b")
    s.receive(message("a", 0, 10))
    s.fetch(1, "b", start=1)
    s.settle("ack", (0, 10))
    s.note("trimmed", log="t/0", start=1)
    s.receive(message("b", 1, 11))
    s.settle("ack", (1, 11))
    drained(s)


@good
def queue_that_begins_with_what_is_new_knows_nothing_of_before(s: Story) -> None:
    s.produce("a")
    op = s.by("p").invoke("produce", log="t/0", values=["b"])
    over(s, "latest")
    s.by("p").ok(op, first=1)
    s.produce("c", first=2)
    s.receive(message("b", 1, 10), message("c", 2, 10))
    s.settle("ack", (1, 10), (2, 10))
    drained(s)


# rates


def handed(s: Story, times: list[float], group: str | None = None, boot: int = 0) -> None:
    """One message each was handed out at those times of the history's clock."""
    traits = {"group": group} if group is not None else {}
    values = [f"{boot}.{i}" for i in range(len(times))]
    first = sum(record["f"] == "enqueue" for record in s.records if record["type"] == "invoke") * 100
    s.enqueue(*values, first=first, traits=traits)
    for i, (value, time) in enumerate(zip(values, times, strict=True)):
        redelivered = boot > 0
        found = message(value, first + i, (boot << 36) + 10 + i, handed=time, redelivered=redelivered)
        s.receive(found)
        s.settle("ack", (first + i, found["token"]))


@bad("rate")
def two_came_within_the_time_of_one(s: Story) -> None:
    s.features(rate=1.0)
    handed(s, [10.0, 10.2])


@bad("rate")
def pace_was_lost_behind_an_idle_while(s: Story) -> None:
    s.features(rate=20.0)
    handed(s, [10.0, 20.0, 20.01, 20.02, 20.03, 20.04])


@bad("rate")
def messages_whose_moment_nobody_knows_came_too_fast(s: Story) -> None:
    s.features(rate=0.1)
    s.enqueue("a", "b", "c")
    s.receive(message("a", 0, 10))
    s.settle("ack", (0, 10))
    s.receive(message("b", 1, 11), message("c", 2, 11))


@bad("rate")
def partitions_had_a_rate_each(s: Story) -> None:
    over(s, rate=10.0)
    s.produce("a", "b")
    s.produce("c", "d", log="t/1")
    for token, (value, offset) in enumerate((("a", 0), ("c", LANE), ("b", 1), ("d", LANE + 1)), 10):
        s.receive(message(value, offset, token, handed=token / 20))


@bad("group rate")
def tenant_came_faster_than_it_may(s: Story) -> None:
    s.features(fair=True, group_rate=5.0)
    handed(s, [10.0 + i / 10 for i in range(20)], "g")


@bad("group rate")
def tenant_without_a_name_came_faster_than_it_may(s: Story) -> None:
    s.features(fair=True, group_rate=1.0)
    handed(s, [10.0, 10.1, 10.2])


@bad("transfer rate")
def messages_were_redriven_all_at_once(s: Story) -> None:
    s.features()
    s.op("transfer", {"messages": 200}, queue="dead", to="other", state="ready", rate=20.0)


@good
def queue_went_as_fast_as_it_may(s: Story) -> None:
    s.features(rate=20.0)
    handed(s, [10.0, 10.0, *(10.05 + i / 20 for i in range(30))])
    s.note("crash")
    handed(s, [11.6, 11.6], boot=1)


@good
def rate_that_was_lifted_counts_no_more(s: Story) -> None:
    s.features(rate=0.01)
    s.enqueue("a", "b")
    s.receive(message("a", 0, 10, handed=s.now))
    s.settle("ack", (0, 10))
    s.note("opened", queue="q")
    s.receive(message("b", 1, 11, handed=s.now))


@good
def tenants_have_a_rate_each_and_what_is_released_goes_again(s: Story) -> None:
    s.features(fair=True, group_rate=1.0)
    s.enqueue("a", "b", traits={"group": "g"})
    s.enqueue("c", first=2, traits={"group": "h"})
    s.receive(message("a", 0, 10, handed=10.0), message("b", 1, 11, handed=10.0))
    s.receive(message("c", 2, 12, handed=10.0))
    s.settle("release", (0, 10))
    s.receive(message("a", 0, 13, delivery=2, handed=10.1))
    s.settle("ack", (1, 11), (2, 12), (0, 13))


@good
def redrive_kept_its_pace(s: Story) -> None:
    s.features()
    s.op("transfer", {"messages": 22}, queue="dead", to="other", state="ready", rate=20.0)


@good
def record_died_in_two_lives_of_a_queue_over_its_topic(s: Story) -> None:
    over(s)
    s.features("again", "dead", source="t", source_start="earliest")
    s.produce("a")
    for queue in ("q", "again"):
        s.receive(message("a", 0, 10), queue=queue)
        s.settle("dead_letter", (0, 10), queue=queue)
    s.receive(message("a", 0, 20), message("a", 1, 21), queue="dead")
    s.settle("ack", (0, 20), (1, 21), queue="dead")
    s.drained("q", "again", "dead")
