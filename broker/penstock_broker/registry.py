"""All machines of the node: the fold that the live path and recovery share.

`apply` finds the machine a part is addressed to. The catalogue's parts also make and unmake machines;
that is the only place where one machine's outcome concerns another object.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

from penstock_broker import catalogue
from penstock_broker.catalogue import CATALOGUE, Catalogue, Item
from penstock_broker.durability import FSYNC, parse
from penstock_broker.groups.offsets import Group
from penstock_broker.producers import Named, Opened
from penstock_broker.queues.leases import Tokens
from penstock_broker.queues.policy import Policy, policy_for
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.schedules import Schedule, rhythm_of
from penstock_broker.storage.checkpoint import Chosen
from penstock_broker.storage.entries import At, Kind, Part
from penstock_broker.storage.files import StorageError
from penstock_broker.storage.log import Log, Use
from penstock_broker.storage.node import NODE, Node
from penstock_broker.topics.partition import Partition
from penstock_broker.topics.policy import policy_for as topic_policy_for
from penstock_broker.topics.topic import Topic
from penstock_protocol.errors import Corrupt, NotFound

MADE_IN_ORDER = ("topic", "queue", "group", "schedule", "producer")
"""A queue over a topic needs it."""
Machine = Node | Catalogue | Queue | Partition | Group | Schedule


class Registry:
    """Machines by uuid, and what they are called."""

    def __init__(self, tokens: Tokens, random: Random, within: int = FSYNC) -> None:
        self.tokens = tokens
        self._random = random
        self.within = within
        """How long a sync may wait, in ms, for a queue or topic that does not say."""
        self.use = Use()
        """What of each segment is pointed to."""
        self.node = Node()
        self.catalogue = Catalogue()
        self.queues: dict[str, Queue] = {}
        self.topics: dict[str, Topic] = {}
        self.groups: dict[str, Group] = {}
        self.schedules: dict[str, Schedule] = {}
        self.named = Named()
        """Producers with a name."""
        self._machines: dict[bytes, Machine] = {NODE: self.node, CATALOGUE: self.catalogue}
        self._early: dict[bytes, Chosen] = {}
        """Snapshots of machines that the restored catalogue does not know yet."""
        self._as_of: dict[bytes, int] = {}
        """Journal position that a restored machine reflected. Not `changed_at`: an entry may have several
        parts for one machine, all at one position."""
        self.corrupt: set[bytes] = set()
        """Machines of which both snapshots are damaged, or changes were cut."""
        self.changes = 0
        """Of topics, so far: whoever remembers how many partitions they have looks again."""
        self._cut = False
        """Something was: not every part follows on from what is known."""

    # ---- Folding

    def apply(self, part: Part, at: At) -> None:
        """A part that was just appended."""
        if part.target == CATALOGUE:
            self._compose(part.kind, self.catalogue.apply(part, at))
            return
        self._machines[part.target].apply(part, at)
        if part.kind == Kind.BOOT:
            for queue in self.lanes():
                queue.apply(part, at)

    def replay(self, part: Part, at: At) -> None:
        """A part read back; skipped by a machine that reflects it already, or is gone."""
        machine = self._machines.get(part.target)
        if part.kind == Kind.BOOT:
            for queue in self.lanes():
                if self._as_of.get(queue.uuid, 0) < at.position:
                    queue.apply(part, at)
        elif self.node.clean and part.kind != Kind.STOP:
            self.node.clean = False
        reflected = self._as_of.get(part.target, 0) >= at.position
        if machine is None or reflected or part.target in self.corrupt:
            return
        if self._cut and not self._follows_on(machine, part, at):
            return
        if isinstance(machine, Catalogue):
            self._compose(part.kind, machine.apply(part, at))
        else:
            machine.apply(part, at)

    def cut(self, position: int) -> None:
        """What stood in the journal there is lost. A machine whose parts do not follow on from what is known
        of it is corrupt; of the others, what was settled there may be delivered again."""
        self._cut = True
        self.node.clean = False
        for queue in self.lanes():
            if self._as_of.get(queue.uuid, 0) <= position:
                queue.distrust()

    def _follows_on(self, machine: Machine, part: Part, at: At) -> bool:
        """The part can be applied. The catalogue is made to fit: what must have been deleted is deleted now,
        what it never heard of is passed over. So is what was said of a segment that it does not know."""
        if part.kind in (Kind.ARCHIVED, Kind.MOVED) and self._as_of.get(NODE, 0) < at.position:
            self.node.adopt(part)
        if machine.fits(part):
            return True
        if isinstance(machine, Catalogue):
            item = catalogue.decode_item(part.detail)
            before = machine.get(item.sort, item.name)
            if part.kind == Kind.CREATE and before is not None:
                self._unmake(before)
                return True
        elif not isinstance(machine, Node):
            self.corrupt.add(part.target)
        return False

    def restore(self, chosen: Chosen) -> None:
        """A machine as a checkpoint had it. Raises `StorageError` if the catalogue or node is lost."""
        row, data = chosen
        self._as_of[row.uuid] = row.as_of
        machine = self._machines.get(row.uuid)
        if data is None:
            if row.uuid in (NODE, CATALOGUE):
                raise StorageError(
                    "both copies of the catalogue are damaged: restore a backup of the directory"
                )
            self.corrupt.add(row.uuid)
        elif machine is None:
            self._early[row.uuid] = chosen
        else:
            machine.restore(memoryview(data))
            machine.changed_at = row.as_of
            if isinstance(machine, Catalogue):
                for sort in MADE_IN_ORDER:
                    for item in machine.items(sort).values():
                        self._compose(Kind.CREATE, item)

    def _compose(self, kind: int, item: Item) -> None:
        self.changes += item.sort == "topic"
        if kind == Kind.DELETE:
            self._unmake(item)
        elif kind == Kind.ALTER:
            self._alter(item)
        else:
            self._make(item)

    def _make(self, item: Item) -> None:
        if item.sort == "queue":
            self._make_queue(item)
        elif item.sort == "topic":
            self.topics[item.name] = Topic(item.uuid, item.name, topic_policy_for(item.settings), [])
            self._add_partitions(item)
        elif item.sort == "schedule":
            schedule = self.schedules[item.name] = _schedule(item)
            self._add(schedule)
        elif item.sort == "producer":
            self.named.set(item.name, _opened(item))
        else:
            group = Group(item.uuid, item.name)
            self.groups[item.name] = group
            self._add(group)

    def _add_partitions(self, item: Item) -> None:
        """Those of a topic that are not there yet: all, or the ones that it was given later."""
        topic = self.topics[item.name]
        for number in range(len(topic.partitions), len(item.logs)):
            uuid = item.logs[number]
            partition = Partition(uuid, item.name, number, topic.policy, Log(uuid, self.use))
            partition.within = self._within(topic.policy.durability)
            topic.partitions.append(partition)
            self._add(partition)

    def _make_queue(self, item: Item) -> None:
        policy = policy_for(item.name, item.settings)
        if policy.source is not None:
            self._add_lanes(item, policy, policy.source)
            return
        log = Log(item.uuid, self.use)
        queue = Queue(item.uuid, item.name, policy, log, self.tokens, self._random)
        self._add_lane(queue, self._within(policy.durability))

    def _add_lanes(self, item: Item, policy: Policy, source: str) -> None:
        """Machines for the partitions of its topic that have none yet."""
        front = self.queues.get(item.name)
        known = len(front.lanes) if front is not None else 0
        within = self._within(policy.durability)
        for partition, uuid in zip(self.topics[source].partitions[known:], item.logs[known:], strict=False):
            lane = Queue(uuid, item.name, policy, partition.log, self.tokens, self._random, front)
            front = front or lane
            partition.readers.append(lane)
            self._add_lane(lane, min(within, partition.within))

    def _add_lane(self, queue: Queue, within: int) -> None:
        queue.within = within
        self.queues.setdefault(queue.name, queue)
        self._add(queue)

    def _add(self, machine: Queue | Partition | Group | Schedule) -> None:
        self._machines[machine.uuid] = machine
        early = self._early.pop(machine.uuid, None)
        if early is not None and early.data is not None:
            machine.restore(memoryview(early.data))
            machine.changed_at = early.row.as_of

    def _alter(self, item: Item) -> None:
        if item.sort == "queue":
            policy = policy_for(item.name, item.settings)
            for queue in self.queues[item.name].lanes:
                queue.obey(policy)
                queue.within = self._within(policy.durability)
            if policy.source is not None:
                self._add_lanes(item, policy, policy.source)
        elif item.sort == "schedule":
            altered, schedule = _schedule(item), self.schedules[item.name]
            schedule.rhythm, schedule.batch = altered.rhythm, altered.batch
        elif item.sort == "producer":
            self.named.set(item.name, _opened(item))
        else:
            topic = self.topics[item.name]._replace(policy=topic_policy_for(item.settings))
            self.topics[item.name] = topic
            for partition in topic.partitions:
                partition.policy = topic.policy
                partition.within = self._within(topic.policy.durability)
            self._add_partitions(item)

    def _within(self, durability: str | None) -> int:
        return self.within if durability is None else parse(durability)

    def _unmake(self, item: Item) -> None:
        if item.sort == "queue":
            queue = self.queues.pop(item.name)
            for lane in queue.lanes:
                if lane.borrowed:
                    self.topics[lane.policy.source or ""].partitions[lane.partition].readers.remove(lane)
                else:
                    lane.log.trim(lane.log.end)
                self._remove(lane)
        elif item.sort == "topic":
            topic = self.topics.pop(item.name)
            for partition in topic.partitions:
                partition.log.trim(partition.log.end)
                self._remove(partition)
        elif item.sort == "schedule":
            self._remove(self.schedules.pop(item.name))
        elif item.sort == "producer":
            self.named.remove(item.name)
        else:
            self._remove(self.groups.pop(item.name))

    def _remove(self, machine: Machine) -> None:
        del self._machines[machine.uuid]
        self.corrupt.discard(machine.uuid)

    # ---- Looking up

    def all(self) -> Iterator[Machine]:
        """Every machine, node and catalogue first."""
        yield from self._machines.values()

    def get(self, uuid: bytes) -> Any:
        """The machine of that uuid, None if there is none."""
        return self._machines.get(uuid)

    def lanes(self) -> Iterator[Queue]:
        """Every machine of every queue."""
        for queue in self.queues.values():
            yield from queue.lanes

    def owners(self) -> Iterator[Queue | Partition]:
        """Machines with a log."""
        for machine in self._machines.values():
            if isinstance(machine, Partition) or (isinstance(machine, Queue) and not machine.borrowed):
                yield machine

    def owner(self, uuid: bytes) -> Queue | Partition | None:
        """The machine with that log."""
        machine = self._machines.get(uuid)
        return machine if isinstance(machine, Queue | Partition) else None

    def compacted(self) -> Iterator[Partition]:
        """Partitions of topics that are compacted, but for corrupt ones."""
        for topic in list(self.topics.values()):
            if topic.policy.compacts:
                yield from (each for each in topic.partitions if each.uuid not in self.corrupt)

    def queue(self, name: str, *, whole: bool = True) -> Queue:
        """The queue of that name. Raises `NotFound`, or `Corrupt` unless a damaged one will do."""
        queue = self.queues.get(name)
        if queue is None:
            catalogue.check_name(name, derived=True)
            raise NotFound(f"no queue {name[:300]!r}", hint=f"create it: penstock queue create {name[:300]}")
        if whole:
            for lane in queue.lanes:
                if lane.uuid in self.corrupt or lane.log.uuid in self.corrupt:
                    self._check_whole(lane.uuid, f"queue {name!r}")
                    self._check_whole(lane.log.uuid, f"a partition of {queue.policy.source!r}")
        return queue

    def takes_dead_letters(self, name: str) -> bool:
        """Some queue's messages go there when they are dead."""
        return self.sends_dead_letters(name) is not None

    def sends_dead_letters(self, name: str) -> str | None:
        """The name of a queue whose messages go there when they are dead; None if there is none."""
        senders = (queue.name for queue in self.queues.values() if queue.policy.dead_letter == name)
        return next(senders, None)

    def topic(self, name: str) -> Topic:
        """The topic of that name. Raises `NotFound`."""
        topic = self.topics.get(name)
        if topic is None:
            catalogue.check_name(name)
            raise NotFound(f"no topic {name[:300]!r}", hint=f"create it: penstock topic create {name[:300]}")
        return topic

    def partition(self, name: str, number: int) -> Partition:
        """One partition of a topic. Raises `NotFound`, `Invalid` or `Corrupt`."""
        partition = self.topic(name).partition(number)
        self._check_whole(partition.uuid, f"partition {number} of topic {name!r}")
        return partition

    def group(self, name: str) -> Group:
        """The group of that name. Raises `NotFound` or `Corrupt`."""
        group = self.groups.get(name)
        if group is None:
            raise NotFound(f"no group {name[:300]!r}", hint="a group exists from its first commit on")
        self._check_whole(group.uuid, f"group {name!r}")
        return group

    def schedule(self, name: str) -> Schedule:
        """The schedule of that name. Raises `NotFound` or `Corrupt`."""
        schedule = self.schedules.get(name)
        if schedule is None:
            raise NotFound(f"no schedule {name[:300]!r}", hint="list them: penstock schedule list")
        self._check_whole(schedule.uuid, f"schedule {name!r}")
        return schedule

    def _check_whole(self, uuid: bytes, what: str) -> None:
        if uuid in self.corrupt:
            raise Corrupt(f"both snapshots of {what} are damaged, or changes of it were cut")


def _schedule(item: Item) -> Schedule:
    """The machine of a schedule, as its item has it."""
    rhythm = rhythm_of(item.settings["rhythm"])
    settings = item.settings
    return Schedule(item.uuid, item.name, settings["queue"], rhythm, settings["batch"], settings["next_at"])


def _opened(item: Item) -> Opened:
    """A producer, as its item has it."""
    return Opened(item.settings["number"], item.settings["epoch"])
