"""A topic: its settings, and its partitions in order."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from penstock_broker.topics.partition import Partition
from penstock_protocol.errors import Invalid
from penstock_protocol.limits import PARTITIONS_MAX

DEFAULTS: dict[str, Any] = {"partitions": 1}


class Topic(NamedTuple):
    """One topic."""

    uuid: bytes
    name: str
    settings: dict[str, Any]
    partitions: list[Partition]

    def partition(self, number: int) -> Partition:
        """Partition `number`. Raises `Invalid` if there is none."""
        if number >= len(self.partitions):
            raise Invalid(
                f"topic {self.name!r} has no partition {number}",
                hint=f"it has partitions 0 to {len(self.partitions) - 1}",
            )
        return self.partitions[number]


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, if each is known and in its range. Raises `Invalid`."""
    for name, value in settings.items():
        if name != "partitions":
            raise Invalid(f"a topic has no setting {name!r}", hint="known: partitions")
        if type(value) is not int or not 1 <= value <= PARTITIONS_MAX:
            raise Invalid(f"partitions={value!r} is not allowed", hint=f"allowed: 1 to {PARTITIONS_MAX:,}")
    return dict(settings)
