"""A consumer group under random joins, leaves, crashes and slow members, against what each member believes.

A reader here does what the wire asks for: it is told an assignment, gives up what is not in it when it gets
round to it, and says so with its next sign of life. What it believes it may read is compared with what is so.
"""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock_broker.groups.assignors import ASSIGNORS, Place
from penstock_broker.groups.coordinator import NEXT, Coordinator, Event, Generations, Member, State
from penstock_protocol.errors import Stale

SESSION_MS, YIELD_MS, HEARTBEAT_MS = 45_000, 300_000, 3_000
TOPICS = st.sampled_from([("a",), ("a", "b"), ("b",), ("#",), ("a", "a.*")])


@dataclass(eq=False)
class Reader:
    """A process that is a member: what it knows, and what it believes."""

    id: bytes
    topics: tuple[str, ...]
    assignor: str
    instance: str | None = None
    told: int = 0
    assigned: set[Place] = field(default_factory=set)
    """In the newest assignment it has seen."""
    done: int = 0
    reading: set[Place] = field(default_factory=set)


class Groups(RuleBasedStateMachine):
    """Random members of one group; every one of them does everything in some order."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = {"a": 5, "b": 3}
        self.mono = 0
        self.numbers = 0
        self.generations = Generations()
        self.generations.begin(1)
        self.readers: list[Reader] = []
        self.group = self.begin()

    def begin(self) -> Coordinator:
        group = Coordinator("g", self.generations, SESSION_MS, YIELD_MS, HEARTBEAT_MS)
        group.resized(dict(self.sizes))
        return group

    # ---- What members do

    @rule(topics=TOPICS, assignor=st.sampled_from(sorted(ASSIGNORS)), named=st.booleans())
    def come(self, topics: tuple[str, ...], assignor: str, named: bool) -> None:
        self.numbers += 1
        number = self.numbers.to_bytes(16, "big")
        reader = Reader(number, topics, assignor, f"i{self.numbers % 3}" if named else None)
        if named and any(each.instance == reader.instance for each in self.readers):
            return
        self.readers.append(reader)
        self.join(reader)

    def join(self, reader: Reader) -> None:
        member = self.group.join(
            reader.id, reader.instance, reader.topics, reader.assignor, sorted(reader.reading), self.mono
        )
        self.group.settle(self.mono)
        self.see(reader, member)
        if self.group.closed_until is not None:
            assert self.group.closed_until > self.mono

    def see(self, reader: Reader, member: Member) -> None:
        """It is told; what is new it reads at once."""
        reader.told, reader.assigned = member.told, set(member.assigned)
        reader.reading |= reader.assigned

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), works=st.booleans())
    def beat(self, data: st.DataObject, works: bool) -> None:
        """A sign of life. `works`: it has given up what it was told to."""
        self.live(data.draw(st.sampled_from(self.readers)), works)

    def live(self, reader: Reader, works: bool = True) -> None:
        if works:
            reader.reading &= reader.assigned
            reader.done = reader.told
        try:
            self.see(reader, self.group.heartbeat(reader.id, reader.done, self.mono))
        except Stale:
            reader.reading.clear()
            self.join(reader)

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), clean=st.booleans(), settled=st.booleans())
    def go(self, data: st.DataObject, clean: bool, settled: bool) -> None:
        """A clean close; or a crash, after which nothing is heard any more."""
        reader = data.draw(st.sampled_from(self.readers))
        self.readers.remove(reader)
        if clean and reader.id in self.group.members:
            self.group.leave(reader.id)
            self.turn_ends(settled)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def another_process_of_its_instance(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        if reader.instance is None or reader.id not in self.group.members:
            return
        before = set(self.group.members[reader.id].assigned)
        self.readers.remove(reader)
        self.numbers += 1
        newer = Reader(self.numbers.to_bytes(16, "big"), reader.topics, reader.assignor, reader.instance)
        self.readers.append(newer)
        self.join(newer)
        assert before <= newer.assigned
        with pytest.raises(Stale) as raised:
            self.group.heartbeat(reader.id, reader.told, self.mono)
        assert raised.value.detail == {"fenced": True}

    # ---- What happens around them

    def turn_ends(self, settled: bool) -> None:
        """Or more happens in it."""
        if settled:
            self.group.settle(self.mono)

    @rule(topic=st.sampled_from(["a", "b", "a.x"]), more=st.integers(1, 4), settled=st.booleans())
    def a_topic_grows(self, topic: str, more: int, settled: bool) -> None:
        self.sizes[topic] = self.sizes.get(topic, 0) + more
        self.group.resized(dict(self.sizes))
        self.turn_ends(settled)

    @rule(topic=st.sampled_from(["b", "a.x"]), settled=st.booleans())
    def a_topic_goes(self, topic: str, settled: bool) -> None:
        self.sizes.pop(topic, None)
        self.group.resized(dict(self.sizes))
        self.turn_ends(settled)
        for reader in self.readers:
            reader.reading = {place for place in reader.reading if place.topic != topic}

    @rule(ms=st.sampled_from([100, 3_000, 20_000, 50_000]))
    def time_passes(self, ms: int) -> None:
        self.mono += ms
        self.tick()

    def tick(self) -> None:
        if self.group.closed_until is not None and self.group.closed_until <= self.mono:
            self.group.opened(self.mono)
        for member in list(self.group.members.values()):
            if member.id in self.group.members:
                self.group.late(member, self.mono)
        self.group.settle(self.mono)

    @rule()
    def the_broker_starts_anew(self) -> None:
        self.generations.begin((self.generations.next() >> 32) + 1)
        self.group = self.begin()

    @rule()
    def everybody_settles(self) -> None:
        """With time, and everybody alive and at work, the group comes to rest: nobody owns too much."""
        for reader in self.readers:
            self.live(reader)
        for _ in range(SESSION_MS // 15_000 + 1):
            self.mono += 15_000
            for reader in self.readers:
                self.live(reader)
            self.tick()
        for _ in ("see", "give up", "take", "be told"):
            for reader in self.readers:
                self.live(reader)
        assert not self.group.balancing
        assert set(self.group.members) == {reader.id for reader in self.readers}
        wanted = {
            Place(topic, number)
            for topic, size in self.sizes.items()
            for number in range(size)
            if any(topic in self.group._subscribed(m.topics) for m in self.group.members.values())
        }
        assert {place for reader in self.readers for place in reader.reading} == wanted
        assert sum(len(reader.reading) for reader in self.readers) == len(wanted)
        for reader in self.readers:
            member = self.group.members[reader.id]
            assert member.state is State.STEADY
            assert set(member.assigned) == reader.reading == member.target

    # ---- What holds at every moment

    @invariant()
    def every_partition_has_one_owner(self) -> None:
        owned = [place for member in self.group.members.values() for place in member.held]
        assert len(owned) == len(set(owned))
        assert set(owned) == set(self.group._owners)
        assert all(self.group._owners[p] is m for m in self.group.members.values() for p in m.held)

    @invariant()
    def what_a_member_believes_it_may_read_nobody_else_does(self) -> None:
        """As long as it is a member. What it was told to give up is its own until it says that it has."""
        for reader in self.readers:
            member = self.group.members.get(reader.id)
            if member is not None and member.told == reader.told:
                assert reader.reading <= member.held.keys()

    @invariant()
    def only_the_owner_may_commit(self) -> None:
        for reader in self.readers:
            for place in reader.reading:
                owner = self.group.owner(place)
                try:
                    self.group.check_commit(reader.id, reader.told, place)
                except Stale:
                    assert owner is None or owner.id != reader.id or owner.held[place] > reader.told
                else:
                    assert owner is not None
                    assert owner.id == reader.id

    @invariant()
    def members_are_in_a_state_that_fits(self) -> None:
        for member in self.group.members.values():
            assert member.state is not State.GONE
            assert member.yielding <= member.held.keys()
            if member.yielding:
                assert member.state in (State.YIELDING, State.AWAY)
                assert member.yield_by is not None


TestGroups = Groups.TestCase
TestGroups.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def stable(members: int, partitions: int, assignor: str = "sticky") -> Coordinator:
    """A group at rest."""
    generations = Generations()
    generations.begin(1)
    group = Coordinator("g", generations, SESSION_MS, YIELD_MS, HEARTBEAT_MS)
    group.resized({"t": partitions})
    for number in range(members):
        group.join(number.to_bytes(16, "big"), None, ["t"], assignor, (), 0)
    rest(group)
    return group


def rest(group: Coordinator) -> None:
    group.settle(0)
    while group.changed:
        group.changed.clear()
        for member in list(group.members.values()):
            group.heartbeat(member.id, member.told, 0)


def owners(group: Coordinator) -> dict[Place, bytes]:
    return {place: member.id for place, member in group._owners.items()}


@pytest.mark.parametrize("members", [1, 2, 7, 49])
@pytest.mark.parametrize("partitions", [1, 10, 200])
def test_who_joins_takes_its_share_and_nothing_else_moves(members: int, partitions: int) -> None:
    group = stable(members, partitions)
    before = owners(group)
    newcomer = b"newcomer--------"
    group.join(newcomer, None, ["t"], "sticky", (), 0)
    rest(group)
    after = owners(group)
    moved = {place for place in before if before[place] != after[place]}
    assert all(after[place] == newcomer for place in moved)
    assert len(moved) == partitions // (members + 1)


@pytest.mark.parametrize("members", [2, 7, 50])
def test_who_leaves_is_shared_out_and_nothing_else_moves(members: int) -> None:
    group = stable(members, 200)
    before = owners(group)
    gone = next(iter(group.members))
    group.leave(gone)
    rest(group)
    after = owners(group)
    assert len(after) == 200
    assert set(after.values()) == set(group.members)
    assert all(after[place] == owner for place, owner in before.items() if owner != gone)
    counts = [sum(owner == member for owner in after.values()) for member in group.members]
    assert max(counts) - min(counts) <= 1


def test_others_go_on_while_one_gives_up() -> None:
    group = stable(3, 9)
    before = {member.id: (member.told, member.assigned) for member in group.members.values()}
    group.join(b"newcomer--------", None, ["t"], "sticky", (), 0)
    group.settle(0)
    untouched = [m for m in group.members.values() if before.get(m.id) == (m.told, m.assigned)]
    assert len(untouched) == 1  # 9 = 2 + 2 + 2 + 3: one of them keeps its three


def test_who_does_not_give_up_in_time_is_no_member_any_more() -> None:
    group = stable(1, 4)
    (slow,) = group.members.values()
    told = slow.told
    group.join(b"newcomer--------", None, ["t"], "sticky", (), 0)
    group.settle(0)
    for mono in range(0, YIELD_MS + 1, HEARTBEAT_MS):
        group.heartbeat(slow.id, told, mono)
        group.heartbeat(b"newcomer--------", group.members[b"newcomer--------"].told, mono)
        group.late(slow, mono)
        group.settle(mono)
        if slow.state is State.GONE:
            break
    assert mono == YIELD_MS
    assert len(group.members[b"newcomer--------"].assigned) == 4


def test_commit_of_an_old_generation_is_stale_after_the_partition_came_back() -> None:
    group = stable(1, 2)
    (first,) = group.members.values()
    old = first.told
    group.join(b"newcomer--------", None, ["t"], "sticky", (), 0)
    group.settle(0)
    rest(group)
    (lent,) = group.members[b"newcomer--------"].assigned
    group.leave(b"newcomer--------")
    group.settle(0)
    rest(group)
    assert lent in first.assigned
    with pytest.raises(Stale):
        group.check_commit(first.id, old, lent)
    group.check_commit(first.id, first.told, lent)
    with pytest.raises(Stale):
        group.check_commit(first.id, first.told + 1, lent)  # which nobody was told yet


def test_who_comes_back_after_a_restart_and_leaves_at_once_hands_over_at_once() -> None:
    places = [Place("t", partition) for partition in range(6)]
    group = stable(0, 6)
    for number in range(2):
        group.join(number.to_bytes(16, "big"), None, ["t"], "sticky", places[number::3], 0)
    rest(group)
    assert owners(group).keys() == {*places[0::3], *places[1::3]}  # a third may come back, and has the rest
    first, second = group.members
    group.leave(first)
    rest(group)
    assert owners(group) == dict.fromkeys([*places[0::3], *places[1::3]], second)
    assert group.closed_until is not None
    group.opened(group.closed_until)
    rest(group)
    assert owners(group) == dict.fromkeys(places, second)


def test_table_has_an_answer_for_every_event_in_every_state() -> None:
    missing = {(state, event) for state in State for event in Event if (state, event) not in NEXT}
    gone = {(State.GONE, event) for event in Event}
    assert missing == gone | {(State.AWAY, Event.CARRIED_OUT)}
