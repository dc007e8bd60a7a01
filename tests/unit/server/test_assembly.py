"""Large frames take their room from the node's budget, in turn."""

from penstock_broker.server.assembly import Assembly

MIB = 1 << 20


class Reader:
    """A peer that notes when it may read on."""

    def __init__(self) -> None:
        self.resumed = 0

    def resume(self) -> None:
        self.resumed += 1


def test_frames_that_fit_are_let_in_at_once() -> None:
    assembly = Assembly(8 * MIB)
    assert [assembly.take(Reader(), 4 * MIB) for _ in range(2)] == [True, True]


def test_frame_without_room_waits_until_another_is_whole() -> None:
    assembly, first, second = Assembly(8 * MIB), Reader(), Reader()
    assert assembly.take(first, 6 * MIB)
    assert not assembly.take(second, 6 * MIB)
    assembly.give(first)
    assert (first.resumed, second.resumed) == (0, 1)


def test_small_frame_does_not_overtake_one_that_waits() -> None:
    assembly, first, second, third = Assembly(8 * MIB), Reader(), Reader(), Reader()
    assembly.take(first, 6 * MIB)
    assembly.take(second, 6 * MIB)
    assert not assembly.take(third, 2 * MIB)
    assembly.give(first)
    assert (second.resumed, third.resumed) == (1, 1)


def test_frame_above_the_budget_is_let_in_alone() -> None:
    assembly, first, second = Assembly(4 * MIB), Reader(), Reader()
    assert assembly.take(first, 6 * MIB)
    assert not assembly.take(second, 2 * MIB)
    assembly.give(first)
    assert second.resumed == 1


def test_reader_that_leaves_while_it_waits_is_forgotten() -> None:
    assembly, first, second = Assembly(4 * MIB), Reader(), Reader()
    assembly.take(first, 4 * MIB)
    assembly.take(second, 4 * MIB)
    assembly.give(second)
    assembly.give(first)
    assert second.resumed == 0
