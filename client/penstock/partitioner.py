"""Which partition a record goes to, where the user decides: `client.topic(name, partitioner=…)`."""

from collections.abc import Callable
from typing import TypeAlias

from penstock.errors import Invalid

Partitioner: TypeAlias = Callable[[bytes | None, int], int | None]
"""(key or None, number of partitions) → partition from 0 on; None: as without a partitioner. It is asked for
every record that has no partition of its own, on the event loop."""


def checked(partitioner: Partitioner) -> Partitioner:
    """The same, but whatever goes wrong in it is `Invalid`, and says so."""
    if not callable(partitioner):
        raise Invalid(
            f"partitioner={partitioner!r} is not known",
            hint="pass a function (key, partitions) -> partition, or None for Kafka's murmur2",
        )
    name = getattr(partitioner, "__qualname__", repr(partitioner))

    def asked(key: bytes | None, partitions: int) -> int | None:
        try:
            partition = partitioner(key, partitions)
        except Exception as error:
            raise Invalid(
                f"partitioner {name} raised {type(error).__name__}: {error}",
                hint="return None for a key that it does not know",
            ) from error
        if partition is not None and (type(partition) is not int or not 0 <= partition < partitions):
            raise Invalid(
                f"partitioner {name} returned {partition!r} for key {key!r}",
                hint=f"there are partitions 0 to {partitions - 1}; None leaves the choice to the default",
            )
        return partition

    return asked
