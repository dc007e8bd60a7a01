"""Leases of runs against one lease per message."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock_broker.queues.leases import HEAP_MIN, NEVER, Lease, Leases, Tokens

MESSAGES_MAX = 12


class AgainstMessages(RuleBasedStateMachine):
    """The model: (token, offset) → deadline of each message that is leased."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = Leases()
        self.tokens = Tokens()
        self.now = 0
        self.end = 0
        self.given: list[Lease] = []
        self.model: dict[tuple[int, int], int] = {}

    def leased(self, token: int, first: int, messages: int) -> list[int]:
        return [offset for offset in range(first, first + messages) if (token, offset) in self.model]

    def choose(self, data: st.DataObject) -> tuple[int, int, int]:
        """A range of a hand-out, or one that reaches beyond it."""
        lease = data.draw(st.sampled_from(self.given[-6:]), "lease")
        first = lease.first + data.draw(st.integers(-1, MESSAGES_MAX - 1), "first")
        return lease.token, max(0, first), data.draw(st.integers(1, MESSAGES_MAX + 2), "messages")

    @rule(messages=st.integers(1, MESSAGES_MAX), visibility=st.integers(1, 100))
    def hand_out(self, messages: int, visibility: int) -> None:
        lease = Lease(self.tokens.take(), self.end, messages, visibility, None, 0)
        assert not self.given or lease.token > self.given[-1].token
        self.leases.add(lease)
        self.given.append(lease)
        self.model.update({(lease.token, self.end + index): NEVER for index in range(messages)})
        self.end += messages

    @precondition(lambda self: any(not lease.started for lease in self.given))
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from([lease for lease in self.given if not lease.started]))
        offsets = self.leased(lease.token, lease.first, lease.messages)
        self.leases.start(lease, self.now)
        self.model.update({(lease.token, offset): self.now + lease.visibility for offset in offsets})

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        token, first, messages = self.choose(data)
        taken = self.leases.take(token, first, messages)
        assert all(lease.token == token for _, _, lease in taken)
        offsets = [offset for begin, size, _ in taken for offset in range(begin, begin + size)]
        assert offsets == self.leased(token, first, messages)
        for offset in offsets:
            del self.model[token, offset]

    @precondition(lambda self: self.given)
    @rule(data=st.data(), extend=st.integers(0, 100))
    def extend(self, data: st.DataObject, extend: int) -> None:
        token, first, messages = self.choose(data)
        leased = self.leased(token, first, messages)
        offsets = [offset for offset in leased if self.model[token, offset] != NEVER]
        assert self.leases.extend(token, first, messages, self.now + extend) == len(offsets)
        self.model.update({(token, offset): self.now + extend for offset in offsets})

    @rule(ms=st.integers(0, 120))
    def expire(self, ms: int) -> None:
        self.now += ms
        gone = {
            (lease.token, offset)
            for due in self.leases.expired(self.now)
            for begin, size, lease in self.leases.take(due.token, due.first, due.messages)
            for offset in range(begin, begin + size)
        }
        assert gone == {key for key, deadline in self.model.items() if deadline <= self.now}
        for key in gone:
            del self.model[key]

    @invariant()
    def every_message_has_its_lease_and_deadline(self) -> None:
        found = {
            (lease.token, offset): lease.deadline
            for lease in self.leases
            for begin, size in lease.runs(lease.first, lease.messages)
            for offset in range(begin, begin + size)
        }
        assert found == self.model

    @invariant()
    def no_lease_is_kept_without_messages(self) -> None:
        assert sum(lease.alive for lease in self.leases) == len(self.model)
        assert all(lease.alive for lease in self.leases)
        assert bool(self.leases) == bool(self.model)

    @invariant()
    def next_deadline_is_never_late(self) -> None:
        running = [deadline for deadline in self.model.values() if deadline != NEVER]
        if running:
            deadline = self.leases.next_deadline()
            assert deadline is not None
            assert deadline <= min(running)


TestAgainstMessages = AgainstMessages.TestCase


def test_token_of_a_later_life_is_larger() -> None:
    tokens = Tokens()
    tokens.begin(7)
    before = [tokens.take() for _ in range(3)]
    tokens.begin(8)
    assert tokens.take() > max(before)


def test_part_of_a_lease_that_was_extended_before_its_delivery_left_still_ends() -> None:
    leases = Leases()
    lease = Lease(1, 0, 2, 30, None, 0)
    leases.add(lease)
    assert leases.extend(1, 0, 1, 500) == 0
    leases.start(lease, 0)
    assert [(due.first, due.messages) for due in leases.expired(30)] == [(0, 2)]


def test_lease_that_is_extended_again_and_again_keeps_one_deadline() -> None:
    leases = Leases()
    lease = Lease(1, 0, 4, 30, None, 0)
    leases.add(lease)
    leases.start(lease, 0)
    for now in range(1_000):
        assert leases.extend(1, 0, 4, now + 30) == 4
        assert leases.expired(now) == []
    assert len(leases._heap) <= 2 + HEAP_MIN + 1
    assert [lease.first for lease in leases.expired(1_029)] == [0]


@pytest.mark.parametrize("extended", range(HEAP_MIN + 3))
def test_part_of_a_lease_that_was_extended_on_its_own_ends_however_full_the_heap_is(extended: int) -> None:
    leases = Leases()
    lease = Lease(1, 0, 8, 30, None, 0)
    leases.add(lease)
    leases.start(lease, 0)
    for deadline in range(extended):
        leases.extend(1, 0, 8, 30 + deadline)
    leases.extend(1, 3, 1, 10)
    ends = sorted((part.first, part.messages) for part in set(leases.expired(1_000)))
    assert ends == [(0, 3), (3, 1), (4, 4)]
