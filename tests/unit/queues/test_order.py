"""In which order ready messages go that are not plain ones."""

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from penstock_broker.queues.order import OFFSET, PLAIN_RANK, Order
from penstock_broker.queues.woken import Woken

ranks = st.lists(st.integers(0, PLAIN_RANK), max_size=30)


def order_of(given_ranks: list[int], ageing: int = 0, times: list[int] | None = None) -> Order:
    order = Order()
    order.ageing = ageing
    order.ranks = {offset: rank for offset, rank in enumerate(given_ranks) if rank != PLAIN_RANK}
    if times is not None:
        order.time_of = times.__getitem__
    return order


def popped(order: Order) -> list[int]:
    out = []
    while (key := order.peek()) is not None:
        out.append(key & OFFSET)
        order.pop()
    return out


@given(ranks)
def test_lower_rank_goes_first_then_the_lower_offset(given_ranks: list[int]) -> None:
    order = order_of(given_ranks)
    for offset in reversed(range(len(given_ranks))):
        order.push(offset)
    assert popped(order) == sorted(range(len(given_ranks)), key=lambda each: (given_ranks[each], each))


@given(ranks, st.integers(1, 1_000), st.data())
def test_with_ageing_a_step_of_priority_is_worth_so_many_milliseconds(
    given_ranks: list[int], ageing: int, data: st.DataObject
) -> None:
    count = len(given_ranks)
    times = sorted(data.draw(st.lists(st.integers(0, 5_000), min_size=count, max_size=count)))
    order = order_of(given_ranks, ageing, times)
    for offset in range(count):
        order.push(offset)
    assert popped(order) == sorted(
        range(count), key=lambda each: (times[each] + given_ranks[each] * ageing, each)
    )


@given(st.lists(st.integers(0, 2_000), min_size=1, max_size=20), st.integers(0, PLAIN_RANK))
def test_run_of_plain_messages_ends_where_a_special_one_comes_in(steps: list[int], rank: int) -> None:
    times = [sum(steps[:n]) for n in range(len(steps) + 1)]
    special = len(steps)
    order = order_of([PLAIN_RANK] * len(steps) + [rank], 100, times)
    before = order.before(order.key(special), 0, len(steps))
    assert before == sum(order.key(each) < order.key(special) for each in range(len(steps)))


def test_what_was_handed_out_is_forgotten_at_the_front_alone() -> None:
    order = order_of([])
    for offset in (1, 2, 5):
        order.push(offset)
    order.passed(2, 3)
    assert len(order) == 3
    order.passed(1, 3)
    assert popped(order) == [5]


def test_order_is_made_anew_of_what_is_ready() -> None:
    order = order_of([9, 0, 9])
    order.push(7)
    order.rebuild(iter([0, 1]))
    assert popped(order) == [1, 0]
    order.push(3)
    order.clear()
    assert order.peek() is None


def test_what_was_delayed_goes_by_its_time_behind_all_that_was_enqueued_before_that() -> None:
    times = [0, 100, 100, 200]  # of offsets 0 to 3, the next one comes later
    order = order_of([])
    order.offset_at = lambda time: bisect_left(times, time)
    order.late = {offset: order.place(due) for offset, due in ((10, 250), (11, 100), (12, 100), (13, 150))}
    offsets = [0, 1, 2, 3, 4, 10, 11, 12, 13]
    assert sorted(offsets, key=order.key) == [0, 11, 12, 1, 2, 13, 3, 10, 4]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), max_size=20), st.data())
def test_ranges_that_were_delayed_stand_in_the_order_of_their_time(
    given_rows: list[tuple[int, int]], data: st.DataObject
) -> None:
    woken, expected, offset = Woken(), [], 0
    for due, messages in given_rows:
        woken.add((due, 0, offset, messages))
        expected += [(due, offset + i) for i in range(messages)]
        offset += messages
    expected.sort()
    if data.draw(st.booleans()):
        again = Woken()
        for row in Woken.rows_of(woken.snapshot()):
            again.add(row)
        woken = again
    found = []
    while (row := woken.peek()) is not None:
        taken = data.draw(st.integers(1, row[3]))
        found += [(row[0], row[2] + i) for i in range(taken)]
        woken.drop(taken)
    assert found == expected
    assert not woken
