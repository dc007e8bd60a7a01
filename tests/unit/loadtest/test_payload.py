"""Bodies say what they are, and no damaged one is taken for whole."""

import pytest

from penstock_loadtest.payload import SIZE_MIN, Maker, read

RUN, SIZE = 77, 100


def bodies(count: int = 10, lane: int = 3, first: int = 5) -> list[bytes]:
    return Maker(RUN, SIZE, 10).make(lane, first, count, 1_000)


@pytest.mark.parametrize("count", [1, 2, 10])
@pytest.mark.parametrize("size", [SIZE_MIN, 100, 4_096])
def test_what_is_made_is_read(count: int, size: int) -> None:
    made = Maker(RUN, size, 10).make(2**31, 2**40, count, 2**60 + 1)
    assert {len(body) for body in made} == {size}
    found = read(RUN, size, made, count)
    assert found.lanes.tolist() == [2**31] * count
    assert found.sequences.tolist() == list(range(2**40, 2**40 + count))
    assert found.stamps.tolist() == [2**60 + 1] * count
    assert (found.corrupt, found.kept) == (0, None)


def test_single_body_is_made_like_many() -> None:
    maker = Maker(RUN, SIZE, 10)
    assert maker.make(1, 7, 2, 9)[0] == maker.make(1, 7, 1, 9)[0]


def test_buffers_may_hold_several_bodies() -> None:
    made = bodies(5)
    found = read(RUN, SIZE, [memoryview(b"".join(made[:3])), b"".join(made[3:])], 5)
    assert found.sequences.tolist() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("at", [*range(32), SIZE - 8, SIZE - 1])
def test_flipped_bit_makes_a_body_corrupt(at: int) -> None:
    made = bodies(3)
    made[1] = made[1][:at] + bytes([made[1][at] ^ 1]) + made[1][at + 1 :]
    found = read(RUN, SIZE, made, 3)
    assert found.corrupt == 1
    assert found.sequences.tolist() == [5, 7]
    assert found.kept is not None
    assert found.kept.tolist() == [True, False, True]


def test_body_of_another_run_is_corrupt() -> None:
    assert read(RUN + 1, SIZE, bodies(3), 3).corrupt == 3


def test_body_cut_short_is_corrupt_and_the_others_are_read() -> None:
    made = bodies(3)
    made[1] = made[1][:-1]
    found = read(RUN, SIZE, made, 3)
    assert found.corrupt == 1
    assert found.sequences.tolist() == [5, 7]


def test_body_shifted_by_its_neighbour_is_corrupt() -> None:
    made = bodies(3)
    made[0], made[1] = made[0][:-1], made[0][-1:] + made[1]
    assert read(RUN, SIZE, made, 3).corrupt == 2
