"""States by page against a plain list of states. The pages are small, so that there are many."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock_broker.queues.order import PRUNE_MIN
from penstock_broker.queues.states import TRANSITIONS, Event, State, States

PAGE = 8
SIZES = st.integers(1, 3 * PAGE)
OFFSETS_MAX = 20 * PAGE
AFTER_RESTART = {State.IN_FLIGHT: State.READY, State.SPECIAL: State.READY}


@pytest.fixture(autouse=True, scope="module")
def small_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock_broker.queues.states.PAGE", PAGE)
        yield


def runs_of(states: list[State], wanted: State) -> list[tuple[int, int]]:
    """Runs of neighbours in a state."""
    runs: list[tuple[int, int]] = []
    for offset, state in enumerate(states):
        if state is not wanted:
            continue
        if runs and sum(runs[-1]) == offset:
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((offset, 1))
    return runs


def joined(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Runs that touch, as one: `States` cuts them at pages."""
    out: list[tuple[int, int]] = []
    for first, messages in runs:
        if out and sum(out[-1]) == first:
            out[-1] = out[-1][0], out[-1][1] + messages
        else:
            out.append((first, messages))
    return out


class AgainstList(RuleBasedStateMachine):
    """The list holds the states below the cursor: behind it everything is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.states = States()
        self.plain: list[State] = []

    def move(self, first: int, messages: int, event: Event) -> None:
        self.states.move(first, messages, event)
        self.plain += [State.READY] * (first + messages - len(self.plain))
        self.plain[first : first + messages] = [TRANSITIONS[event][0]] * messages

    @precondition(lambda self: len(self.plain) < OFFSETS_MAX)
    @rule(messages=SIZES)
    def hand_out_fresh_messages(self, messages: int) -> None:
        self.move(len(self.plain), messages, Event.HAND_OUT)

    @precondition(lambda self: len(self.plain) < OFFSETS_MAX)
    @rule(messages=SIZES, event=st.sampled_from([Event.SETTLE, Event.RECALL, Event.DELAY, Event.PARK]))
    def replay_what_happened_to_fresh_messages(self, messages: int, event: Event) -> None:
        self.move(len(self.plain), messages, event)

    @precondition(lambda self: self.plain)
    @rule(data=st.data(), event=st.sampled_from(Event), messages=SIZES)
    def move_part_of_a_run(self, data: st.DataObject, event: Event, messages: int) -> None:
        allowed = [state for state in State if state in TRANSITIONS[event][1] and state in self.plain]
        if not allowed:
            return
        runs = runs_of(self.plain, data.draw(st.sampled_from(allowed)))
        first, length = runs[data.draw(st.integers(0, len(runs) - 1))]
        skipped = data.draw(st.integers(0, length - 1))
        self.move(first + skipped, min(messages, length - skipped), event)

    @precondition(lambda self: State.IN_FLIGHT in self.plain)
    @rule(event=st.sampled_from([Event.SETTLE, Event.RELEASE, Event.DELAY]))
    def end_all_that_is_in_flight(self, event: Event) -> None:
        for run in runs_of(self.plain, State.IN_FLIGHT):
            self.move(*run, event)

    @rule()
    def restart_from_a_snapshot(self) -> None:
        data = self.states.snapshot()
        self.states = States()
        assert self.states.restore(memoryview(data + b"of the next")) == len(data)
        self.plain = [AFTER_RESTART.get(state, state) for state in self.plain]

    @invariant()
    def every_message_has_its_state(self) -> None:
        assert [self.states.state(offset) for offset in range(len(self.plain))] == self.plain
        assert self.states.state(len(self.plain)) == State.READY
        assert self.states.cursor == len(self.plain)

    @invariant()
    def counts_are_those_of_the_list(self) -> None:
        assert self.states.counts == [self.plain.count(state) for state in State]

    @invariant()
    def head_is_the_first_message_that_is_not_settled(self) -> None:
        alive = (offset for offset, state in enumerate(self.plain) if state is not State.SETTLED)
        assert self.states.head == next(alive, len(self.plain))

    @invariant()
    def ranges_are_the_runs_of_the_list(self) -> None:
        for state in set(State) - {State.SETTLED}:
            assert joined(list(self.states.ranges(state, OFFSETS_MAX * 2))) == runs_of(self.plain, state)

    @invariant()
    def next_ready_is_the_first_run_and_ends_at_its_end(self) -> None:
        end = len(self.plain) + 7
        first, messages = next(iter(runs_of(self.plain, State.READY)), (len(self.plain), 7))
        assert self.states.next_ready(end, OFFSETS_MAX * 2) == (first, messages)
        assert self.states.next_ready(end, 3) == (first, min(messages, 3))

    @invariant()
    def next_special_is_the_first_one(self) -> None:
        first = self.plain.index(State.SPECIAL) if State.SPECIAL in self.plain else None
        special = self.states.next_special()
        assert (special.first if special is not None else None) == first

    @invariant()
    def alive_is_what_is_not_settled(self) -> None:
        for first in (0, PAGE - 1, len(self.plain) // 2):
            within = self.plain[first : first + 2 * PAGE]
            alive = len(within) < 2 * PAGE or any(state is not State.SETTLED for state in within)
            assert self.states.has_alive(first, 2 * PAGE) == alive


TestAgainstList = AgainstList.TestCase


@given(limit=st.integers(1, 3 * PAGE), gap=st.integers(0, 2 * PAGE))
def test_ranges_stop_at_the_limit(limit: int, gap: int) -> None:
    states = States()
    states.move(0, gap + 3 * PAGE, Event.HAND_OUT)
    states.move(0, gap, Event.SETTLE)
    assert joined(list(states.ranges(State.IN_FLIGHT, limit))) == [(gap, limit)]


def test_ranges_that_were_delayed_and_are_gone_are_forgotten() -> None:
    states = States()
    states.move(0, 1, Event.HAND_OUT)
    for offset in range(1, 3 * PRUNE_MIN):
        states.move(offset, 1, Event.DELAY)
        states.move(offset, 1, Event.DUE, (offset, 0))
        states.move(offset, 1, Event.SETTLE)
        assert len(states.order.woken) <= PRUNE_MIN + 2
    assert states.next_special() is None


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("messages", [1, PAGE])
def test_settled_message_changes_no_more(event: Event, messages: int) -> None:
    states = States()
    states.move(0, PAGE + 1, Event.HAND_OUT)
    states.move(1, PAGE, Event.SETTLE)
    with pytest.raises(AssertionError):
        states.move(PAGE + 1 - messages, messages, event)
