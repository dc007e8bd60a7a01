"""Every assignor gives every partition that somebody wants exactly one reader; and each what it promises."""

from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock_broker.groups.assignors import ASSIGNORS, Assigned, Place

NAMES = ["ann", "bob", "cid", "dot"]
SIZES = st.dictionaries(st.sampled_from("xyz"), st.integers(1, 4), min_size=1)
FEW = SIZES.filter(lambda sizes: sum(sizes.values()) <= 6)
SUBSCRIPTIONS = st.dictionaries(st.sampled_from(NAMES), st.sets(st.sampled_from("xyz")), min_size=1)


@st.composite
def currents(draw: st.DrawFn) -> dict[str, list[Place]]:
    """Who has what now: no partition twice, but perhaps of topics that are gone or not subscribed to."""
    places = draw(st.lists(st.builds(Place, st.sampled_from("xyzq"), st.integers(0, 5)), unique=True))
    current: dict[str, list[Place]] = {name: [] for name in NAMES}
    for place in places:
        current[draw(st.sampled_from(NAMES))].append(place)
    return current


def places(sizes: dict[str, int], topics: set[str]) -> set[Place]:
    return {Place(topic, number) for topic in topics & sizes.keys() for number in range(sizes[topic])}


@pytest.mark.parametrize("name", sorted(ASSIGNORS))
@given(subscriptions=SUBSCRIPTIONS, sizes=SIZES, current=currents())
def test_every_partition_has_one_reader_who_wants_it(
    name: str, subscriptions: dict[str, set[str]], sizes: dict[str, int], current: dict[str, list[Place]]
) -> None:
    found = ASSIGNORS[name](subscriptions, sizes, current)
    given_out = [place for member in found for place in found[member]]
    assert len(given_out) == len(set(given_out))
    assert set(given_out) == places(sizes, set().union(*subscriptions.values()))
    assert found.keys() == subscriptions.keys()
    for member, mine in found.items():
        assert {place.topic for place in mine} <= subscriptions[member]


@pytest.mark.parametrize("name", sorted(ASSIGNORS))
@given(subscriptions=SUBSCRIPTIONS, sizes=SIZES, current=currents())
def test_what_is_as_it_should_be_stays(
    name: str, subscriptions: dict[str, set[str]], sizes: dict[str, int], current: dict[str, list[Place]]
) -> None:
    found = ASSIGNORS[name](subscriptions, sizes, current)
    assert ASSIGNORS[name](subscriptions, sizes, found) == found


def unevenness(found: Assigned) -> int:
    return sum(len(mine) ** 2 for mine in found.values())


@example(
    subscriptions={"ann": {"x"}, "bob": {"x"}},
    sizes={"x": 2},
    current={"ann": [Place("x", 0), Place("x", 1)]},
)
@given(
    subscriptions=SUBSCRIPTIONS,
    sizes=SIZES.filter(lambda sizes: sum(sizes.values()) <= 6),
    current=currents(),
)
def test_sticky_is_as_even_as_can_be(
    subscriptions: dict[str, set[str]], sizes: dict[str, int], current: dict[str, list[Place]]
) -> None:
    found = ASSIGNORS["sticky"](subscriptions, sizes, current)
    wanted = sorted(places(sizes, set().union(*subscriptions.values())))
    ways = product(*[[m for m in subscriptions if place.topic in subscriptions[m]] for place in wanted])
    best = min(sum(way.count(m) ** 2 for m in subscriptions) for way in ways)
    assert unevenness(found) == best


@given(sizes=SIZES, members=st.integers(1, 4), current=currents())
def test_sticky_moves_no_more_than_evenness_needs(
    sizes: dict[str, int], members: int, current: dict[str, list[Place]]
) -> None:
    subscriptions = {name: set("xyz") for name in NAMES[:members]}
    found = ASSIGNORS["sticky"](subscriptions, sizes, current)
    wanted = places(sizes, set("xyz"))
    had = sorted((len(wanted & set(current[name])) for name in subscriptions), reverse=True)
    share, more = divmod(len(wanted), members)
    most_that_can_stay = sum(min(count, share + (rank < more)) for rank, count in enumerate(had))
    stayed = sum(len(found[name] & set(current[name])) for name in subscriptions)
    assert stayed == most_that_can_stay


@given(sizes=SIZES, members=st.integers(1, 4), current=currents())
def test_uniform_is_even_in_each_topic_and_over_all(
    sizes: dict[str, int], members: int, current: dict[str, list[Place]]
) -> None:
    subscriptions = {name: set("xyz") for name in NAMES[:members]}
    found = ASSIGNORS["uniform"](subscriptions, sizes, current)
    for topic in sizes:
        counts = [sum(place.topic == topic for place in mine) for mine in found.values()]
        assert max(counts) - min(counts) <= 1
    totals = [len(mine) for mine in found.values()]
    assert max(totals) - min(totals) <= 1


def test_range_cuts_each_topic_in_a_row() -> None:
    found = ASSIGNORS["range"]({"ann": {"x", "y"}, "bob": {"x", "y"}}, {"x": 3, "y": 2}, {})
    assert found == {
        "ann": {Place("x", 0), Place("x", 1), Place("y", 0)},
        "bob": {Place("x", 2), Place("y", 1)},
    }


def test_round_robin_goes_round_over_topics_and_passes_over_who_does_not_want() -> None:
    found = ASSIGNORS["round_robin"]({"ann": {"x", "y"}, "bob": {"x"}}, {"x": 3, "y": 2}, {})
    assert found == {
        "ann": {Place("x", 0), Place("x", 2), Place("y", 0), Place("y", 1)},
        "bob": {Place("x", 1)},
    }
