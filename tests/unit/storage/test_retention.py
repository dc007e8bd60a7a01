"""Retention: never less kept than what was asked for, and of what is over the limit nothing that could go."""

from hypothesis import given
from hypothesis import strategies as st

from penstock_broker.storage.log import Place
from penstock_broker.storage.retention import by_age, by_size

ENDLESS = 1 << 20
OLD = Place(10, 100, 1_000, 2_000)
OLDER_HALF = Place(20, 100, 2_000, 3_000)
YOUNG = Place(30, 50, 3_500, 3_500)


def places_of(rows: list[tuple[int, int]]) -> list[Place]:
    """Batches of one log from (ms since the one before, bytes)."""
    places, time = [], 0
    for number, (gap, length) in enumerate(rows):
        time += gap
        places.append(Place(number + 1, length, time, time))
    return places


logs_strategy = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 50)), max_size=12).map(places_of),
    min_size=1,
    max_size=4,
)


def test_places_that_hold_nothing_young_enough_go() -> None:
    assert by_age([OLD, OLDER_HALF, YOUNG], 3_001) == 20


def test_place_with_something_young_enough_stays_whole() -> None:
    assert by_age([OLD, OLDER_HALF, YOUNG], 2_500) == 10
    assert by_age([OLD, OLDER_HALF, YOUNG], 2_000) is None


def test_everything_goes_when_all_is_too_old() -> None:
    assert by_age([OLD, OLDER_HALF, YOUNG], 3_501) == 30
    assert by_age([], 3_501) is None


def test_what_would_go_below_the_limit_stays() -> None:
    assert by_size([[OLD, OLDER_HALF]], 99, ENDLESS) == {}
    assert by_size([[OLD, OLDER_HALF]], 100, ENDLESS) == {0: 10}
    assert by_size([[OLD, OLDER_HALF]], 199, ENDLESS) == {0: 10}


def test_oldest_place_of_all_logs_goes_first() -> None:
    assert by_size([[YOUNG], [OLD, OLDER_HALF], []], 200, ENDLESS) == {1: 20}
    assert by_size([[YOUNG], [OLD, OLDER_HALF], []], 250, ENDLESS) == {1: 20, 0: 30}


def test_no_more_places_go_at_once_than_allowed() -> None:
    assert by_size([[OLD, OLDER_HALF, YOUNG]], ENDLESS, 2) == {0: 20}


@given(logs_strategy, st.integers(0, 300))
def test_by_age_keeps_exactly_what_is_young_enough(logs: list[list[Place]], before: int) -> None:
    for places in logs:
        kept = [place.end for place in places if place.since >= before]
        start = by_age(places, before)
        assert [place.end for place in places if place.end > (start or 0)] == kept


@given(logs_strategy, st.integers(0, 1_500))
def test_by_size_keeps_the_limit_and_not_a_place_more(logs: list[list[Place]], limit: int) -> None:
    size = sum(place.length for places in logs for place in places)
    starts = by_size(logs, max(size - limit, 0), ENDLESS)
    aged = sorted((place.since, number, place) for number, places in enumerate(logs) for place in places)
    gone = [place for _, number, place in aged if place.end <= starts.get(number, 0)]
    kept = [place for _, _, place in aged[len(gone) :]]
    assert [place for _, _, place in aged] == gone + kept
    left = sum(place.length for place in kept)
    assert left >= min(limit, size)
    if kept and size > limit:
        assert left - kept[0].length < limit
