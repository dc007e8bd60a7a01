"""Whose turn it is, over readers that say what they have."""

from typing import Any, cast

import pytest

from penstock.reading import Reader
from penstock.turn import Turn


class Scripted:
    """As much of a reader as a line looks at: `fetches` that wait, `left` records of the one at hand."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fetches = 0
        self.left = 0
        self.held_back = False
        self.failure: Exception | None = None
        self.looked = 0
        self.begun = False

    def begin(self) -> None:
        self.begun = True

    def stop(self) -> None:
        self.left = self.fetches = 0

    @property
    def is_ready(self) -> bool:
        self.looked += 1
        if self.held_back:
            return False
        if not self.left and self.fetches:
            self.fetches -= 1
            self.left = 2
        if not self.left and self.failure is not None:
            raise self.failure
        return bool(self.left)

    @property
    def has_nothing(self) -> bool:
        return not self.left and not self.fetches and self.failure is None

    @property
    def is_between_fetches(self) -> bool:
        return not self.left


def fetched(turn: Turn[bytes], reader: Scripted) -> None:
    reader.fetches += 1
    turn.arrived(cast("Reader[Any]", reader))


def taken(turn: Turn[bytes], most: int) -> str:
    """The names of those whose records were taken, one a record."""
    names = ""
    for _ in range(most):
        reader = turn.next()
        if reader is None:
            break
        scripted = cast(Scripted, reader)
        scripted.left -= 1
        names += scripted.name
        turn.used(reader)
    return names


def test_one_fetch_of_each_in_turn_however_many_come_meanwhile() -> None:
    turn: Turn[bytes] = Turn()
    a, b = Scripted("a"), Scripted("b")
    fetched(turn, a)
    fetched(turn, b)
    assert taken(turn, 1) == "a"
    fetched(turn, a)
    fetched(turn, a)
    assert taken(turn, 99) == "abbaaaa"
    fetched(turn, b)
    assert taken(turn, 99) == "bb"


def test_partition_where_nothing_happens_is_not_looked_at() -> None:
    turn: Turn[bytes] = Turn()
    idle, busy = Scripted("i"), Scripted("b")
    turn.arrived(cast("Reader[Any]", idle))
    assert turn.next() is None
    assert idle.looked == 1
    for _ in range(5):
        fetched(turn, busy)
        assert taken(turn, 99) == "bb"
    assert idle.looked == 1


def test_what_is_held_back_keeps_its_place_in_line_and_holds_up_nobody() -> None:
    turn: Turn[bytes] = Turn()
    a, b = Scripted("a"), Scripted("b")
    fetched(turn, a)
    fetched(turn, b)
    a.held_back = True
    assert taken(turn, 99) == "bb"
    assert taken(turn, 99) == ""
    a.held_back = False
    assert taken(turn, 99) == "aa"


def test_failure_is_raised_behind_what_was_fetched_and_each_time() -> None:
    turn: Turn[bytes] = Turn()
    a = Scripted("a")
    fetched(turn, a)
    a.failure = RuntimeError("gone")
    turn.arrived(cast("Reader[Any]", a))
    assert taken(turn, 2) == "aa"
    for _ in range(2):
        with pytest.raises(RuntimeError, match="gone"):
            turn.next()


def test_what_is_removed_is_not_taken_from_and_may_come_again() -> None:
    turn: Turn[bytes] = Turn()
    a, b = Scripted("a"), Scripted("b")
    fetched(turn, a)
    fetched(turn, b)
    turn.moved.clear()
    turn.remove(cast("Reader[Any]", a))
    assert turn.moved.is_set()
    assert taken(turn, 99) == "bb"
    fetched(turn, a)
    assert taken(turn, 99) == "aa"


@pytest.mark.parametrize(
    ("partitions", "kib"), [(1, 1024), (64, 1024), (65, 1008), (256, 256), (10_000, 128)]
)
def test_many_partitions_share_what_one_consumer_may_fetch_ahead(partitions: int, kib: int) -> None:
    turn: Turn[bytes] = Turn()
    readers = [cast("Reader[Any]", Scripted(str(number))) for number in range(partitions)]
    for reader in readers:
        turn.begin(reader)
    assert turn.fetch_bytes // 1024 == kib
    for reader in readers[1:]:
        turn.remove(reader)
    assert turn.fetch_bytes == 1 << 20


def test_partition_that_never_was_read_has_no_share() -> None:
    turn: Turn[bytes] = Turn()
    for number in range(200):
        turn.begin(cast("Reader[Any]", Scripted(str(number))))
    before = turn.fetch_bytes
    turn.remove(cast("Reader[Any]", Scripted("never")))
    assert turn.fetch_bytes == before
