"""Who belongs to which consumer group, for the whole node: members come, are heard of, are told what they may
read, and go. The groups' offsets, which are durable, are elsewhere; here nothing is, but that a group which
nobody uses any more is forgotten in the end.
"""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from penstock_broker.alarms import Alarms
from penstock_broker.answers import Call
from penstock_broker.catalogue import Item, part_for
from penstock_broker.clock import Now
from penstock_broker.facts import MemberFacts
from penstock_broker.groups.assignors import Place
from penstock_broker.groups.coordinator import Coordinator, Generations, Member, State, fenced
from penstock_broker.groups.offsets import Group
from penstock_broker.session import Session
from penstock_broker.storage.entries import Kind
from penstock_protocol.errors import Stale
from penstock_protocol.messages.groups import Assignment, Heartbeat, Join
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document

if TYPE_CHECKING:
    from penstock_broker.core import Core

FIRST_BOOT = 1
REFRESH_MS = 86_400_000
"""Offsets younger than that need not be stored again when a group empties."""


class Membership:
    """The coordinators of a node's groups."""

    def __init__(self, core: "Core", alarms: Alarms[Hashable], boot: int, now: Now) -> None:
        self._core = core
        self._alarms = alarms
        self._generations = Generations()
        self._generations.begin(boot)
        self._groups: dict[str, Coordinator] = {}
        self._touched: dict[Coordinator, None] = {}
        """Where somebody's assignment may be new."""
        self._sizes_of = -1
        """The registry's count of changes that `_sizes` reflects."""
        self._sizes: dict[str, int] = {}
        settings = core.settings
        self._returning_until = now.mono + settings.group_session_ms if boot > FIRST_BOOT else 0
        self._forgets_from = now.mono + settings.group_session_ms + settings.session_grace_ms
        """Before, members of the life before may still come back."""

    def get(self, group: str) -> Coordinator | None:
        """The coordinator of a group; None: it has no members."""
        return self._groups.get(group)

    def counts(self) -> list[MemberFacts]:
        """What can be observed."""
        return [
            MemberFacts(group.name, len(group.members), sum(len(m.yielding) for m in group.members.values()))
            for group in self._groups.values()
        ]

    # ---- Requests

    def join(self, call: Call, request: Join, claims: list[Place]) -> None:
        """Become a member; answered at the end of the turn with what it may read."""
        settings = self._core.settings
        group = self._groups.get(request.group)
        if group is None:
            group = Coordinator(
                request.group,
                self._generations,
                settings.group_session_ms,
                settings.group_rebalance_ms,
                settings.group_heartbeat_ms,
                returning_until=self._returning_until,
            )
            group.resized(self._known_sizes())
        member = group.join(
            request.member, request.instance, request.topics, request.assignor, claims, call.now.mono
        )
        self._groups[request.group] = group
        self._belongs(member, call)
        if group.closed_until is not None:
            self._alarms.set(group, group.closed_until)
        if member.waiting is not None:  # of who sat here before
            self._core.answer(member.waiting, fenced(request.group))
        member.waiting, member.seen = call, 0

    def heartbeat(self, call: Call, request: Heartbeat) -> None:
        """A sign of life; answered when there is something new, or when the next one is due."""
        group = self._group(request.group)
        member = group.heartbeat(request.member, request.done, call.now.mono)
        self._belongs(member, call)
        if not member.told:  # it joined in this very turn
            group.settle(call.now.mono)
        if member.waiting is not None:
            self._tell(member, member.waiting, seen=member.seen)
        if request.seen != member.told:
            self._tell(member, call)
        else:
            member.waiting, member.seen = call, request.seen
            self._alarms.set(member, member.wake_at)

    def leave(self, call: Call, group: str, member: bytes) -> None:
        """Give everything up."""
        found = self._group(group)
        found.leave(member)
        self._touched[found] = None

    def ended(self, session: Session, now: Now) -> None:
        """The session is over."""
        for name in session.groups:
            group = self._groups.get(name)
            if group is not None:
                group.lost(session)
                self._touched[group] = None

    def _belongs(self, member: Member, call: Call) -> None:
        """It is heard of through that connection's session."""
        session = call.connection.session
        assert session is not None
        member.session, member.client = session, session.client
        session.groups[member.group] = None
        self._touched[self._groups[member.group]] = None

    # ---- Time

    def due(self, key: Coordinator | Member, now: Now) -> None:
        """A member was not heard of, or its heartbeat waited for long enough; or a group is open again."""
        group = key if isinstance(key, Coordinator) else self._groups.get(key.group)
        if group is None:
            return
        self._touched[group] = None
        if isinstance(key, Coordinator):
            key.opened(now.mono)
        elif group.members.get(key.id) is key and not group.late(key, now.mono):
            if key.waiting is not None and key.reply_at <= now.mono:
                self._tell(key, key.waiting, seen=key.seen)
            self._alarms.set(key, key.wake_at)

    @property
    def stirred(self) -> bool:
        """There is something for `run` to do."""
        return bool(self._touched) or self._sizes_of != self._core.registry.changes

    def run(self, now: Now) -> None:
        """Once per turn: think over who is to have what, and tell whoever's assignment is new."""
        if self._sizes_of != self._core.registry.changes:
            sizes = self._known_sizes()
            for group in self._groups.values():
                group.resized(sizes)
                self._touched[group] = None
        touched, self._touched = self._touched, {}
        for group in touched:
            group.settle(now.mono)
            changed, group.changed = group.changed, {}
            for member in changed:
                if member.state is State.GONE:
                    self._dismiss(member)
                elif member.waiting is not None:
                    self._tell(member, member.waiting)
                self._alarms.set(member, None if member.state is State.GONE else member.wake_at)
            if not group.members and self._groups.get(group.name) is group:
                self._emptied(group, now)

    def _known_sizes(self) -> dict[str, int]:
        registry = self._core.registry
        if self._sizes_of != registry.changes:
            self._sizes_of = registry.changes
            self._sizes = {topic.name: len(topic.partitions) for topic in registry.topics.values()}
        return self._sizes

    def _emptied(self, coordinator: Coordinator, now: Now) -> None:
        """Nobody is left. That is when the time begins to count after which the group's offsets go; so they
        are stored again if they are old."""
        del self._groups[coordinator.name]
        self._alarms.set(coordinator, None)
        group = self._core.registry.groups.get(coordinator.name)
        if group is None or self._core.stopping or _newest(group) > now.wall - REFRESH_MS:
            return
        rows = [(log, found.offset, found.metadata) for log, found in group.offsets.items()]
        self._core.engine.append([group.commit_part(rows)], wall=now.wall)

    def forget(self, now: Now) -> None:
        """Groups that are empty for longer than offsets are kept are gone; looked at now and then."""
        if now.mono < self._forgets_from:
            return
        too_old = now.wall - self._core.settings.group_offsets_ms
        parts = [
            part_for(Kind.DELETE, Item("group", group.name, group.uuid, {}, ()))
            for group in self._core.registry.groups.values()
            if group.name not in self._groups and _newest(group) < too_old
        ]
        if parts:
            self._core.engine.append(parts, wall=now.wall)

    # ---- Answers

    def _group(self, name: str) -> Coordinator:
        group = self._groups.get(name)
        if group is None:
            raise Stale(f"group {name[:300]!r} has no members", hint="join again")
        return group

    def _tell(self, member: Member, call: Call, seen: int = 0) -> None:
        """Answer a JOIN or HEARTBEAT."""
        settings = self._core.settings
        member.waiting = None
        partitions: dict[str, list[int]] = {}
        for topic, number in member.assigned if seen != member.told else ():
            partitions.setdefault(topic, []).append(number)
        told: dict[str, Any] = Assignment(
            member.told,
            settings.group_heartbeat_ms,
            settings.group_session_ms,
            None if seen == member.told else partitions,
        )._asdict()
        self._core.answer(call, Document(pack_document(told)))
        self._alarms.set(member, member.wake_at)

    def _dismiss(self, member: Member) -> None:
        if member.waiting is not None:
            stale = Stale(f"no member of group {member.group!r} any more", hint="join again")
            self._core.answer(member.waiting, stale)
            member.waiting = None


def _newest(group: Group) -> int:
    """When the group was last used, wall ms."""
    return max((found.time for found in group.offsets.values()), default=0)
