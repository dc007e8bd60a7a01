"""Judges a history (`history.py` says what is in one) by the contract.

    python -m tests.sim.checker FILE …      prints the anomalies; exit code 1 if there are any

A rule has the name of the anomaly that it finds, and flags only what no allowed run can show. All of it
is O(n log n).
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tests.sim import (
    feature_rules,
    journey_rules,
    log_rules,
    place_rules,
    queue_rules,
    rate_rules,
    source_rules,
    stream_rules,
)
from tests.sim.evidence import Group, Place, Producer, World
from tests.sim.history import Record, load
from tests.sim.journeys import Journeys

Rules = dict[str, Callable[[Any], Iterator[str]]]

QUEUE_RULES: Rules = {
    "lost": queue_rules.lost,
    "phantom": place_rules.phantom,
    "corrupt": place_rules.corrupt,
    "aborted read": place_rules.aborted_read,
    "dirty read": queue_rules.dirty_read,
    "resurrected": queue_rules.resurrected,
    "double lease": queue_rules.double_lease,
    "unflagged redelivery": queue_rules.unflagged_redelivery,
    "order": queue_rules.order,
    "nonmonotonic send": place_rules.nonmonotonic_send,
    "count": queue_rules.count,
    "double effect": queue_rules.double_effect,
    "inconsistent offset": place_rules.inconsistent_offset,
    "dead-letter split": queue_rules.dead_letter_split,
    "early": lambda queue: chain(queue_rules.early(queue), feature_rules.early(queue)),
    "stuck": queue_rules.stuck,
    "books": queue_rules.books,
    "expired delivered": feature_rules.expired_delivered,
    "group order": feature_rules.group_order,
    "group concurrency": feature_rules.group_concurrency,
    "priority inversion": feature_rules.priority_inversion,
    "dedup": feature_rules.dedup,
    "job key": feature_rules.job_key,
    "rate": rate_rules.rate,
    "group rate": rate_rules.group_rate,
    "transfer rate": rate_rules.transfer_rate,
    "too old": source_rules.too_old,
    "trimmed delivered": source_rules.trimmed_delivered,
}
JOURNEY_RULES: Rules = {
    "lost": journey_rules.lost,
    "dirty read": journey_rules.dirty_read,
    "dead-letter split": journey_rules.dead_letter_split,
    "transfer split": journey_rules.transfer_split,
    "reply": journey_rules.reply,
    "delivered twice": journey_rules.delivered_twice,
    "history": journey_rules.history,
    "checkpoint": journey_rules.checkpoint,
    "schedule": journey_rules.schedule,
}
LOG_RULES: Rules = {
    "phantom": place_rules.phantom,
    "corrupt": place_rules.corrupt,
    "aborted read": place_rules.aborted_read,
    "inconsistent offset": place_rules.inconsistent_offset,
    "duplicate": place_rules.double_effect,
    "lost write": log_rules.lost_write,
    "unseen": log_rules.unseen,
    "nonmonotonic send": place_rules.nonmonotonic_send,
    "nonmonotonic poll": log_rules.nonmonotonic_poll,
    "poll skip": log_rules.poll_skip,
    "withheld": log_rules.withheld,
    "end moved back": log_rules.end_moved_back,
    "sequence": stream_rules.sequence,
    "unfit": stream_rules.unfit,
    "out of place": stream_rules.out_of_place,
    "filtered out": stream_rules.filtered_out,
}
GROUP_RULES: Rules = {
    "stale offset": log_rules.stale_offset,
    "zero offset": log_rules.zero_offset,
    "over-end offset": log_rules.over_end_offset,
    "fenced commit accepted": log_rules.fenced_commit_accepted,
    "passed over": log_rules.passed_over,
}
PRODUCER_RULES: Rules = {
    "fenced append": stream_rules.fenced_append,
    "shared id": stream_rules.shared_id,
    "fenced for nothing": stream_rules.fenced_for_nothing,
}


class Anomaly(NamedTuple):
    """What is wrong, where, and the evidence."""

    name: str
    where: str
    what: str


def check(records: Iterable[Record]) -> list[Anomaly]:
    """Every anomaly of a history."""
    world = World(records)
    journeys = Journeys(world)
    places: list[tuple[Rules, Place | Group | Journeys | Producer]] = [
        *([(JOURNEY_RULES, journeys)] if journeys.queues else ()),
        *((QUEUE_RULES, queue) for queue in world.queues.values()),
        *((LOG_RULES, log) for log in world.logs.values()),
        *((GROUP_RULES, group) for group in world.groups),
        *((PRODUCER_RULES, producer) for producer in world.producers),
    ]
    return [
        Anomaly(name, place.name, what)
        for rules, place in places
        for name, rule in rules.items()
        for what in rule(place)
    ]


if __name__ == "__main__":
    found = check(load(map(Path, sys.argv[1:])))
    for anomaly in found:
        print(*anomaly, sep=": ")
    sys.exit(bool(found))
