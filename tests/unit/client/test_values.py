"""What users hand in, in the wire's form and back."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import values
from penstock.errors import Invalid
from penstock.values import Backoff


@pytest.mark.parametrize(
    ("duration", "ms"),
    [(0, 0), (1, 1000), (0.25, 250), (timedelta(minutes=2), 120_000), (1e-6, 1), (0.0015, 2)],
)
def test_a_duration_is_whole_milliseconds_and_at_least_one_unless_zero(duration, ms):
    assert values.ms_of(duration) == ms


@pytest.mark.parametrize("duration", [-1, float("nan"), float("inf"), timedelta(seconds=-1), "soon", None])
def test_a_duration_without_sense_is_invalid(duration):
    with pytest.raises(Invalid, match="not a duration"):
        values.seconds_of(duration)


@given(st.integers(0, 4_000_000_000_000))
def test_an_instant_survives_the_wire(ms):
    assert values.ms_at(values.instant_of(ms)) == ms


def test_instants_come_back_in_utc():
    there = datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert values.instant_of(values.ms_at(there)) == there
    assert values.instant_of(values.ms_at(there)).tzinfo is UTC


@pytest.mark.parametrize(
    "instant",
    [datetime(2024, 5, 1), datetime(1969, 12, 31, tzinfo=UTC)],  # naive is the case
    ids=["naive", "before 1970"],
)
def test_a_naive_or_too_early_instant_is_invalid(instant):
    with pytest.raises(Invalid):
        values.ms_at(instant)


def test_settings_go_to_the_wire_in_its_units_and_only_those_given():
    wire = values.settings_to_wire({"visibility_timeout": timedelta(seconds=5), "max_messages": None})
    assert wire == {"visibility_timeout": 5000, "max_messages": None}


def test_a_backoff_is_four_settings_on_the_wire():
    wire = values.settings_to_wire({"retry": Backoff(initial=0.5, factor=3, max=60, jitter=0)})
    assert wire == {"retry_initial": 500, "retry_factor": 3, "retry_max": 60_000, "retry_jitter": 0}


def test_settings_that_are_described_can_be_passed_again():
    given = {"visibility_timeout": 5.0, "dead_letter": None, "retry": Backoff(), "max_bytes": 10}
    wire = {**values.settings_to_wire(given), "of_a_newer_broker": 1}
    assert values.queue_settings_from_wire(wire) == given


def test_every_setting_survives_the_wire():
    given = {
        "visibility_timeout": 30.0,
        "max_attempts": 3,
        "max_deliveries": None,
        "dead_letter": "dead",
        "retry": Backoff(initial=0.5),
        "max_messages": 10,
        "max_bytes": None,
        "max_in_flight": 5,
        "overflow": "drop_oldest",
        "delay": 0.25,
        "ttl": 60.0,
        "on_expiry": "dead_letter",
        "dedup_window": 604_800.0,
        "content_dedup": True,
        "job_scope": "queued",
        "priority_ageing": 10.0,
        "single_active": True,
        "paused": True,
        "fair": True,
        "group_concurrency": 2,
        "group_failure": "park",
        "group_weights": {"acme": 3, "umbrella": 0.5},
        "rate": 100.0,
        "group_rate": None,
        "expires": 3_600.0,
        "exclusive": True,
        "source": "log",
        "keep_settled": 86_400.0,
        "durability": "os",
    }
    assert given.keys() == values.QueueSettings.__annotations__.keys()
    assert values.queue_settings_from_wire(values.settings_to_wire(given)) == given


def test_weights_are_one_list_on_the_wire():
    wire = values.settings_to_wire({"group_weights": {"acme": 3, "umbrella": 0.5}})
    assert wire == {"group_weights": ("acme", 3, "umbrella", 0.5)}


@pytest.mark.parametrize(
    "weights", [[("acme", 3)], None, {str(i): 1 for i in range(33)}], ids=["a list", "None", "too many"]
)
def test_weights_the_wire_cannot_carry_are_invalid(weights):
    with pytest.raises(Invalid, match="at most 32"):
        values.settings_to_wire({"group_weights": weights})


def test_counts_of_an_older_broker_are_zero():
    document = {"ready": 1, "delayed": 0, "in_flight": 0, "waiting": 0, "settled_total": 0}
    stats = values.described(values.QueueStats, {**document, "oldest_age": None, "bytes": 0})
    assert (stats.held, stats.blocked_groups, stats.throttled_tenants) == (0, 0, 0)


def test_a_history_tells_every_attempt():
    document = {
        "queue": "jobs",
        "offset": 7,
        "first_at": 1_000,
        "last_at": 3_000,
        "reason": "poison",
        "attempts": [
            ["worker-1", 1_500, 2_000, "nacked", "KeyError: 'x'"],
            ["worker-2", 0, 3_000, "x", None],
        ],
    }
    history = values.history_of(document)
    assert (history.queue, history.offset, history.reason) == ("jobs", 7, "poison")
    assert (history.first_at, history.last_at) == (values.instant_of(1_000), values.instant_of(3_000))
    assert values.history_of({**document, "last_at": 0}).last_at is None
    first, second = history.attempts
    assert first == values.Attempt(
        "worker-1", values.instant_of(1_500), values.instant_of(2_000), "nacked", "KeyError: 'x'"
    )
    assert (second.start, second.error) == (None, None)


def test_a_retry_that_is_no_backoff_is_invalid():
    with pytest.raises(Invalid, match="Backoff"):
        values.settings_to_wire({"retry": 5})


def test_a_description_ignores_fields_of_a_newer_broker():
    row = {"partition": 0, "uuid": "u", "start": 1, "end": 2, "bytes": 3, "new": 4}
    assert values.described(values.PartitionDescription, row).end == 2
