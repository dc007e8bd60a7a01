"""Ready messages are split fairly among those who wait."""

from hypothesis import given
from hypothesis import strategies as st

from penstock_broker.queues.handout import Handout, Subscription, Taker, Waiter


class Peer:
    """A connection that takes, unless it is blocked."""

    def __init__(self) -> None:
        self.blocked = False


class Session:
    """What a subscription knows of its session."""

    def __init__(self) -> None:
        self.connection = Peer()


def subscription(credit: int) -> Subscription:
    return Subscription(Session(), 1, None, credit, None)


def waiter(messages: int) -> Waiter:
    return Waiter(None, Peer(), messages, None, 0)


def handout(*takers: Taker) -> Handout:
    waiting = Handout()
    for taker in takers:
        waiting.add(taker)
    return waiting


def shares(waiting: Handout, ready: int) -> list[int]:
    return [share for _, share in waiting.round(ready)]


def test_two_who_wait_get_halves() -> None:
    assert shares(handout(waiter(100), waiter(100)), 10) == [5, 5]


def test_odd_number_is_rounded_up_for_the_first() -> None:
    assert shares(handout(waiter(100), waiter(100)), 11) == [6, 5]


def test_nobody_gets_more_than_its_credit() -> None:
    assert shares(handout(waiter(2), waiter(100)), 10) == [2, 5]


def test_receive_that_got_something_waits_no_more() -> None:
    waiting = handout(waiter(100))
    assert shares(waiting, 1) == [1]
    assert len(waiting) == 0


def test_subscription_goes_on_behind_the_others() -> None:
    first, second = subscription(10), subscription(10)
    waiting = handout(first, second)
    assert [taker for taker, _ in waiting.round(1)] == [first]
    assert [taker for taker, _ in waiting.round(1)] == [second]


def test_taker_without_credit_is_passed_over() -> None:
    assert shares(handout(subscription(0), subscription(5)), 4) == [4]


def test_blocked_connection_is_passed_over() -> None:
    slow, quick = subscription(5), subscription(5)
    slow.session.connection.blocked = True
    assert [taker for taker, _ in handout(slow, quick).round(4)] == [quick]


def test_removed_taker_gets_nothing() -> None:
    gone = waiter(5)
    waiting = handout(gone)
    waiting.remove(gone)
    assert shares(waiting, 5) == []


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 8))
def test_with_equal_credit_consumers_differ_by_at_most_one_chunk(arrivals: list[int], takers: int) -> None:
    subscriptions = [subscription(10_000) for _ in range(takers)]
    waiting = handout(*subscriptions)
    got = dict.fromkeys(subscriptions, 0)
    largest = 0
    for arrived in arrivals:
        ready = arrived
        while ready:
            for taker, share in waiting.round(ready):
                assert isinstance(taker, Subscription)
                got[taker] += share
                taker.credit -= share
                ready -= share
                largest = max(largest, share)
        assert max(got.values()) - min(got.values()) <= largest


def test_taker_of_the_highest_priority_gets_all_it_can_take() -> None:
    low, high = subscription(10), subscription(3)
    high.priority = 5
    handout = Handout()
    handout.add(low)
    handout.add(high)
    assert handout.round(8) == [(high, 3)]
