"""What exists on the node, as the history names it: queues and partitions, life by life of their names.

Data lives under a uuid, not a name, so a re-created name is another place. Which place a name means is
looked up in the node itself, when a request reaches it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock_broker.core import Core
from penstock_broker.queues.policy import DEAD_SUFFIX, Policy

if TYPE_CHECKING:
    from tests.sim.world import World


class Place:
    """A queue, or a partition of a topic (`number`). `label`: its name in the history."""

    def __init__(self, name: str, label: str, sort: str, number: int = 0) -> None:
        self.name = name
        self.label = label
        self.sort = sort
        self.number = number
        self.alive = True
        self.created = False
        """Somebody was told that it was created."""
        self.deleting = False
        """Somebody asked to delete it."""
        self.deleted = False
        """Somebody was told that it was deleted."""

    def __repr__(self) -> str:
        return self.label


class Places:
    """All places there ever were, by uuid."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.by_uuid: dict[bytes, Place] = {}
        self._lives: dict[str, int] = {}

    def alive(self, sort: str) -> list[Place]:
        """Those that exist now."""
        return [place for place in self.by_uuid.values() if place.alive and place.sort == sort]

    def look(self, core: Core) -> None:
        """Find out what exists."""
        for queue in core.registry.queues.values():
            if queue.uuid not in self.by_uuid:
                self._new_queue(queue.uuid, queue.name, queue.policy)
        for topic in core.registry.topics.values():
            if topic.partitions[0].uuid not in self.by_uuid:
                label = self._label(topic.name)
                for partition in topic.partitions:
                    place = Place(topic.name, f"{label}/{partition.number}", "log", partition.number)
                    self.by_uuid[partition.uuid] = place
        for uuid, place in self.by_uuid.items():
            place.alive = core.registry.get(uuid) is not None

    def check_after_start(self) -> None:
        """What was said to exist exists, what was said to be gone is gone."""
        for place in self.by_uuid.values():
            assert place.alive or not place.created or place.deleting, f"{place} vanished in a crash"
            assert not (place.alive and place.deleted), f"{place} came back after it was deleted"

    def _label(self, name: str) -> str:
        """A dead-letter queue is never deleted here: all its lives are one place, for a life that a crash
        undid was seen by nobody."""
        if name.endswith(DEAD_SUFFIX):
            return name
        self._lives[name] = self._lives.get(name, 0) + 1
        return f"{name}#{self._lives[name]}"

    def _new_queue(self, uuid: bytes, name: str, policy: Policy) -> None:
        place = self.by_uuid[uuid] = Place(name, self._label(name), "queue")
        self._world.recorder.note("settings", queue=place.label, **_settings(policy))


def _settings(policy: Policy) -> dict[str, Any]:
    return {
        "max_attempts": policy.max_attempts,
        "max_deliveries": policy.max_deliveries,
        "dead_letter": policy.dead_letter,
        "lease": policy.visibility_timeout / 1000,
        "backoff": policy.retry_max * (1 + policy.retry_jitter) / 1000,
    }
