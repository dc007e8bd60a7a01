"""Durability modes as text and as ms."""

import pytest

from penstock_broker import durability
from penstock_broker.durability import FSYNC, INTERVAL_MS_MAX, OS_MS


@pytest.mark.parametrize(
    ("text", "within"),
    [
        ("fsync", FSYNC),
        ("interval:1ms", 1),
        ("interval:50ms", 50),
        ("interval:60000ms", 60_000),
        ("os", OS_MS),
    ],
)
def test_mode_is_how_long_a_sync_may_wait(text: str, within: int) -> None:
    assert durability.parse(text) == within


@pytest.mark.parametrize("within", [FSYNC, 1, 50, 1_000, INTERVAL_MS_MAX, OS_MS])
def test_name_of_a_mode_is_read_back_as_the_same_mode(within: int) -> None:
    assert durability.is_mode(durability.name(within))
    assert durability.parse(durability.name(within)) == within


@pytest.mark.parametrize(
    "text",
    ["", "FSYNC", "interval", "interval:", "interval:0ms", "interval:50", "interval:60001ms", "interval:-1ms",
     "interval:050ms", "interval:٣ms", "interval:1.5ms", "interval:1s", " os", "os\n", None, 50, True],
)  # fmt: skip
def test_what_is_no_mode_is_refused_with_what_is_allowed(text: object) -> None:
    with pytest.raises(ValueError, match="fsync, interval:50ms"):
        durability.parse(text)
    assert not durability.is_mode(text)


def test_stricter_mode_is_the_smaller_number() -> None:
    strictest_first = ["fsync", "interval:1ms", "interval:60000ms", "os"]
    assert sorted(strictest_first, key=durability.parse) == strictest_first
