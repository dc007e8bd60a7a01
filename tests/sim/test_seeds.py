"""The whole node from seeds: no run has an anomaly, a seed is always the same run, rare things happened."""

import os
import subprocess
import sys
from collections import Counter

import pytest
from tests.sim.carried import OVER_DEATHS
from tests.sim.run import simulate

OPS = 2_000
RARE = (
    "Load failed",
    "archive run",
    "cancelled",
    "checkpoint delivered",
    "checkpoint fallback",
    "cold read",
    "commit fenced",
    "conflict",
    "crash during recovery",
    "dead letter waits",
    "dedup hit after restart",
    "delivered at most once",
    "duplicate",
    "evacuation",
    "fenced producer told of what it did",
    "file recycled",
    "group parked",
    "history delivered",
    "index rebuilt",
    "instance taken over",
    "membership lost",
    "message dropped",
    "message expired",
    "moved",
    "name was taken over",
    "nothing fits",
    "part of an answer",
    "partition given up",
    "partitions claimed",
    "paused",
    "producer deleted",
    "producer fenced",
    "queue ended by itself",
    "record expired by retention",
    "records passed over",
    "redriven",
    "refused: Busy",
    "refused: Conflict",
    "refused: DiskFull",
    "refused: QueueFull",
    "replayed message delivered",
    "replied",
    "rescheduled",
    "retention trimmed",
    "schedule ran",
    "segment dropped",
    "session resumed",
    "settled message kept",
    "stale settle",
    "start without room",
    "storage failed",
    "tenant throttled",
    "torn tail cut",
    "unproven block copied",
)
"""What must have happened within each range of seeds: a simulator that never gets there proves nothing."""

PROGRESS = 1_016
"""A seed, one of fifty, in which the work on a message has got somewhere when the node is stopped."""


@pytest.mark.covers(
    *("enqueue", "receive/lease", "extend", "release", "nack/retry", "delay", "ack"),
    *("dead letter", "purge", "produce", "fetch", "offsets", "producer dedup"),
    *("create/alter/delete", "retention", "keep_settled", "archive", "evacuation", "checkpoint"),
    *("ttl", "priority", "message groups", "fair tenants", "dedup id", "job key", "overflow", "at most once"),
    *("progress of work", "dead-letter history", "cancel/reschedule", "move/redrive/replay", "reply"),
    *("schedules", "throw-away queues", "pause", "queue over a topic", "delivery rates"),
    *("group members", "named producers", "filters"),
    *("kill -9", "power cut", "restart", "torn write", "failed write/sync", "read error"),
    *("stalled disk", "disk full", "index damaged", "clock jump", "lost connection"),
)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seeds", [[*range(1, 151), PROGRESS], [*range(151, 301)]], ids=["1-150", "151-300"])
def test_no_seed_has_an_anomaly_and_rare_things_happened(seeds: list[int]) -> None:
    met: Counter[str] = Counter()
    anomalies = {}
    for seed in seeds:
        result = simulate(seed, OPS)
        met += result.sometimes
        if result.anomalies:
            anomalies[seed] = result.anomalies[:3]
    assert anomalies == {}
    assert [what for what in (*RARE, *OVER_DEATHS) if not met[what]] == []


def traced(seed: int, hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim.run", "--seed", str(seed), "--ops", "300"],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[0]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_same_seed_is_the_same_run(seed: int) -> None:
    assert traced(seed, "1") == traced(seed, "2")
