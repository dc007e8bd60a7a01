"""What users hand in, in the wire's form and back."""

from datetime import UTC, datetime, timedelta, timezone

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import values
from penstock.errors import Invalid, TooLarge
from penstock.values import Backoff
from penstock_protocol.batch import Kind


@pytest.mark.parametrize(
    ("duration", "ms"),
    [(0, 0), (1, 1000), (0.25, 250), (timedelta(minutes=2), 120_000), (1e-6, 1), (0.0015, 2)],
)
def test_a_duration_is_whole_milliseconds_and_at_least_one_unless_zero(duration, ms):
    assert values.ms_of(duration) == ms


@pytest.mark.parametrize("duration", [-1, float("nan"), float("inf"), timedelta(seconds=-1)])
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


def test_a_plain_message_has_no_cells():
    assert not values.cells_of()
    assert not values.cells_of(headers={})


def test_cells_are_in_the_encoding_of_their_columns():
    when = datetime(2024, 1, 1, tzinfo=UTC)
    headers = {"s": "x", "b": b"\0", "i": 1, "f": 0.5, "t": True, "n": None}
    cells = dict(values.cells_of(key="k", headers=headers, timestamp=when, absent=True))
    assert msgpack.unpackb(cells[Kind.KEY]) == b"k"
    assert msgpack.unpackb(cells[Kind.HEADERS]) == headers
    assert cells[Kind.TIMESTAMP] == values.ms_at(when)
    assert cells[Kind.ABSENT] == 1


@pytest.mark.parametrize(
    "headers",
    [{"x": ["nested"]}, {"x": {}}, {1: "x"}, {"x" * 256: "y"}, {"x": 2**64}],
    ids=["a list", "a map", "a name that is no text", "a long name", "an integer of 65 bits"],
)
def test_headers_the_wire_cannot_carry_are_invalid(headers):
    with pytest.raises(Invalid):
        values.cells_of(headers=headers)


@pytest.mark.parametrize(
    "headers",
    [{str(i): 1 for i in range(65)}, {"x": "y" * 33_000}],
    ids=["too many", "too long"],
)
def test_headers_above_the_limits_are_too_large(headers):
    with pytest.raises(TooLarge):
        values.cells_of(headers=headers)


def test_a_key_above_its_limit_is_too_large():
    with pytest.raises(TooLarge, match="digest"):
        values.cells_of(key=b"x" * 16_385)


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


def test_a_retry_that_is_no_backoff_is_invalid():
    with pytest.raises(Invalid, match="Backoff"):
        values.settings_to_wire({"retry": 5})


def test_a_description_ignores_fields_of_a_newer_broker():
    row = {"partition": 0, "uuid": "u", "start": 1, "end": 2, "bytes": 3, "new": 4}
    assert values.described(values.PartitionDescription, row).end == 2
