"""The account of a run names what went wrong, however it went wrong."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_loadtest.payload import Read
from penstock_loadtest.verify import Account, Tally, account


def tally(*deliveries: list[tuple[int, int]]) -> Tally:
    """What a consumer saw: (lane, sequence) by delivery."""
    seen = Tally()
    for delivery in deliveries:
        lanes, sequences = zip(*delivery, strict=True)
        columns = (np.array(lanes, dtype=np.uint32), np.array(sequences, dtype=np.uint64))
        seen.add(Read(*columns, np.zeros(len(lanes), dtype=np.uint64), 0, None))
    return seen


def lane(*sequences: int) -> list[tuple[int, int]]:
    return [(0, sequence) for sequence in sequences]


def settled(sent: dict[int, int], *seen: Tally, failed: list[list[int]] | None = None) -> Account:
    return account(sent, failed or [], [each.runs for each in seen], sum(each.corrupt for each in seen))


def wrong(found: Account) -> dict[str, int]:
    return {name: n for name, n in found.as_dict().items() if n and name not in ("sent", "received")}


def test_everything_in_order_is_clean_and_one_run() -> None:
    seen = tally(lane(0, 1, 2), lane(3, 4))
    assert seen.runs == [[0, 0, 5]]
    found = settled({0: 5}, seen)
    assert (found.is_clean, wrong(found), found.received) == (True, {}, 5)


def test_lanes_in_turn_are_one_run_each() -> None:
    seen = tally([(0, 0), (1, 0), (0, 1), (1, 1)], [(0, 2), (1, 2)])
    assert seen.runs == [[0, 0, 3], [1, 0, 3]]
    assert settled({0: 3, 1: 3}, seen).is_clean


@pytest.mark.parametrize(
    ("deliveries", "expected"),
    [
        ([lane(0, 1, 3, 4)], {"lost": 1}),
        ([lane(1, 2, 3, 4)], {"lost": 1}),
        ([lane(0, 1, 2)], {"lost": 2}),
        ([lane(0, 1, 2, 3, 4), lane(4)], {"duplicates": 1}),
        ([lane(0, 1, 2), lane(1, 2, 3, 4)], {"duplicates": 2}),
        ([lane(0, 1, 2, 3, 4), lane(0, 1, 2, 3, 4)], {"duplicates": 5}),
        ([lane(0, 2, 1, 3, 4)], {"misordered": 1}),
        ([lane(3, 4, 0, 1, 2)], {"misordered": 3}),
        ([lane(0, 2, 1, 1, 3, 4)], {"misordered": 1, "duplicates": 1}),
        ([lane(0, 1, 2, 3, 4, 5, 6)], {"phantom": 2}),
        ([lane(0, 1, 2, 3, 4), [(9, 0)]], {"phantom": 1}),
    ],
    ids=str,
)
def test_each_fault_has_its_name(deliveries: list[list[tuple[int, int]]], expected: dict[str, int]) -> None:
    found = settled({0: 5}, tally(*deliveries))
    assert wrong(found) == expected
    assert found.is_clean == (expected.keys() <= {"duplicates"})


def test_reader_without_any_message_lost_them_all() -> None:
    assert wrong(settled({0: 5, 1: 2}, tally())) == {"lost": 7}


def test_consumers_share_the_messages_of_a_reader() -> None:
    assert settled({0: 6}, tally(lane(0, 1, 4)), tally(lane(2, 3, 5))).is_clean


def test_same_message_at_two_consumers_is_a_duplicate() -> None:
    assert wrong(settled({0: 3}, tally(lane(0, 1)), tally(lane(1, 2)))) == {"duplicates": 1}


def test_failed_publish_is_neither_lost_nor_phantom() -> None:
    failed = [[0, 1, 2]]
    assert wrong(settled({0: 5}, tally(lane(0, 3, 4)), failed=failed)) == {"failed": 2}
    assert wrong(settled({0: 5}, tally(lane(0, 1, 2, 3, 4)), failed=failed)) == {"failed": 2}
    assert wrong(settled({0: 5}, tally(lane(0, 2, 4)), failed=failed)) == {"failed": 2, "lost": 1}


def test_fresh_counts_each_message_once() -> None:
    assert tally(lane(0, 1, 2), lane(1, 2, 3), lane(3)).fresh == 4


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 3), st.integers(1, 4))
def test_account_agrees_with_counting_one_by_one(seed: int, sent: int, lanes: int, consumers: int) -> None:
    random = Random(seed)
    everything = [(lane, sequence) for lane in range(lanes) for sequence in range(sent)]
    seen: list[list[tuple[int, int]]] = [[] for _ in range(consumers)]
    for message in everything:
        for _ in range(random.choice([0, 1, 1, 1, 1, 2])):
            random.choice(seen).append(message)
    for each in seen:
        if random.random() < 0.5:
            random.shuffle(each)
    found = settled(dict.fromkeys(range(lanes), sent), *(tally(*([each] if each else [])) for each in seen))
    came = [message for each in seen for message in each]
    assert found.lost == len(set(everything) - set(came))
    assert found.duplicates == len(came) - len(set(came))
    assert found.misordered == sum(map(late, seen))


def late(messages: list[tuple[int, int]]) -> int:
    """First deliveries behind a later one of their lane, by definition."""
    high: dict[int, int] = {}
    seen: set[tuple[int, int]] = set()
    found = 0
    for lane, sequence in messages:
        found += (lane, sequence) not in seen and sequence < high.get(lane, -1)
        seen.add((lane, sequence))
        high[lane] = max(high.get(lane, -1), sequence)
    return found
