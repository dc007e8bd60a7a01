"""The handle of one consumer group: its committed offsets and its lag. It keeps no state."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from penstock.values import GroupDescription, GroupPartition, described, instant_of
from penstock_protocol.limits import FIELDS_ARRAY_MAX
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.messages.topics import Commit, DescribeGroup, Offsets

if TYPE_CHECKING:
    from penstock.client import Client


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


class Group:
    """A group by name; it exists once it has committed."""

    def __init__(self, client: "Client", name: str) -> None:
        self.name = name
        self._client = client

    async def describe(self, *, timeout: float | None = None) -> GroupDescription:
        """Where the group stands in each partition it committed on. Raises `NotFound`."""
        reply = await self._client.wire.request(DescribeGroup(self.name), timeout=timeout)
        document = unpack_document(reply.payload)
        return GroupDescription(
            document["name"], tuple(described(GroupPartition, each) for each in document["partitions"])
        )

    async def offsets(self, topic: str, *, timeout: float | None = None) -> dict[int, CommittedOffset]:
        """Per partition with a commit, the next offset to read."""
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

        `metadata`: text beside it, at most 4 KiB. More than 64 partitions are stored 64 at a time.
        """
        rows = [(partition, int(offset), metadata or "") for partition, offset in offsets.items()]
        for at in range(0, len(rows), FIELDS_ARRAY_MAX):
            some = tuple(rows[at : at + FIELDS_ARRAY_MAX])
            await self._client.wire.request(Commit(self.name, topic, some), timeout=timeout)

    def __repr__(self) -> str:
        return f"<Group {self.name!r}>"
