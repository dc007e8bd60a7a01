"""Histories of producers with a name, of streams and of filtered readers: those that break the contract, each
under the name of its anomaly, and those near the edge of what it forbids."""

from typing import Any

from tests.sim.story import Story, bad, good

NUMBER = 1 << 62
OTHER_NUMBER = NUMBER + (1 << 20)
EU = {"key": "eu.*"}
ORDERS = {"header:type": "order", "header:n": 1}


def opened(s: Story, by: str, epoch: int, *, number: int = NUMBER) -> int:
    """Somebody opened the name "n"; its id."""
    s.op("open", {"producer": number + epoch, "epoch": epoch}, by=by, name="n")
    return number + epoch


def write(s: Story, id: int, value: str, first: int = 0, **asked: Any) -> None:
    s.produce(value, first=first, producer=id, **asked)


def stale(s: Story, id: int, value: str) -> None:
    """A write under that id was refused: another one has taken over."""
    op = s.by("p").invoke("produce", log="t/0", values=[value], producer=id)
    s.by("p").refused(op, "Stale")


def records(s: Story, *keys: str | None, first: int = 0) -> None:
    """Values "r0", "r1", … with those keys."""
    values = [f"r{number}" for number in range(first, first + len(keys))]
    s.produce(*values, first=first, traits=[{} if key is None else {"key": key} for key in keys])


def select(
    s: Story, offset: int, *found: int, upto: int, where: Any = EU, end: int = 4, **asked: Any
) -> None:
    """A filtered reader got the values that stand at these offsets, and was sent on to `upto`."""
    said = {"records": [[each, f"r{each}"] for each in found], "start": 0, "end": end, "next": upto}
    s.op("select", said, by="c", log="t/0", offset=offset, where=where, **asked)


# producers with a name


@bad("fenced append")
def zombie_wrote_after_it_was_fenced(s: Story) -> None:
    first = opened(s, "old", 1)
    write(s, first, "a")
    opened(s, "new", 2)
    write(s, first, "b", 1)


@bad("fenced append")
def fence_was_forgotten_in_a_crash(s: Story) -> None:
    first = opened(s, "old", 1)
    opened(s, "new", 2)
    s.note("crash")
    s.note("started")
    write(s, first, "a")


@bad("fenced append")
def zombie_wrote_to_a_queue(s: Story) -> None:
    first = opened(s, "old", 1)
    opened(s, "new", 2)
    s.settings()
    s.enqueue("a", producer=first)


@bad("fenced append")
def deleted_producer_wrote(s: Story) -> None:
    first = opened(s, "old", 1)
    s.op("unname", {}, name="n")
    write(s, first, "a")


@bad("fenced append")
def name_came_back_under_another_number_and_fenced_nobody(s: Story) -> None:
    first = opened(s, "old", 7)
    s.op("unname", "unknown", name="n")
    opened(s, "new", 1, number=OTHER_NUMBER)
    write(s, first, "a")


@bad("fenced append")
def what_a_zombie_had_under_way_stands_behind_what_the_new_one_wrote(s: Story) -> None:
    first = opened(s, "old", 1)
    write(s, first, "a", answer="unknown")
    second = opened(s, "new", 2)
    write(s, second, "b")
    s.fetch(0, "b", "a")


@bad("fenced append")
def confirm_that_came_late_names_a_place_behind_the_new_one(s: Story) -> None:
    first = opened(s, "old", 1)
    op = s.by("p").invoke("produce", log="t/0", values=["a"], producer=first)
    second = opened(s, "new", 1, number=OTHER_NUMBER)
    write(s, second, "b")
    s.by("p").ok(op, first=1)


@bad("shared id")
def two_got_one_id(s: Story) -> None:
    opened(s, "one", 1)
    opened(s, "other", 1)


@bad("shared id")
def opening_was_forgotten_in_a_crash(s: Story) -> None:
    opened(s, "one", 2)
    s.note("crash")
    s.note("started")
    opened(s, "other", 2)


@bad("fenced for nothing")
def only_one_who_ever_opened_it_was_fenced(s: Story) -> None:
    stale(s, opened(s, "one", 1), "a")


@bad("fenced for nothing")
def latest_one_was_fenced_by_the_one_before(s: Story) -> None:
    opened(s, "old", 1)
    second = opened(s, "new", 2)
    s.op("open", "refused", by="old", name="n")
    stale(s, second, "a")


@good
def fenced_producer_is_told_of_what_it_did_before(s: Story) -> None:
    first = opened(s, "old", 1)
    op = s.by("p").invoke("produce", log="t/0", values=["a"], producer=first)
    second = opened(s, "new", 2)
    write(s, second, "b", 1)
    s.by("p").ok(op, first=0)
    stale(s, first, "c")
    s.fetch(0, "a", "b")
    s.note("drained", log="t/0")


@good
def opening_that_nobody_heard_of_fences(s: Story) -> None:
    first = opened(s, "old", 1)
    s.op("open", "unknown", by="new", name="n")
    stale(s, first, "a")
    s.note("crash")
    s.note("started")
    opened(s, "third", 3)


@good
def openings_that_overlap_were_answered_in_another_order(s: Story) -> None:
    ops = [s.by(process).invoke("open", name="n") for process in ("one", "two")]
    s.by("two").ok(ops[1], producer=NUMBER + 2, epoch=2)
    write(s, NUMBER + 2, "a")
    s.by("one").ok(ops[0], producer=NUMBER + 1, epoch=1)
    stale(s, NUMBER + 1, "b")
    write(s, NUMBER + 2, "c", 1)


@good
def deletion_that_may_have_come_late_fences(s: Story) -> None:
    op = s.by("p").invoke("unname", name="n")
    first = opened(s, "one", 1)
    write(s, first, "a")
    stale(s, first, "b")
    s.by("p").ok(op)


# streams


@bad("sequence")
def batch_came_before_one_that_was_sent_before_it(s: Story) -> None:
    op = s.by("p").invoke("produce", log="t/0", values=["a"], producer=5)
    write(s, 5, "b")
    s.by("p").ok(op, first=1)


@bad("sequence")
def batch_is_there_without_the_one_before_it(s: Story) -> None:
    write(s, 5, "a")
    write(s, 5, "b", answer="unknown")
    write(s, 5, "c", 1)
    s.fetch(0, "a", "c")
    s.note("drained", log="t/0")


@bad("duplicate")
def fenced_batch_was_appended_again_behind_a_crash(s: Story) -> None:
    write(s, opened(s, "one", 1), "a")
    s.note("crash")
    s.note("started")
    s.fetch(0, "a", "a")


@good
def refused_batch_leaves_no_hole_and_the_last_one_may_be_missing(s: Story) -> None:
    write(s, 5, "a")
    write(s, 5, "b", answer="refused")
    write(s, 5, "c", 1)
    write(s, 5, "d", answer="unknown")
    s.fetch(0, "a", "c")
    s.note("drained", log="t/0")


@good
def batch_of_which_nobody_knows_went_with_what_retention_took(s: Story) -> None:
    write(s, 5, "a")
    write(s, 5, "b", answer="unknown")
    write(s, 5, "c", 2)
    s.fetch(2, "c")
    s.note("trimmed", log="t/0", start=2)
    s.note("drained", log="t/0")


# filtered readers


@bad("unfit")
def reader_got_a_record_with_another_key(s: Story) -> None:
    records(s, "us.1")
    select(s, 0, 0, upto=1)


@bad("unfit")
def reader_got_a_record_of_which_one_header_fits(s: Story) -> None:
    s.produce("r0", traits=[{"headers": {"type": "order", "n": 2}}])
    select(s, 0, 0, upto=1, where=ORDERS)


@bad("filtered out")
def reader_was_sent_on_behind_a_record_that_fits(s: Story) -> None:
    records(s, "us.1", "eu.1", "us.2")
    select(s, 0, upto=3)


@bad("filtered out")
def reader_was_sent_on_behind_what_nobody_had_looked_at(s: Story) -> None:
    records(s, "us.1", "us.2")
    select(s, 0, upto=3, end=2)


@bad("filtered out")
def bytes_that_had_to_be_loaded_were_passed_over(s: Story) -> None:
    records(s, "eu.1")
    records(s, "eu.2", "us.1", first=1)
    select(s, 0, 0, upto=3)


@bad("out of place")
def reader_got_a_record_twice(s: Story) -> None:
    records(s, "eu.1", "us.1")
    select(s, 0, 0, 0, upto=2)


@bad("out of place")
def reader_got_what_lies_behind_where_it_is_sent_on_to(s: Story) -> None:
    records(s, "eu.1", "us.1", "eu.2")
    select(s, 0, 0, 2, upto=1)


@bad("withheld")
def reader_is_never_sent_on(s: Story) -> None:
    records(s, "us.1", "us.2")
    s.fetch(0, "r0", "r1")
    select(s, 0, upto=0)


@bad("passed over")
def group_with_a_filter_committed_what_no_member_read(s: Story) -> None:
    records(s, "eu.1", "us.1", "eu.2", "us.2")
    select(s, 0, 0, upto=2, group="g", assignment="1.0")
    s.commit(4)


@good
def group_with_a_filter_commits_what_it_passed_over(s: Story) -> None:
    records(s, "us.1", "eu.1", "us.2", "us.3")
    select(s, 0, upto=1, group="g", assignment="1.0")
    select(s, 1, 1, upto=2, group="g", assignment="1.0")
    select(s, 2, upto=4, group="g", assignment="1.0")
    s.commit(4)
    s.committed(4)
    s.fetch(0, "r0", "r1", "r2", "r3")


@good
def reader_begins_where_retention_left_something(s: Story) -> None:
    records(s, "eu.1", "eu.2", "eu.3")
    said = {"records": [[2, "r2"]], "start": 2, "end": 3, "next": 3}
    s.op("select", said, by="c", log="t/0", offset=0, where=EU)


@good
def headers_are_compared_and_keys_are_like_a_pattern(s: Story) -> None:
    s.produce("r0", "r1", traits=[{"headers": {"type": "order", "n": 1}, "key": "x.1"}, {"key": "x.y.1"}])
    select(s, 0, 0, upto=2, where=ORDERS)
    select(s, 0, 0, 1, upto=2, where={"key": "x.*1"})
    select(s, 0, upto=2, where={"key": "x.*.1.*"})
    select(s, 0, 1, upto=2, where={"key": "x.*.1"})
