"""Whose uuid that is: what tools call machines and logs, learnt from checkpoints and from the journal."""

from penstock_broker import catalogue
from penstock_broker.catalogue import CATALOGUE, Catalogue, Item
from penstock_broker.storage import checkpoint
from penstock_broker.storage.entries import Kind, Part
from penstock_broker.storage.files import Readable, StorageError
from penstock_broker.storage.node import NODE

KINDS = {1: "node", 2: "catalogue", 3: "queue", 4: "partition", 5: "group", 6: "schedule"}
"""Kinds of machines in a checkpoint."""


class Names:
    """Labels like `queue jobs`, `topic orders/0`, `group billing`; addresses like `jobs` and `orders/0`."""

    def __init__(self) -> None:
        self._labels = {NODE: "node", CATALOGUE: "catalogue"}
        self._addresses: dict[bytes, str] = {}

    def learn(self, files: Readable) -> "Names":
        """What the checkpoints know, the newer one last."""
        for slot in reversed(whole_slots(files)):
            row = slot.rows.get(CATALOGUE)
            data = checkpoint.load(files, slot, row) if row is not None else None
            if data is not None:
                self.learn_catalogue(data)
        return self

    def learn_catalogue(self, data: bytes) -> None:
        """A snapshot of the catalogue that holds."""
        known = Catalogue()
        known.restore(memoryview(data))
        for sort in catalogue.SORTS:
            for item in known.items(sort).values():
                self._learn_item(item)

    def learn_part(self, part: Part) -> None:
        """A part of the journal, if it makes something, or more of it: partitions."""
        if part.target == CATALOGUE and part.kind in (Kind.CREATE, Kind.ALTER):
            self._learn_item(catalogue.decode_item(part.detail))

    def _learn_item(self, item: Item) -> None:
        self._labels[item.uuid] = f"{item.sort} {item.name}"
        if item.sort == "queue":
            self._addresses[item.uuid] = item.name
        for number, uuid in enumerate(item.logs):  # of a topic's partitions, or of a queue over them
            self._labels[uuid] = f"{item.sort} {item.name}/{number}"
            self._addresses[uuid] = f"{item.name}/{number}"

    def label(self, uuid: bytes) -> str:
        """What people call it; its uuid if nobody knows."""
        return self._labels.get(uuid) or uuid.hex()

    def address(self, uuid: bytes) -> str:
        """What people type for a log; its uuid if nobody knows."""
        return self._addresses.get(uuid) or uuid.hex()

    def is_meant(self, uuid: bytes, typed: str) -> bool:
        """`typed` is the address of that log, its uuid, or the topic it is a partition of."""
        address = self.address(uuid)
        return typed in (address, uuid.hex()) or address.startswith(f"{typed}/")


def whole_slots(files: Readable) -> list[checkpoint.Slot]:
    """Checkpoints whose header and directory hold, newest first; none of a newer format."""
    slots = []
    for name in checkpoint.SLOTS:
        try:
            slot = checkpoint.read(files, name) if name in files.names() else None
        except (StorageError, OSError):
            continue
        if slot is not None:
            slots.append(slot)
    return sorted(slots, key=lambda slot: -slot.generation)
