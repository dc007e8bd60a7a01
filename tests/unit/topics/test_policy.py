"""Settings of a topic: what is allowed, and what is said of what is not."""

from typing import Any

import pytest

from penstock_broker.topics.policy import SETTINGS, Policy, policy_for
from penstock_protocol.errors import Invalid


def test_topic_without_a_say_keeps_records_for_a_week() -> None:
    policy = policy_for({})
    assert policy == Policy()
    assert (policy.retention, policy.retention_bytes, policy.partitions) == (604_800_000, None, 1)


def test_what_is_given_goes_over_what_was_and_leaves_the_rest() -> None:
    before = policy_for({"retention": None, "cleanup": "both"})
    after = policy_for({"retention_bytes": 0}, before)
    assert (after.retention, after.retention_bytes, after.cleanup) == (None, 0, "both")


def test_policy_is_what_its_map_says() -> None:
    policy = policy_for({"partitions": 3, "durability": "os", "tombstone_retention": 0})
    assert policy_for(policy.as_map()) == policy
    assert policy.as_map().keys() == SETTINGS.keys()


@pytest.mark.parametrize(
    ("cleanup", "deletes", "compacts"),
    [("delete", True, False), ("compact", False, True), ("both", True, True)],
)
def test_cleanup_says_what_bounds_a_topic(cleanup: str, deletes: bool, compacts: bool) -> None:
    policy = policy_for({"cleanup": cleanup, "retention": 7, "retention_bytes": 9})
    assert (policy.age_max, policy.size_max) == ((7, 9) if deletes else (None, None))
    assert policy.compacts == compacts


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("partitions", 0, "1 to 10,000"),
        ("partitions", None, "1 to 10,000"),
        ("partitions", True, "1 to 10,000"),
        ("retention", -1, "0 to 316,224,000,000 or None"),
        ("retention", 1.5, "0 to 316,224,000,000 or None"),
        ("retention_bytes", "8GiB", "or None"),
        ("cleanup", "compact,delete", "delete or compact or both"),
        ("cleanup", ["delete"], "delete or compact or both"),
        ("tombstone_retention", None, "0 to 316,224,000,000"),
        ("durability", "none", "fsync, interval:50ms"),
        ("durability", 0, "fsync, interval:50ms"),
    ],
)
def test_value_that_is_not_allowed_is_named_with_what_is(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(Invalid) as raised:
        policy_for({name: value})
    assert f"{name}={value!r}" in raised.value.message
    assert allowed in raised.value.hint


def test_setting_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(Invalid, match="retention_hours") as raised:
        policy_for({"retention_hours": 1})
    assert all(name in raised.value.hint for name in SETTINGS)
