"""What exists on the node, as the history names it: queues and partitions, life by life of their names.

Data lives under a uuid, not a name, so a re-created name is another place. Which place a name means is
looked up in the node itself, when a request reaches it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.sim.features import is_throwaway

from penstock_broker.core import Core
from penstock_broker.queues.policy import DEAD_SUFFIX, Policy

if TYPE_CHECKING:
    from tests.sim.world import World

BEYOND_PLAIN = (
    *("on_expiry", "job_scope", "priority_ageing", "overflow"),
    *("fair", "group_concurrency", "group_failure", "content_dedup", "rate", "group_rate"),
)
"""Settings of a queue with features that the history names."""


class Place:
    """A queue, or a partition of a topic (`number`). `label`: its name in the history."""

    def __init__(self, name: str, label: str, sort: str, number: int = 0, uuid: bytes = b"") -> None:
        self.uuid = uuid
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
        self.ends_by_itself = False
        """The broker deletes it when nobody needs it."""
        self.over: str | None = None
        """Label of the topic whose records are its messages."""

    @property
    def takes(self) -> bool:
        """Clients publish there: it is a queue, of its own, and not where dead letters go."""
        return "#" in self.label and self.over is None

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
        for topic in core.registry.topics.values():
            if topic.partitions[0].uuid not in self.by_uuid:
                label = self._label(topic.name)
                for partition in topic.partitions:
                    place = Place(topic.name, f"{label}/{partition.number}", "log", partition.number)
                    self.by_uuid[partition.uuid] = place
        for queue in core.registry.queues.values():
            if queue.uuid not in self.by_uuid:
                over = self.by_uuid[queue.log.uuid].label.partition("/")[0] if queue.borrowed else None
                self._new_queue(queue.uuid, queue.name, queue.policy, over)
        for uuid, place in self.by_uuid.items():
            alive = core.registry.get(uuid) is not None
            self._world.met("queue ended by itself", when=place.alive and not alive and place.ends_by_itself)
            place.alive = alive

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

    def _new_queue(self, uuid: bytes, name: str, policy: Policy, over: str | None) -> None:
        place = self.by_uuid[uuid] = Place(name, self._label(name), "queue", uuid=uuid)
        place.ends_by_itself = place.deleting = is_throwaway(name)
        place.over = over
        settings = _settings(policy)
        if self._world.features.is_special(name):
            once = "once" in self._world.features.words_of(name)
            source = {"source": over, "source_start": policy.source_start} if over is not None else {}
            settings["special"] = _special(policy) | source | ({"once": True} if once else {})
        self._world.recorder.note("settings", queue=place.label, **settings)


def _special(policy: Policy) -> dict[str, Any]:
    return {
        "delay": policy.delay / 1000,
        "ttl": None if policy.ttl is None else policy.ttl / 1000,
        "dedup_window": policy.dedup_window / 1000,
        **{name: getattr(policy, name) for name in BEYOND_PLAIN},
    }


def _settings(policy: Policy) -> dict[str, Any]:
    return {
        "max_attempts": policy.max_attempts,
        "max_deliveries": policy.max_deliveries,
        "dead_letter": policy.dead_letter,
        "lease": policy.visibility_timeout / 1000,
        "backoff": policy.retry_max * (1 + policy.retry_jitter) / 1000,
    }
