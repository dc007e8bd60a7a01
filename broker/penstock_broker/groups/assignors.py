"""Who of a group's members reads which partition: pure functions, one per strategy.

Each takes what the members subscribe to, how many partitions each topic has, and who has what now. It gives
every partition that somebody subscribes to exactly one reader, and depends on nothing else.

    sticky        even over all topics together; of what is read now, as little as possible moves
    uniform       even within each topic, and over all as far as that allows; sticky within each topic
    range         per topic: the partitions in a row, cut into equal pieces (Kafka: RangeAssignor)
    round_robin   all partitions in turn (Kafka: RoundRobinAssignor)
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import NamedTuple, TypeAlias


class Place(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


Member: TypeAlias = str
"""By what a member is sorted: so that equal groups are assigned equally."""
Subscriptions: TypeAlias = Mapping[Member, Collection[str]]
"""Member → topics."""
Sizes: TypeAlias = Mapping[str, int]
"""Topic → its number of partitions."""
Assigned: TypeAlias = dict[Member, set[Place]]
Assignor: TypeAlias = Callable[[Subscriptions, Sizes, Mapping[Member, Collection[Place]]], Assigned]


def sticky(
    subscriptions: Subscriptions, sizes: Sizes, current: Mapping[Member, Collection[Place]]
) -> Assigned:
    """See above. No member could give a partition to another one and both be closer to each other, not even
    through a third."""
    found, free = _kept(subscriptions, sizes, current)
    readers = _readers(subscriptions, sizes)
    for place in free:
        found[min(readers[place.topic], key=lambda each: (len(found[each]), each))].add(place)
    _even_out(found, readers)
    return found


def uniform(
    subscriptions: Subscriptions, sizes: Sizes, current: Mapping[Member, Collection[Place]]
) -> Assigned:
    """See above."""
    found: Assigned = {member: set() for member in subscriptions}
    for topic, readers in sorted(_readers(subscriptions, sizes).items()):
        had = {
            each: sorted(
                place for place in current.get(each, ()) if place.topic == topic and place[1] < sizes[topic]
            )
            for each in readers
        }
        share, more = divmod(sizes[topic], len(readers))
        least_first = sorted(readers, key=lambda each: (len(found[each]), -len(had[each]), each))
        quota = {each: share + (number < more) for number, each in enumerate(least_first)}
        taken: set[Place] = set()
        for each in least_first:
            mine = [place for place in had[each] if place not in taken][: quota[each]]
            found[each].update(mine)
            taken.update(mine)
            quota[each] -= len(mine)
        free = iter([place for place in _places(topic, sizes) if place not in taken])
        for each in least_first:
            found[each].update(islice(free, quota[each]))
    return found


def range_(
    subscriptions: Subscriptions, sizes: Sizes, _current: Mapping[Member, Collection[Place]]
) -> Assigned:
    """See above. The first members get one more where it does not come out even."""
    found: Assigned = {member: set() for member in subscriptions}
    for topic, readers in _readers(subscriptions, sizes).items():
        share, more = divmod(sizes[topic], len(readers))
        places = iter(_places(topic, sizes))
        for number, each in enumerate(readers):
            found[each].update(islice(places, share + (number < more)))
    return found


def round_robin(
    subscriptions: Subscriptions, sizes: Sizes, _current: Mapping[Member, Collection[Place]]
) -> Assigned:
    """See above. Who does not subscribe to a topic is passed over."""
    found: Assigned = {member: set() for member in subscriptions}
    readers = _readers(subscriptions, sizes)
    members = deque(sorted(subscriptions))
    for topic in sorted(readers):
        for place in _places(topic, sizes):
            while members[0] not in readers[topic]:
                members.rotate(-1)
            found[members[0]].add(place)
            members.rotate(-1)
    return found


ASSIGNORS: dict[str, Assignor] = {
    "sticky": sticky,
    "uniform": uniform,
    "range": range_,
    "round_robin": round_robin,
}


def _places(topic: str, sizes: Sizes) -> list[Place]:
    return [Place(topic, number) for number in range(sizes[topic])]


def _readers(subscriptions: Subscriptions, sizes: Sizes) -> dict[str, list[Member]]:
    """Topic → who subscribes to it, in order; no topic without."""
    readers: dict[str, list[Member]] = {}
    for member in sorted(subscriptions):
        for topic in subscriptions[member]:
            if topic in sizes:
                readers.setdefault(topic, []).append(member)
    return readers


def _kept(
    subscriptions: Subscriptions, sizes: Sizes, current: Mapping[Member, Collection[Place]]
) -> tuple[Assigned, Iterable[Place]]:
    """What everybody may keep, and what is left."""
    wanted = {place for topic in _readers(subscriptions, sizes) for place in _places(topic, sizes)}
    found: Assigned = {}
    for member in sorted(subscriptions):
        topics = subscriptions[member]
        found[member] = {each for each in current.get(member, ()) if each in wanted and each.topic in topics}
        wanted -= found[member]
    return found, sorted(wanted)


def _even_out(found: Assigned, readers: Mapping[str, list[Member]]) -> None:
    """Move partitions from who has most to who has least, one at a time: through others where the two have no
    topic in common."""
    settled: set[Member] = set()
    while left := [each for each in found if each not in settled]:
        rich = max(left, key=lambda each: (len(found[each]), each))
        if len(found[rich]) - min(map(len, found.values())) < 2:
            return
        path, seen = _way_down(found, readers, rich)
        if not path:
            settled |= seen  # whoever is reached through them has no more to give either
        for giver, place, taker in path:
            found[giver].remove(place)
            found[taker].add(place)


def _way_down(
    found: Assigned, readers: Mapping[str, list[Member]], rich: Member
) -> tuple[list[tuple[Member, Place, Member]], set[Member]]:
    """The shortest way to hand one partition on to a member that has at least two less, empty: none; and who
    was reached in search of it."""
    came: dict[Member, tuple[Member, Place]] = {}
    seen, queue = {rich}, deque([rich])
    while queue:
        giver = queue.popleft()
        by_topic: dict[str, Place] = {}
        for place in found[giver]:
            by_topic[place.topic] = max(place, by_topic.get(place.topic, place))
        for topic in sorted(by_topic):
            for taker in sorted(set(readers[topic]) - seen, key=lambda each: (len(found[each]), each)):
                seen.add(taker)
                came[taker] = giver, by_topic[topic]
                if len(found[taker]) <= len(found[rich]) - 2:
                    return _steps(came, rich, taker), seen
                queue.append(taker)
    return [], seen


def _steps(
    came: Mapping[Member, tuple[Member, Place]], rich: Member, last: Member
) -> list[tuple[Member, Place, Member]]:
    steps = []
    while last != rich:
        giver, place = came[last]
        steps.append((giver, place, last))
        last = giver
    return steps
