"""What exists, by name: queues, topics, groups, schedules and producers, with their uuids and settings.

Data lives under a uuid, not a name: a name that is created again never shows old data. The catalogue
holds values, not machines; whoever composes the node makes those from what it says.
"""

import re
from typing import Any, NamedTuple

import msgpack

from penstock_broker.storage.entries import At, Kind, Part
from penstock_protocol.errors import Invalid
from penstock_protocol.limits import NAME_CHARACTERS_MAX, NAME_CHARACTERS_MAX_DERIVED

CATALOGUE = bytes(15) + b"\x02"
"""The uuid that parts of the catalogue are addressed to."""
KIND = 2
"""Its kind in a checkpoint."""
NAME = re.compile(r"[A-Za-z0-9_:-][A-Za-z0-9._:-]*\Z")
SORTS = ("queue", "topic", "group", "schedule", "producer")


class Item(NamedTuple):
    """One thing that exists. `logs`: uuids of a topic's partitions, in order; empty otherwise."""

    sort: str
    name: str
    uuid: bytes
    settings: dict[str, Any]
    logs: tuple[bytes, ...]


def check_name(name: str, *, derived: bool = False) -> None:
    """Raises `Invalid` for what cannot be a name."""
    limit = NAME_CHARACTERS_MAX_DERIVED if derived else NAME_CHARACTERS_MAX
    if not 1 <= len(name) <= limit or NAME.match(name) is None:
        raise Invalid(
            f"{name[:300]!r} cannot be a name",
            hint=f"1 to {limit} characters of A-Z a-z 0-9 . _ : -, not beginning with a dot",
        )


class Catalogue:
    """Folded from CREATE, ALTER and DELETE; each detail is one item as a msgpack array."""

    kind = KIND

    def __init__(self) -> None:
        self.uuid = CATALOGUE
        self.changed_at = 0
        self._items: dict[str, dict[str, Item]] = {sort: {} for sort in SORTS}

    def get(self, sort: str, name: str) -> Item | None:
        """The queue, topic or group of that name."""
        return self._items[sort].get(name)

    def items(self, sort: str) -> dict[str, Item]:
        """All of a sort, by name."""
        return self._items[sort]

    def page(self, sort: str, prefix: str, after: str, limit: int) -> tuple[list[Item], bool]:
        """Up to `limit` items in name order behind `after`, and whether there are more."""
        names = sorted(n for n in self._items[sort] if n.startswith(prefix) and n > after)
        return [self._items[sort][name] for name in names[:limit]], len(names) > limit

    def apply(self, part: Part, at: At) -> Item:
        """One part of the catalogue; the item it concerns."""
        item = decode_item(part.detail)
        items = self._items[item.sort]
        if part.kind == Kind.DELETE:
            del items[item.name]
        else:
            assert part.kind in (Kind.CREATE, Kind.ALTER), f"the catalogue knows no part of kind {part.kind}"
            items[item.name] = item
        self.changed_at = at.position
        return item

    def fits(self, part: Part) -> bool:
        """The part follows on from what is known here; it does, unless something before it was lost."""
        item = decode_item(part.detail)
        known = self._items[item.sort].get(item.name)
        return known is None if part.kind == Kind.CREATE else known is not None and known.uuid == item.uuid

    def snapshot(self) -> bytes:
        """Everything, as one msgpack array."""
        packed: bytes = msgpack.packb(
            [tuple(item) for items in self._items.values() for item in items.values()]
        )
        return packed

    def restore(self, data: memoryview) -> None:
        """The inverse of `snapshot`."""
        for fields in msgpack.unpackb(data):
            item = _item(fields)
            self._items[item.sort][item.name] = item


def part_for(kind: Kind, item: Item) -> Part:
    """The part that creates, alters or deletes an item."""
    return Part(CATALOGUE, kind, detail=msgpack.packb(tuple(item)))


def decode_item(detail: bytes) -> Item:
    """The item in a part's detail."""
    return _item(msgpack.unpackb(detail))


def _item(fields: list[Any]) -> Item:
    sort, name, uuid, settings, logs = fields
    return Item(sort, name, uuid, settings, tuple(logs))
