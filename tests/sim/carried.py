"""What of each feature a broker brings with it from one life into the next: so that a run can say which of
them it has seen over which kind of death."""

from collections.abc import Callable, Iterator

from tests.sim.members import PICKERS
from tests.sim.streams import PICKED

from penstock_broker.core import Core
from penstock_broker.queues.message_groups import JOB_PREFIX
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import State
from penstock_protocol.limits import LISTING_MAX

DEATHS = ("clean stop", "kill", "power cut", "crash during recovery")


def _grouped(queue: Queue) -> bool:
    return any(not name.startswith(JOB_PREFIX) for name in queue.indexes.groups.named)


def _settled_behind(queue: Queue) -> bool:
    """Something is settled, though what lies before it is not."""
    states = queue.states
    return states.counts[State.SETTLED] > states.head


CARRIED: dict[str, Callable[[Queue], object]] = {
    "delay": lambda queue: queue.count(State.DELAYED),
    "ttl": lambda queue: len(queue.indexes.expiries),
    "priority": lambda queue: queue.states.order.ranks,
    "message group": lambda queue: not queue.policy.fair and _grouped(queue),
    "parked group": lambda queue: queue.indexes.groups.parked,
    "tenant": lambda queue: queue.policy.fair and _grouped(queue),
    "dedup id": lambda queue: len(queue.indexes.dedup),
    "job key": lambda queue: any(name.startswith(JOB_PREFIX) for name in queue.indexes.groups.named),
    "progress of work": lambda queue: queue.indexes.notes.checkpoints,
    "tries": lambda queue: queue.indexes.notes.attempts,
    "replayed message": lambda queue: queue.indexes.replayed,
    "pause": lambda queue: queue.policy.paused,
    "settled record": lambda queue: queue.borrowed and _settled_behind(queue),
    "failed record": lambda queue: queue.borrowed and bool(queue.histories),
    "throw-away queue": lambda queue: queue.policy.exclusive or queue.policy.expires,
}


def _fenced(core: Core) -> bool:
    """Some name was opened more than once."""
    items = core.registry.catalogue.page("producer", "", "", LISTING_MAX)[0]
    return any(item.settings["epoch"] > 1 for item in items)


def _picked(core: Core) -> bool:
    """A group with a filter stored how far it is."""
    groups = filter(None, map(core.registry.groups.get, (PICKED, PICKERS)))
    return any(committed.offset for group in groups for committed in group.offsets.values())


OF_NODES: dict[str, Callable[[Core], object]] = {
    "schedule": lambda core: core.registry.schedules,
    "fenced producer": _fenced,
    "filtered group": _picked,
}


def carried(core: Core) -> Iterator[str]:
    """The features of which something was there when that life began."""
    queues = list(core.registry.lanes())
    yield from (what for what, has in CARRIED.items() if any(map(has, queues)))
    yield from (what for what, has in OF_NODES.items() if has(core))


OVER_DEATHS = tuple(f"{what} over {death}" for what in (*CARRIED, *OF_NODES) for death in DEATHS)
"""What a range of seeds must have seen."""
