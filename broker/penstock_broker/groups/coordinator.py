"""Who is in a consumer group and reads what: a state machine per member, and one owner per partition.

    state      means
    steady     it has what it was told, or is to get more
    yielding   it was told to give something up, and has not said that it has
    away       its session is gone, its seat is kept: a named instance may come back to it
    gone       it is no member any more

    state      lost    heard    target   carried out   late   left
    steady     away    steady   yielding steady        gone   gone
    yielding   away    yielding yielding steady        gone   gone
    away       away    steady   away     away          gone   gone

A partition belongs to one member, or to none while nobody has taken it. What is to move stays with its
member until that member has said it is done with it, or is gone; the others go on meanwhile (KIP-848). Every
change of what a member may read gets a new generation; a member may commit for a partition in any generation
since it got it, and nobody else may. Memory only: after a restart members join again, with what they have.

It knows no clock and no durable state; which of a member's calls waits is kept here, but never looked at.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from penstock_broker.groups.assignors import ASSIGNORS, Place
from penstock_protocol.errors import Conflict, Stale
from penstock_protocol.limits import GROUP_MEMBERS_MAX
from penstock_protocol.patterns import is_pattern, matches


class State(StrEnum):
    """Of a member, see above."""

    STEADY = "steady"
    YIELDING = "yielding"
    AWAY = "away"
    GONE = "gone"


class Event(StrEnum):
    """What happens to a member."""

    LOST = "its session is gone"
    HEARD = "it gave a sign of life"
    TARGET = "it is to give something up"
    CARRIED_OUT = "it has done what it was told last"
    LATE = "its time is over"
    LEFT = "it left, or its session is gone and it has no name"


_STEADY, _YIELDING, _AWAY, _GONE = State
NEXT: Mapping[tuple[State, Event], State] = {
    (_STEADY, Event.LOST): _AWAY,
    (_STEADY, Event.HEARD): _STEADY,
    (_STEADY, Event.TARGET): _YIELDING,
    (_STEADY, Event.CARRIED_OUT): _STEADY,
    (_STEADY, Event.LATE): _GONE,
    (_STEADY, Event.LEFT): _GONE,
    (_YIELDING, Event.LOST): _AWAY,
    (_YIELDING, Event.HEARD): _YIELDING,
    (_YIELDING, Event.TARGET): _YIELDING,
    (_YIELDING, Event.CARRIED_OUT): _STEADY,
    (_YIELDING, Event.LATE): _GONE,
    (_YIELDING, Event.LEFT): _GONE,
    (_AWAY, Event.LOST): _AWAY,
    (_AWAY, Event.HEARD): _STEADY,
    (_AWAY, Event.TARGET): _AWAY,
    (_AWAY, Event.LATE): _GONE,
    (_AWAY, Event.LEFT): _GONE,
}
"""State and event → the next state; what is not here cannot happen."""


class Generations:
    """Numbers that grow, over restarts too: what an earlier one allowed, a later one may forbid."""

    def __init__(self) -> None:
        self._last = 0

    def begin(self, boot: int) -> None:
        """A life of the broker begins."""
        self._last = boot << 32

    def next(self) -> int:
        """The next one."""
        self._last += 1
        return self._last


REJOIN_MS = 3_000
"""How long others have to come back after a restart, from the first that comes. Kafka:
group.initial.rebalance.delay.ms, 3 s."""


class Member:
    """One member. Times are mono ms."""

    __slots__ = (
        *("assignor", "client", "deadline", "group", "held", "id", "instance", "joined", "rank"),
        *("reply_at", "seen", "session", "state", "target", "told", "topics", "waiting", "yield_by"),
        "yielding",
    )

    def __init__(self, group: str, member: bytes, instance: str | None, joined: int) -> None:
        self.group = group
        self.id = member
        self.instance = instance
        self.joined = joined
        """In which order members came."""
        self.rank = f"instance {instance}" if instance is not None else f"member {joined:09}"
        """What assignors sort it by: an instance keeps its place."""
        self.topics: tuple[str, ...] = ()
        self.assignor = ""
        self.client = ""
        self.session: Any = None
        self.state = State.STEADY
        self.deadline = 0
        """When it is gone unless it is heard before."""
        self.held: dict[Place, int] = {}
        """What is its own → since which generation."""
        self.yielding: set[Place] = set()
        """What of that it is to give up."""
        self.yield_by: int | None = None
        """When that must have been done."""
        self.target: set[Place] = set()
        self.told = 0
        """Generation of its newest assignment."""
        self.waiting: Any = None
        """Its HEARTBEAT that is not answered yet."""
        self.seen = 0
        """The generation that one knew of; an assignment may be newer already when it is answered."""
        self.reply_at = 0
        """When that is answered whatever happens."""

    @property
    def assigned(self) -> list[Place]:
        """What it may read."""
        return sorted(self.held.keys() - self.yielding)

    @property
    def wake_at(self) -> int:
        """When something is to be done about it unless it is heard before."""
        when = self.deadline if self.waiting is None else min(self.deadline, self.reply_at)
        return when if self.yield_by is None else min(when, self.yield_by)


class Coordinator:
    """The members of one group."""

    def __init__(
        self,
        name: str,
        generations: Generations,
        session_ms: int,
        yield_ms: int,
        heartbeat_ms: int,
        *,
        returning_until: int = 0,
    ) -> None:
        self.name = name
        self._returning_until = returning_until
        """Until then members of the life before may come back."""
        self._generations = generations
        self._session_ms = session_ms
        self._yield_ms = yield_ms
        self._heartbeat_ms = heartbeat_ms
        self.generation = generations.next()
        """The newest of all members."""
        self.members: dict[bytes, Member] = {}
        self._owners: dict[Place, Member] = {}
        self._sizes: Mapping[str, int] = {}
        self._joins = 0
        self._settled = True
        """Who is to have what was thought over since the last thing happened."""
        self._fenced: dict[bytes, None] = {}
        """Members whose seat another process of their instance took."""
        self.closed_until: int | None = None
        """Until then nobody is given what nobody has claimed: others may come back, and claim it."""
        self._claimed: set[Place] = set()
        """What somebody has claimed so far, while it is closed; whoever is next may have it at once."""
        self.changed: dict[Member, None] = {}
        """Whose assignment is new since somebody looked, or who is gone."""

    # ---- What happens

    def join(
        self,
        member_id: bytes,
        instance: str | None,
        topics: Sequence[str],
        assignor: str,
        claims: Iterable[Place],
        mono: int,
    ) -> Member:
        """Become a member, or stay one; `settle` follows. `claims` are its own again where nobody has them.
        An instance takes over the seat it had. Raises `Conflict` when the group is full, `Stale` for who lost
        its seat so."""
        self._check_fenced(member_id)
        member = self.members.get(member_id) or self._seat(member_id, instance)
        if member.id != member_id:
            self._take_seat(member, member_id)
        member.topics, member.assignor = tuple(topics), assignor
        self._heard(member, mono)
        claimed = list(claims)
        if len(self.members) == 1 and (claimed or mono < self._returning_until):
            self.closed_until = mono + REJOIN_MS
        self._claim(member, claimed)
        self._settled = False
        self.changed[member] = None
        return member

    def _claim(self, member: Member, places: Iterable[Place]) -> None:
        """What it had in an earlier membership, where it may have it still."""
        subscribed = self._subscribed(member.topics)
        for place in places:
            wanted = place.topic in subscribed and place.partition < self._sizes[place.topic]
            if wanted and place not in self._owners:
                self._own(member, place, self._generations.next())
                self._claimed.add(place)

    def _seat(self, member_id: bytes, instance: str | None) -> Member:
        """The seat of that instance, or a new one."""
        if instance is not None:
            for member in self.members.values():
                if member.instance == instance:
                    return member
        if len(self.members) >= GROUP_MEMBERS_MAX:
            raise Conflict(
                f"group {self.name!r} has {GROUP_MEMBERS_MAX:,} members, and takes no more",
                hint="let each process be one member, or split the work into several groups",
            )
        self._joins += 1
        member = self.members[member_id] = Member(self.name, member_id, instance, self._joins)
        return member

    def _take_seat(self, member: Member, member_id: bytes) -> None:
        """Another process of that instance: the older one is fenced, what it had stays where it is."""
        self._fenced[member.id] = None
        if len(self._fenced) > GROUP_MEMBERS_MAX:
            del self._fenced[next(iter(self._fenced))]
        del self.members[member.id]
        member.id = member_id
        self.members[member_id] = member
        member.held = dict.fromkeys(member.held.keys() - member.yielding, self._generations.next())
        self._free(member.yielding)
        member.yielding, member.yield_by, member.told = set(), None, 0
        member.state = State.STEADY

    def heartbeat(self, member_id: bytes, done: int, mono: int) -> Member:
        """A sign of life; `done` is the generation that it has carried out. Raises `Stale` for who is no
        member."""
        member = self.member(member_id)
        self._heard(member, mono)
        if done == member.told:
            self._carried_out(member, mono)
        return member

    def leave(self, member_id: bytes) -> None:
        """It is done; `settle` follows. The seat of an instance is kept. Raises `Stale` for who is no
        member."""
        member = self.member(member_id)
        if member.instance is not None:
            self._step(member, Event.LOST)
        else:
            self._gone(member, Event.LEFT)

    def lost(self, session: object) -> None:
        """That session is over: its members are gone, but for instances, which may come back; `settle`
        follows."""
        for member in [each for each in self.members.values() if each.session is session]:
            member.session = None
            self.leave(member.id)

    def late(self, member: Member, mono: int) -> bool:
        """A member that was not heard of in time, or did not give up what it had to, is gone; `settle`
        follows."""
        if member.deadline > mono and (member.yield_by is None or member.yield_by > mono):
            return False
        self._gone(member, Event.LATE)
        return True

    def opened(self, mono: int) -> None:
        """What nobody has claimed may be given to anybody."""
        self.closed_until = None
        self._claimed.clear()
        self._hand_over(mono)

    def resized(self, sizes: Mapping[str, int]) -> None:
        """Topics came, went or grew: topic → number of its partitions; `settle` follows."""
        self._sizes = sizes
        for place in [each for each in self._owners if each.partition >= sizes.get(each.topic, 0)]:
            owner = self._owners.pop(place)
            del owner.held[place]
            owner.yielding.discard(place)
            self._tell(owner)
        self._settled = False

    def settle(self, mono: int) -> None:
        """Decide who is to have what, and who has to give something up for that, once for all that happened
        since the last time: a thousand members that leave together cost as much as one."""
        if self._settled:
            return
        self._settled = True
        self._retarget(mono)
        for member in self.members.values():
            if not member.told:
                self._tell(member)

    # ---- What may be asked

    def member(self, member_id: bytes) -> Member:
        """Raises `Stale` for who is no member."""
        self._check_fenced(member_id)
        member = self.members.get(member_id)
        if member is None:
            raise Stale(
                f"no member of group {self.name!r}, or no longer",
                hint="join again: its partitions may have gone to others meanwhile",
            )
        return member

    def check_commit(self, member_id: bytes, generation: int, place: Place) -> None:
        """Raises `Stale` unless that member has the partition, and had it in that generation, which it was
        told."""
        member = self.member(member_id)
        since = member.held.get(place)
        if since is None or not since <= generation <= member.told:
            raise Stale(
                f"{place.topic}/{place.partition} belongs to another member of group {self.name!r}",
                hint="whoever has it now reads again what was not committed; commit before it is given away",
            )

    def owner(self, place: Place) -> Member | None:
        """Whose partition it is."""
        return self._owners.get(place)

    @property
    def balancing(self) -> bool:
        """Partitions are on their way from one member to another, or nobody is given them yet."""
        return self.closed_until is not None or any(member.yielding for member in self.members.values())

    @property
    def assignor(self) -> str:
        """What most members ask for; of several, what the oldest does."""
        votes = Counter(member.assignor for member in self.members.values())
        eldest = sorted(self.members.values(), key=lambda each: each.joined)
        return max((each.assignor for each in eldest), key=votes.__getitem__, default="sticky")

    # ---- Inside

    def _check_fenced(self, member_id: bytes) -> None:
        if member_id in self._fenced:
            raise fenced(self.name)

    def _step(self, member: Member, event: Event) -> None:
        member.state = NEXT[member.state, event]

    def _heard(self, member: Member, mono: int) -> None:
        self._step(member, Event.HEARD)
        if member.yielding:
            self._step(member, Event.TARGET)
        member.deadline = mono + self._session_ms
        member.reply_at = mono + self._heartbeat_ms

    def _carried_out(self, member: Member, mono: int) -> None:
        self._step(member, Event.CARRIED_OUT)
        if member.yielding:
            self._free(member.yielding)
            for place in member.yielding:
                del member.held[place]
            member.yielding, member.yield_by = set(), None
            self._hand_over(mono)

    def _gone(self, member: Member, event: Event) -> None:
        self._step(member, event)
        del self.members[member.id]
        self.changed[member] = None
        self._free(member.held)
        self._settled = False

    def _free(self, places: Iterable[Place]) -> None:
        for place in places:
            del self._owners[place]

    def _retarget(self, mono: int) -> None:
        """Who is to have what now, and who has to give something up for that."""
        found = {
            topics: self._subscribed(topics) for topics in {each.topics for each in self.members.values()}
        }
        subscriptions = {each.rank: found[each.topics] for each in self.members.values()}
        current: dict[str, Collection[Place]] = {each.rank: each.held for each in self.members.values()}
        targets = ASSIGNORS[self.assignor](subscriptions, self._sizes, current) if self.members else {}
        for member in self.members.values():
            member.target = targets[member.rank]
            yielding = member.held.keys() - member.target
            if yielding != member.yielding:
                self._ask_back(member, yielding, mono)
        self._hand_over(mono)

    def _ask_back(self, member: Member, yielding: set[Place], mono: int) -> None:
        """It is to give up that, and nothing else."""
        member.yielding = yielding
        self._tell(member)
        if yielding:
            self._step(member, Event.TARGET)
            member.yield_by = member.yield_by or mono + self._yield_ms
        else:
            member.yield_by = None

    def _hand_over(self, mono: int) -> None:
        """Give what is free to whom it is meant for."""
        closed = self.closed_until is not None and mono < self.closed_until
        for member in self.members.values():
            free = (place for place in member.target - member.held.keys() if place not in self._owners)
            granted = [place for place in free if not closed or place in self._claimed]
            if granted:
                self._tell(member)
                for place in granted:
                    self._own(member, place, member.told)

    def _own(self, member: Member, place: Place, generation: int) -> None:
        member.held[place] = generation
        self._owners[place] = member

    def _tell(self, member: Member) -> None:
        member.told = self.generation = self._generations.next()
        self.changed[member] = None

    def _subscribed(self, topics: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for each in topics:
            if is_pattern(each):
                found.update(name for name in self._sizes if matches(each, name))
            elif each in self._sizes:
                found.add(each)
        return found


def fenced(group: str) -> Stale:
    """The error of a member whose seat another process of its instance took."""
    return Stale(
        f"another process has joined group {group!r} as the same instance",
        hint="give each process an instance= of its own",
        detail={"fenced": True},
    )
