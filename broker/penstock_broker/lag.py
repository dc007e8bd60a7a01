"""How far consumer groups are behind, and whether they are catching up: what describe and metrics show."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from penstock_broker.facts import GroupFacts
from penstock_broker.groups.assignors import Place
from penstock_broker.groups.coordinator import Coordinator, Member
from penstock_broker.groups.offsets import Committed, Group
from penstock_broker.storage.log import Log
from penstock_broker.topics.partition import Partition

if TYPE_CHECKING:
    from penstock_broker.clock import Now
    from penstock_broker.core import Core

WINDOW_MS = 60_000
"""Over which rates are means."""
SHORTEST_MS = 1_000


def standings(core: "Core", group: Group, now: "Now") -> Iterator[GroupFacts]:
    """Of every partition the group committed on."""
    coordinator = core.membership.get(group.name)
    for uuid, committed in group.offsets.items():
        partition = core.registry.owner(uuid)
        if isinstance(partition, Partition):
            yield _standing(coordinator, group, partition, committed, now.wall)


def _standing(
    coordinator: Coordinator | None, group: Group, partition: Partition, committed: Committed, wall: int
) -> GroupFacts:
    log = partition.log
    next_kept = max(committed.offset, log.start)
    behind = log.end - next_kept
    rate_in, rate_out = _rates(group, log, committed.offset, wall)
    catch_up = 0.0 if not behind else behind / (rate_out - rate_in) if rate_out > rate_in else None
    owner = coordinator.owner(Place(partition.topic, partition.number)) if coordinator is not None else None
    return GroupFacts(
        group.name,
        partition.topic,
        partition.number,
        committed.offset,
        log.end,
        behind,
        max(0, wall - log.time(next_kept)) / 1000 if behind else 0.0,
        rate_in,
        rate_out,
        catch_up,
        None if owner is None else name_of(owner),
    )


def _rates(group: Group, log: Log, current: int, wall: int) -> tuple[float, float]:
    """Records that came and that were read per second, over the same time."""
    mark = group.mark_since(log.uuid, wall - WINDOW_MS)
    since, offset = (wall - WINDOW_MS, current) if mark is None else mark
    since = min(since, wall - SHORTEST_MS)
    seconds = (wall - since) / 1000
    came = log.end - log.offset_at(since)[0]
    return came / seconds, max(0, current - offset) / seconds


def name_of(member: Member) -> str:
    """What people call a member: its instance, or client and a piece of its id."""
    if member.instance is not None:
        return member.instance
    return f"{member.client or 'member'}-{member.id.hex()[:8]}"
