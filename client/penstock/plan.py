"""What a consumer is asked for, in one piece, and what of it does not go together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from penstock.errors import Invalid
from penstock.handover import Callback
from penstock.pacing import Rate
from penstock.span import Start, Until
from penstock.values import TopicPartition

Assignor: TypeAlias = Literal["sticky", "uniform", "range", "round_robin"]
"""How partitions are shared out: even over all topics, moving few; even per topic; in rows; in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a consumer is asked for; see `Topic.consumer`. `partitions` None: those of the topics, as a member
    of the group if there is one."""

    group: str | None
    topics: tuple[str, ...]
    partitions: tuple[TopicPartition, ...] | None
    start: Start | int
    auto_commit: bool
    until: Until | Mapping[TopicPartition, int] | None
    rate: Rate | None
    where: dict[str, Any] | None
    """As it goes over the wire."""
    instance: str | None
    assignor: Assignor
    on_assigned: Callback | None
    on_revoked: Callback | None

    @property
    def is_member(self) -> bool:
        """The broker says which partitions it reads."""
        return self.group is not None and self.partitions is None

    def check(self) -> None:
        """Raises `Invalid` for what does not go together."""
        if self.partitions is not None and not self.partitions:
            raise Invalid("a consumer without partitions reads nothing", hint="for instance partitions=[0]")
        if not self.topics:
            raise Invalid("a consumer without topics reads nothing", hint='for instance topics=["orders"]')
        if self.group is None and self.auto_commit:
            raise Invalid("auto_commit needs a group to commit for", hint="name a group instead of None")
        asked = {"instance": self.instance, "on_assigned": self.on_assigned, "on_revoked": self.on_revoked}
        given = [name for name, value in asked.items() if value is not None]
        if given and not self.is_member:
            raise Invalid(
                f"{given[0]} is for members of a group, who are assigned their partitions",
                hint="name a group and leave out partitions=",
            )
