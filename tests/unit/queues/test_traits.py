"""What makes messages of a batch more than plain: read from its columns, kept in an APPEND."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_broker.queues import traits
from penstock_broker.queues.policy import Policy
from penstock_broker.queues.traits import Traits
from penstock_protocol.batch import BatchBuilder, BatchView, Kind
from penstock_protocol.errors import Invalid

NOW = 1_700_000_000_000
numbers = st.none() | st.lists(st.integers(0, 2**50), min_size=1, max_size=5)
words = st.none() | st.lists(st.none() | st.text(max_size=5), min_size=1, max_size=5)


def batch(*cells: dict[Kind, bytes | int]) -> BatchView:
    builder = BatchBuilder()
    for each in cells:
        builder.add(b"x", list(each.items()))
    return BatchView(builder.encode())


@given(numbers, numbers, numbers, words, words, words, st.binary(max_size=32), st.binary(max_size=9))
def test_traits_come_back_as_they_were(
    due: list[int] | None,
    expires: list[int] | None,
    ranks: list[int] | None,
    groups: list[str | None] | None,
    ids: list[str | None] | None,
    keys: list[str | None] | None,
    exceptions: bytes,
    before: bytes,
) -> None:
    given_ = Traits(due, expires, ranks, groups, ids, keys, exceptions)
    assert traits.decode(before + traits.encode(given_) + b"behind", len(before)) == given_


def test_plain_batch_has_no_traits() -> None:
    found, on_conflict = traits.read(batch({}, {}), Policy(), NOW)
    assert not found
    assert on_conflict is None
    assert not traits.has_traits(batch({Kind.HEADERS: msgpack.packb({"a": 1})}))
    assert traits.has_traits(batch({Kind.PRIORITY: 1}))


@pytest.mark.parametrize(
    ("cells", "policy", "due"),
    [
        ({Kind.DELAY: 5}, Policy(), NOW + 5),
        ({Kind.AT: NOW + 9}, Policy(delay=100), NOW + 9),
        ({}, Policy(delay=100), NOW + 100),
        ({Kind.DELAY: 5}, Policy(delay=100), NOW + 5),
        ({Kind.AT: NOW}, Policy(), 0),
        ({Kind.AT: 1}, Policy(delay=100), 0),
    ],
)
def test_due_is_what_the_message_says_then_what_the_queue_does(
    cells: dict[Kind, int], policy: Policy, due: int
) -> None:
    found, _ = traits.read(batch({**cells}), policy, NOW)
    assert (found.due or [0])[0] == due


@pytest.mark.parametrize(
    ("cells", "policy", "expires"),
    [
        ({Kind.TTL: 5}, Policy(), NOW + 5),
        ({Kind.TTL: 5}, Policy(ttl=3), NOW + 3),
        ({Kind.TTL: 3}, Policy(ttl=5), NOW + 3),
        ({}, Policy(ttl=5), NOW + 5),
        ({}, Policy(), 0),
    ],
)
def test_message_expires_at_the_earlier_of_its_own_time_and_the_queue_s(
    cells: dict[Kind, int], policy: Policy, expires: int
) -> None:
    found, _ = traits.read(batch({**cells}), policy, NOW)
    assert (found.expires or [0])[0] == expires


def test_copy_keeps_priority_group_and_what_is_left_of_a_delay_and_nothing_else() -> None:
    cells: dict[Kind, bytes | int] = {
        Kind.PRIORITY: 7,
        Kind.MESSAGE_GROUP: msgpack.packb("g"),
        Kind.DELAY: 5,
        Kind.TTL: 5,
        Kind.DEDUP_ID: msgpack.packb("x"),
        Kind.JOB_KEY: msgpack.packb("k"),
    }
    copied = batch(cells, {})
    assert traits.of_copy(copied, Policy(), NOW) == Traits(ranks=[2, 9], groups=["g", None])
    assert traits.of_copy(copied, Policy(fair=True), NOW).groups == ["g", ""]
    assert traits.of_copy(copied, Policy(ttl=9), NOW, [NOW + 1, 0])[:2] == ([NOW + 1, 0], [NOW + 9] * 2)
    assert traits.of_copy(copied, Policy(), NOW, [0, 0]).due is None


@pytest.mark.parametrize(
    "cell",
    [
        b"\xc1",
        msgpack.packb(5),
        msgpack.packb(b"bytes"),
        msgpack.packb(""),
        msgpack.packb("x" * 256),
        b"\xa5ab",
    ],
    ids=["no msgpack", "a number", "bytes", "empty", "too long", "cut off"],
)
@pytest.mark.parametrize("kind", [Kind.MESSAGE_GROUP, Kind.DEDUP_ID, Kind.JOB_KEY])
def test_label_that_is_none_is_refused_with_what_it_is_for(cell: bytes, kind: Kind) -> None:
    with pytest.raises(Invalid, match=kind.name.lower().replace("_", " ")):
        traits.read(batch({kind: cell}), Policy(), NOW)
