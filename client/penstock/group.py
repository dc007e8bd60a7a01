"""The handle of one consumer group: its committed offsets and its lag. It keeps no state."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock import checks
from penstock.errors import Invalid
from penstock.values import (
    GroupDescription,
    GroupMember,
    GroupPartition,
    TopicPartition,
    described,
    instant_of,
)
from penstock_protocol.limits import FIELDS_ARRAY_MAX
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.messages.topics import Commit, DescribeGroup, Offsets

if TYPE_CHECKING:
    from penstock.client import Client
    from penstock.span import Start


class CommittedOffset(int):
    """The next offset a group reads, an int, with what was stored beside it: `.metadata`, `.time` (UTC)."""

    metadata: str
    time: datetime

    def __new__(cls, offset: int, metadata: str = "", time_ms: int = 0) -> "CommittedOffset":
        """From the wire's form."""
        made = super().__new__(cls, offset)
        made.metadata = metadata
        made.time = instant_of(time_ms)
        return made


class OffsetChange(NamedTuple):
    """Where a group stood in a partition (None: nowhere), and from where it goes on."""

    topic: str
    partition: int
    current: int | None
    to: int


class Target(NamedTuple):
    """Where a group is to go on: an instant, an offset, or so many records from where it stands."""

    instant: datetime | None = None
    absolute: int | None = None
    shift: int | None = None

    @classmethod
    def of(cls, to: "Start | int | str") -> "Target":
        """From what `Group.reset` takes. Raises `Invalid`."""
        if isinstance(to, datetime):
            return cls(instant=to)
        if type(to) is int and to >= 0:
            return cls(absolute=to)
        if isinstance(to, str) and to in PLACES:
            return cls(absolute=PLACES[to])
        if isinstance(to, str) and re.fullmatch(r"[+-]\d{1,18}", to):
            return cls(shift=int(to))
        raise Invalid(f"{to!r} is no place", hint="earliest, latest, an instant, an offset, -100 or +100")

    def offset(self, current: int | None, start: int, end: int) -> int | None:
        """The next offset to read in a partition, from start to end; None: nothing to shift."""
        to = self.absolute
        if self.shift is not None and current is not None:
            to = current + self.shift
        return None if to is None else min(max(to, start), end)


PLACES = {"earliest": 0, "latest": 2**63}


class Group:
    """A group by name; it exists once it has committed, or has members. Raises `Invalid` for what cannot be a
    name."""

    def __init__(self, client: "Client", name: str) -> None:
        self.name = checks.name("group", name)
        self._client = client

    async def describe(self, *, timeout: float | None = None) -> GroupDescription:
        """Who is in the group, and where it stands in each partition it committed on. Raises `NotFound`."""
        reply = await self._client.wire.request(DescribeGroup(self.name), timeout=timeout)
        document = unpack_document(reply.payload)
        return GroupDescription(
            document["name"],
            tuple(described(GroupPartition, each) for each in document["partitions"]),
            document["state"],
            document["generation"],
            document["assignor"],
            tuple(_member(each) for each in document["members"]),
        )

    async def offsets(self, topic: str, *, timeout: float | None = None) -> dict[int, CommittedOffset]:
        """Per partition with a commit, the next offset to read. Raises `NotFound`, `Invalid`."""
        checks.name("topic", topic)
        reply = await self._client.wire.request(Offsets(self.name, topic), timeout=timeout)
        rows: list[tuple[int, int, str, int]] = unpack_document(reply.payload)
        return {
            partition: CommittedOffset(offset, metadata, time) for partition, offset, metadata, time in rows
        }

    async def commit(
        self,
        topic: str,
        offsets: Mapping[int, int],
        *,
        metadata: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Store the next offset to read of each partition given; durable on return.

        `metadata`: text beside it, at most 4 KiB. More than 64 partitions are stored 64 at a time. Raises
        `NotFound`, `Stale` while the group has members; `Invalid`, and nothing is stored.
        """
        checks.name("topic", topic)
        if not isinstance(offsets, Mapping):
            raise Invalid(
                f"offsets={offsets!r} is no mapping", hint="the next offset by partition, like {0: 42}"
            )
        for partition, offset in offsets.items():
            checks.partition(partition)
            checks.whole(f"offsets[{partition!r}]", offset)
        if metadata is not None:
            checks.metadata(metadata)
        await self.store(topic, offsets, metadata, timeout=timeout)

    async def store(
        self,
        topic: str,
        offsets: Mapping[int, int],
        metadata: str | None = None,
        *,
        member: bytes | None = None,
        generation: int = 0,
        timeout: float | None = None,
    ) -> None:
        """As `commit`, for this package: by a member, in the generation it was told last."""
        rows = [(partition, int(offset), metadata or "") for partition, offset in offsets.items()]
        for at in range(0, len(rows), FIELDS_ARRAY_MAX):
            some = tuple(rows[at : at + FIELDS_ARRAY_MAX])
            commit = Commit(self.name, topic, some, member, generation)
            await self._client.wire.request(commit, timeout=timeout)

    async def reset(
        self,
        topic: str,
        to: "Start | int | str",
        *,
        partition: int | None = None,
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> list[OffsetChange]:
        """Let the group go on somewhere else in a topic: in one partition, or in all of them.

        `to`: "earliest", "latest", an instant, an offset; or a shift from where the group stands, as text:
        "-100" or "+100". All of it ends up between start and end of the partition. A shift leaves out
        partitions without a commit. `dry_run`: only say what would change. Raises `Stale` while the group has
        members, `NotFound`, `Invalid`.
        """
        target = Target.of(to)
        checks.name("topic", topic)
        if partition is not None:
            checks.partition(partition)
        described = await self._client.describe_topic(topic, timeout=timeout)
        count = len(described.partitions)
        if partition is not None and not 0 <= partition < count:
            raise Invalid(f"{topic!r} has no partition {partition}", hint=f"it has {count}, the first is 0")
        committed = await self.offsets(topic, timeout=timeout)
        changes = []
        for each in described.partitions:
            if partition is None or each.partition == partition:
                before = committed.get(each.partition)
                instant = target.instant
                if instant is not None:
                    found = await self._client.topic(topic).offset(each.partition, instant, timeout=timeout)
                    after: int | None = min(max(found, each.start), each.end)
                else:
                    after = target.offset(before, each.start, each.end)
                if after is not None:
                    changes.append(OffsetChange(topic, each.partition, before and int(before), after))
        if changes and not dry_run:
            await self.commit(topic, {each.partition: each.to for each in changes}, timeout=timeout)
        return changes

    async def delete(self, *, timeout: float | None = None) -> None:
        """Delete the group with its offsets. Raises `Conflict` while it has members, `NotFound`."""
        await self._client.delete_group(self.name, timeout=timeout)

    def __repr__(self) -> str:
        return f"<Group {self.name!r}>"


def _member(document: dict[str, Any]) -> GroupMember:
    return GroupMember(
        document["member"],
        document["client"],
        document["instance"],
        document["state"],
        tuple(document["topics"]),
        tuple(TopicPartition(topic, partition) for topic, partition in document["partitions"]),
    )
