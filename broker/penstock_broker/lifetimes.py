"""Queues that end by themselves: those of one session, with it; those nobody uses, after a while. And settled
messages that were kept for long enough.

A queue's session is memory only. After a restart it is whoever consumes from it first, within the grace that
a session has to come back; a queue that nobody claims is gone then.
"""

from typing import TYPE_CHECKING

from penstock_broker.clock import Now
from penstock_broker.queues.queue import Queue
from penstock_broker.session import Session
from penstock_protocol.errors import Conflict

if TYPE_CHECKING:
    from penstock_broker.core import Core


class Lifetimes:
    """Of all queues of a node."""

    def __init__(self, core: "Core", now: Now) -> None:
        self._core = core
        self._began = now.mono
        self._owners: dict[Queue, bytes] = {}
        """Exclusive queues that a session has claimed: its name."""

    def claim(self, queue: Queue, session: Session | None) -> None:
        """That session wants to use the queue. Raises `Conflict` if it is another one's."""
        if not queue.policy.exclusive or session is None:
            return
        if self._owners.setdefault(queue, session.name) != session.name:
            raise Conflict(
                f"queue {queue.name!r} belongs to another session",
                hint="create it without exclusive=True to share it",
            )

    def forget(self, queue: Queue) -> None:
        """The queue is gone."""
        self._owners.pop(queue, None)

    def ended(self, session: Session, now: Now) -> None:
        """The session is over, and so are its queues; in a stop the next start sees to it."""
        if self._core.stopping:
            return
        for queue in [each for each, owner in self._owners.items() if owner == session.name]:
            self._core.delete_queue(queue, now)

    def look(self, now: Now) -> None:
        """What time has brought about; asked once a second."""
        parts = []
        for queue in list(self._core.registry.queues.values()):
            if self._is_over(queue, now):
                self._core.delete_queue(queue, now)
            elif (part := queue.look_at_kept(now.wall)) is not None:
                parts.append(part)
        if parts:
            self._core.engine.append(parts, wall=now.wall)

    def _is_over(self, queue: Queue, now: Now) -> bool:
        policy = queue.policy
        if policy.exclusive and queue not in self._owners:
            return now.mono >= self._began + self._core.settings.session_grace_ms
        if policy.expires is None:
            return False
        if not queue.used_at or len(queue.handout) or queue.leases:
            queue.used_at = now.mono
        return now.mono >= queue.used_at + policy.expires
