"""Which features of queues a run has: chosen from the seed alone, so that a run without any is the run it
was before there were features.

A queue with features is called f0, f1, …; it has a profile: words, each of which switches on settings of the
queue and traits of its messages. Queues over the topic are called s0, …; throw-away queues, x0, …, end by
themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

import msgpack

from penstock_broker import searching, timetable
from penstock_broker.queues import deadlines, dedup, indexes
from penstock_broker.queues.policy import DEAD_SUFFIX
from penstock_protocol.batch import BatchBuilder, Kind, OnConflict

Traits = dict[str, Any]
"""Of one message, as the history has them: delay, at, ttl (in seconds), priority, group, dedup, job, and
what it wants on a conflict; of a record key and headers."""

KEYS = ("eu.1", "eu.2", "us.1", "us.2", None)
HEADERS = ({"type": "order", "n": 1}, {"type": "refund", "n": 2}, {"type": "refund"}, None)
WORDS = (
    *("delay", "ttl", "priority", "groups", "fair", "dedup", "jobs", "overflow", "once", "checkpoint"),
    *("transfer", "replay", "reply", "schedule", "pause"),
)
QUEUES_MAX = 2
SOURCE_WORDS = ("once", "checkpoint", "transfer", "replay", "reply", "pause")
SOURCES_MAX = 3
TOPIC = "t"
WORDS_MIN, WORDS_MAX = 2, 7
YEARS_MS = 3_000 * 86_400_000
CELLS = (
    *(("key", Kind.KEY), ("headers", Kind.HEADERS)),
    *(("group", Kind.MESSAGE_GROUP), ("dedup", Kind.DEDUP_ID), ("job", Kind.JOB_KEY)),
)
"""Traits that are msgpack values in a batch."""
SIZES: tuple[tuple[Any, str, tuple[int, ...]], ...] = (
    (timetable, "CATCH_UP_MAX", (3, 20)),
    (timetable, "LATE_MS", (300, 60_000)),
    (timetable, "PER_LOOK", (1, 10)),
    (dedup, "IDS_MAX", (10, 1_000_000)),
    (indexes, "EXPIRED_AT_ONCE_MAX", (2, 10_000)),
    (searching, "MESSAGES_PER_STEP", (7, 10_000)),
    (searching, "BYTES_PER_STEP", (500, 1 << 20)),
    (deadlines, "BUCKET_SHIFT", (6, 18)),
    (deadlines, "PRUNE_MIN", (4, 256)),
)
"""Bounds of the broker that matter to features only, and small values that make them count."""


class Profile(NamedTuple):
    """Of one queue: what its messages and its clients do, and its settings."""

    name: str
    words: frozenset[str]
    settings: dict[str, Any]


class Features(NamedTuple):
    """Of one run."""

    profiles: dict[str, Profile]
    throwaway: bool
    sizes: tuple[tuple[Any, str, int], ...]

    def words_of(self, name: str) -> frozenset[str]:
        """What is done with the queue of that name; nothing beyond the plain if it has no profile."""
        profile = self.profiles.get(name)
        return profile.words if profile is not None else frozenset()

    def is_special(self, name: str) -> bool:
        """A queue with features, its dead-letter queue, or one that ends by itself."""
        return name.removesuffix(DEAD_SUFFIX) in self.profiles or is_throwaway(name)


def is_throwaway(name: str) -> bool:
    """It ends by itself."""
    return name.startswith("x")


def chosen(seed: int) -> Features:
    """What the seed wants."""
    random = Random(f"features of {seed}")
    sources = _sources(Random(f"sources of {seed}"))
    if random.random() < 0.2:
        return Features(sources, throwaway=False, sizes=())
    names = [f"f{number}" for number in range(random.randint(1, QUEUES_MAX))]
    profiles = {name: _profile(random, name) for name in names}
    sizes = tuple((module, name, random.choice(values)) for module, name, values in SIZES)
    return Features(profiles | sources, random.random() < 0.4, sizes)


def _sources(random: Random) -> dict[str, Profile]:
    """Queues over the topic, in some runs."""
    number = random.randint(1, SOURCES_MAX) if random.random() < 0.4 else 0
    return {f"s{i}": _source(random, f"s{i}") for i in range(number)}


def _source(random: Random, name: str) -> Profile:
    words = {"source", *random.sample(SOURCE_WORDS, random.randrange(4))}
    settings = _limits(random, name) | {
        "source": TOPIC,
        "source_start": random.choice(("earliest", "earliest", "latest")),
        "rate": random.choice((None, None, 50)),
        "max_in_flight": random.choice((5, 100_000)),
    }
    return Profile(name, frozenset(words), settings)


def _profile(random: Random, name: str) -> Profile:
    words = set(random.sample(WORDS, random.randint(WORDS_MIN, WORDS_MAX)))
    settings = _limits(random, name) | {
        "max_messages": random.choice((20, 10_000)),
        "keep_settled": random.choice((300, 5_000)) if "replay" in words else random.choice((None, 300)),
    }
    for word in sorted(words):
        settings |= _settings(random, word)
    return Profile(name, frozenset(words), settings)


def _limits(random: Random, name: str) -> dict[str, Any]:
    return {
        "max_attempts": random.choice((1, 2, 5, None)),
        "max_deliveries": random.choice((2, 8, 50)),
        "visibility_timeout": random.choice((100, 500, 2_000)),
        "retry_initial": random.choice((0, 50)),
        "retry_max": 400,
        "dead_letter": f"{name}{DEAD_SUFFIX}",
    }


def _settings(random: Random, word: str) -> dict[str, Any]:
    choice = random.choice
    match word:
        case "delay":
            return {"delay": choice((0, 0, 200))}
        case "ttl":
            return {"ttl": choice((None, 300, 3_000)), "on_expiry": choice(("drop", "dead_letter"))}
        case "priority":
            return {"priority_ageing": choice((None, None, 100))}
        case "groups":
            failure = choice(("block", "park", "park", "park", "skip"))
            dies_soon = {"max_attempts": 1} if failure == "park" else {}
            return {"group_failure": failure, "group_concurrency": choice((None, None, 2)), **dies_soon}
        case "fair":
            return {
                "fair": True,
                "group_concurrency": choice((None, 1, 2)),
                "group_rate": choice((None, 5, 50)),
                "group_weights": choice(((), ("g0", 3.0, "g1", 0.5))),
                "rate": choice((None, 200)),
            }
        case "dedup":
            return {"dedup_window": choice((500, 5_000, 300_000)), "content_dedup": choice((False, True))}
        case "jobs":
            return {"job_scope": choice(("done", "queued"))}
        case "overflow":
            return {
                "overflow": choice(("drop_oldest", "dead_letter_oldest")),
                "max_messages": choice((3, 20)),
            }
        case "pause":
            return {"single_active": random.random() < 0.3}
        case _:
            return {}


# of messages


def traits_of(random: Random, words: frozenset[str], wall: int) -> Traits:
    """What one message shall be beyond plain, published at `wall`."""
    traits: Traits = {}
    if "delay" in words and random.random() < 0.7:
        if random.random() < 0.3:
            traits["at"] = max(0, wall + random.choice((-1_000, 100, 1_000, YEARS_MS))) / 1000
        else:
            traits["delay"] = random.choice((1, 50, 400, 4_000)) / 1000
    if "ttl" in words and random.random() < 0.5:
        traits["ttl"] = random.choice((1, 100, 1_000, 20_000)) / 1000
    if "priority" in words and random.random() < 0.7:
        traits["priority"] = random.choice((0, 1, 5, 9))
    if words & {"groups", "fair"} and random.random() < 0.9:
        traits["group"] = f"g{random.randrange(4)}"
    elif "jobs" in words and random.random() < 0.8:
        traits["job"] = f"j{random.randrange(5)}"
        traits["conflict"] = random.choice(list(OnConflict)).name.lower()
    if "dedup" in words and random.random() < 0.7:
        traits["dedup"] = f"d{random.randrange(30)}"
    return traits


def record_traits(random: Random) -> Traits:
    """The key and the headers of one record."""
    found = {"key": random.choice(KEYS), "headers": random.choice(HEADERS)}
    return {name: value for name, value in found.items() if value is not None}


def cells(traits: Traits) -> list[tuple[Kind, bytes | int]]:
    """The columns of a message with these traits."""
    out: list[tuple[Kind, bytes | int]] = []
    for name, kind in (("delay", Kind.DELAY), ("ttl", Kind.TTL), ("at", Kind.AT)):
        if name in traits:
            out.append((kind, round(traits[name] * 1000)))
    if "priority" in traits:
        out.append((Kind.PRIORITY, traits["priority"]))
    for name, kind in CELLS:
        if name in traits:
            out.append((kind, msgpack.packb(traits[name])))
    if "conflict" in traits:
        out.append((Kind.ON_CONFLICT, OnConflict[traits["conflict"].upper()]))
    return out


def encoded(
    bodies: Sequence[bytes], traits: Sequence[Traits] = (), producer_id: int = 0, number: int = 0
) -> memoryview:
    """A batch of these bodies."""
    builder = BatchBuilder()
    if any(traits):
        for body, each in zip(bodies, traits, strict=True):
            builder.add(body, cells(each))
    else:
        builder.extend(bodies)
    return memoryview(builder.encode(producer_id, number))
