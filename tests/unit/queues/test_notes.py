"""Tries, checkpoints and deaths of a few messages, in words."""

import pytest

from penstock_broker.queues import notes as room
from penstock_broker.queues.notes import ATTEMPTS_MAX, Attempt, Notes, encode


def attempt(first: int, messages: int, error: str | None = None) -> tuple[object, ...]:
    return ("attempt", first, messages, "worker", 1, 2, "nacked", error)


def test_tries_are_kept_per_message_and_the_oldest_go_first() -> None:
    notes = Notes()
    for number in range(ATTEMPTS_MAX + 5):
        notes.apply(encode([attempt(3, 2, str(number))]))
    assert notes.attempts[3][0].error == "5"
    assert len(notes.attempts[4]) == ATTEMPTS_MAX
    assert notes.size == sum(len(each.error or "") for tries in notes.attempts.values() for each in tries)


def test_checkpoint_takes_the_place_of_the_one_before() -> None:
    notes = Notes()
    assert notes.apply(encode([("checkpoint", 7, 1, b"long one"), attempt(1, 1)])) == [7, 1]
    notes.apply(encode([("checkpoint", 7, 1, b"short")]))
    assert notes.checkpoints == {7: b"short"}
    assert notes.size == 5


def test_death_is_known_until_the_message_is_settled() -> None:
    notes = Notes()
    notes.apply(encode([("dead", 1, 2, "rejected", "bad"), ("dead", 1, 1, "expired", None)]))
    assert notes.deaths == {1: ("expired", None), 2: ("rejected", "bad")}
    assert notes.size == 3
    notes.forget(2)
    assert notes
    notes.forget(1)
    assert (notes.size, bool(notes)) == (0, False)


def test_beyond_the_bytes_words_are_left_out_and_the_rest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "NOTES_BYTES_MAX", 10)
    notes = Notes()
    notes.apply(encode([attempt(1, 2, "x" * 6), attempt(3, 1, "y" * 6), attempt(4, 1, "z" * 6)]))
    assert [each.error for each in notes.attempts[1]] == [None]
    assert notes.attempts[3] == [Attempt("worker", 1, 2, "nacked", "y" * 6)]
    notes.apply(encode([("dead", 1, 1, "rejected", "z" * 6)]))
    assert notes.deaths == {1: ("rejected", None)}
    assert notes.size == 6


def test_snapshot_holds_everything() -> None:
    notes, again = Notes(), Notes()
    notes.apply(
        encode([attempt(1, 2, "no"), ("checkpoint", 2, 1, b"\0half"), ("dead", 5, 1, "expired", "é")])
    )
    again.restore(notes.snapshot())
    for name in ("attempts", "checkpoints", "deaths", "size"):
        assert getattr(again, name) == getattr(notes, name)


def test_note_of_an_unknown_kind_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        Notes().apply(encode([("poem", 1, 1, b"")]))
