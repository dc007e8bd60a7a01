"""A topic: its settings, and its partitions in order."""

from typing import NamedTuple

from penstock_broker.topics.partition import Partition
from penstock_broker.topics.policy import Policy
from penstock_protocol.errors import Invalid


class Topic(NamedTuple):
    """One topic."""

    uuid: bytes
    name: str
    policy: Policy
    partitions: list[Partition]

    def partition(self, number: int) -> Partition:
        """Partition `number`. Raises `Invalid` if there is none."""
        if number >= len(self.partitions):
            raise Invalid(
                f"topic {self.name!r} has no partition {number}",
                hint=f"it has partitions 0 to {len(self.partitions) - 1}",
            )
        return self.partitions[number]
