"""Histories of partitions and groups that break the contract, each under the name of its anomaly."""

from tests.sim.story import Story, bad

# logs


@bad("inconsistent offset")
def two_readers_saw_different_records(s: Story) -> None:
    s.produce("a", answer="unknown")
    s.produce("b", answer="unknown")
    s.fetch(0, "a")
    s.fetch(0, "b")


@bad("lost write")
def confirmed_record_passed_by_every_reader(s: Story) -> None:
    s.produce("a", "b", "c")
    s.fetch(0, "a", end=3)
    s.fetch(2, "c")
    s.note("drained", log="t/0")


@bad("unseen")
def confirmed_record_missing_at_the_end(s: Story) -> None:
    s.produce("a", "b")
    s.fetch(0, "a", end=2)
    s.note("drained", log="t/0")


@bad("unseen")
def confirmed_record_missing_where_retention_did_not_come(s: Story) -> None:
    s.produce("a", "b", "c")
    s.fetch(1, "b", end=3)
    s.note("trimmed", log="t/0", start=1)
    s.note("drained", log="t/0")


@bad("duplicate")
def retried_record_stands_twice(s: Story) -> None:
    s.produce("a", answer="unknown")
    s.fetch(0, "a", "a")


@bad("phantom")
def record_that_nobody_sent(s: Story) -> None:
    s.fetch(0, "ghost")


@bad("corrupt")
def record_with_wrong_bytes(s: Story) -> None:
    s.produce("a")
    s.fetch(0, None)


@bad("aborted read")
def refused_record_was_read(s: Story) -> None:
    s.produce("a", answer="refused")
    s.fetch(0, "a")


@bad("nonmonotonic send")
def later_record_got_an_earlier_offset(s: Story) -> None:
    s.produce("b", first=1)
    s.produce("a", first=0)


@bad("nonmonotonic poll")
def consumer_was_sent_back(s: Story) -> None:
    s.produce("a", "b")
    s.poll((0, "a"), (1, "b"))
    s.poll((1, "b"))


@bad("poll skip")
def consumer_missed_a_record(s: Story) -> None:
    s.produce("a", "b", "c")
    s.poll((0, "a"))
    s.poll((2, "c"))


@bad("poll skip")
def fetch_began_behind_the_offset_asked_for(s: Story) -> None:
    s.produce("a", "b")
    s.fetch(0, "b", first=1)


@bad("withheld")
def fetch_below_the_end_got_nothing(s: Story) -> None:
    s.produce("a")
    s.fetch(0, end=1)


@bad("end moved back")
def end_fell_below_a_record_that_was_read(s: Story) -> None:
    s.produce("a", answer="unknown")
    s.fetch(0, "a")
    s.note("crash")
    s.op("end", {"end": 0}, log="t/0")


# groups


@bad("stale offset")
def older_offset_after_a_restart(s: Story) -> None:
    s.produce(*"abcdefgh")
    s.commit(3)
    s.commit(7)
    s.note("crash")
    s.committed(3)


@bad("stale offset")
def unknown_commit_was_shown_and_taken_back(s: Story) -> None:
    s.produce(*"abcdefgh")
    s.commit(3)
    s.commit(7, answer="unknown")
    s.committed(7)
    s.note("crash")
    s.committed(3)


@bad("stale offset")
def refused_commit_took_effect(s: Story) -> None:
    s.produce(*"abcdefgh")
    s.commit(3)
    s.commit(7, answer="refused")
    s.committed(7)


@bad("zero offset")
def committed_offset_was_forgotten(s: Story) -> None:
    s.produce("a", "b")
    s.commit(2)
    s.note("crash")
    s.committed(None)


@bad("zero offset")
def group_was_sent_to_the_beginning(s: Story) -> None:
    s.produce("a", "b")
    s.commit(2)
    s.committed(0)


@bad("over-end offset")
def offset_beyond_the_end_was_accepted(s: Story) -> None:
    s.produce("a")
    s.commit(2)


@bad("fenced commit accepted")
def commit_of_an_old_generation_was_accepted(s: Story) -> None:
    s.produce("a")
    s.op("generation", {"generation": 5}, by="new", group="g")
    s.commit(1, generation=4)


@bad("fenced commit accepted")
def commit_for_a_partition_that_somebody_else_was_given(s: Story) -> None:
    s.produce("a")
    s.op("generation", {"generation": 4}, by="old", group="g", log="t/0")
    s.op("generation", {"generation": 5}, by="new", group="g", log="t/0")
    s.commit(1, generation=4, by="old")


@bad("passed over")
def group_committed_what_no_member_read(s: Story) -> None:
    s.produce("a", "b", "c")
    s.poll((0, "a"))
    s.poll((2, "c"), assignment=2)
    s.commit(3)
