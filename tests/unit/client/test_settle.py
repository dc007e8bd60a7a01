"""Gathering settles of a loop turn into frames of merged ranges."""

import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.client_wire import FakeClient, delivered, payload_of, turns

from penstock.errors import OutcomeUnknown, Stale
from penstock.events import SettleStale
from penstock.settle import Verdict, merged, overlap
from penstock_protocol.limits import RANGES_MAX
from penstock_protocol.messages.queues import Ack, Delivery, Nack, Outcome, Settled
from penstock_protocol.slices import Range, decode_ranges, encode_ranges

JOBS = Verdict("jobs")


def ranges_of(message: Ack | Nack) -> list[Range]:
    return decode_ranges(memoryview(message.payload))


async def test_settles_of_one_turn_share_a_frame_and_neighbours_merge() -> None:
    client = FakeClient()
    offsets = list(range(100))
    Random(1).shuffle(offsets)
    for offset in offsets:
        client.settler.stage(JOBS, [Range(7, offset, 0, 1)])
    await turns()
    assert [ranges_of(ack) for ack in client.wire.of(Ack)] == [[Range(7, 0, 0, 100)]]


async def test_ranges_of_other_tokens_and_partitions_stay_apart() -> None:
    client = FakeClient()
    apart = [Range(7, 0, 0, 2), Range(7, 3, 0, 1), Range(7, 2, 1, 1), Range(8, 2, 0, 1)]
    client.settler.stage(JOBS, apart)
    await turns()
    assert ranges_of(client.wire.of(Ack)[0]) == apart


async def test_each_verdict_has_its_own_frame() -> None:
    client = FakeClient()
    verdicts = [
        JOBS,
        Verdict("mails"),
        Verdict("jobs", Outcome.RETRY, None, "a"),
        Verdict("jobs", Outcome.RETRY, 5, "a"),
        Verdict("jobs", Outcome.RELEASE),
    ]
    for index, verdict in enumerate(verdicts * 2):
        client.settler.stage(verdict, [Range(index + 1, 0, 0, 1)])
    await turns()
    assert len(client.wire.asked) == len(verdicts)


async def test_a_later_turn_has_its_own_frame() -> None:
    client = FakeClient()
    for offset in range(2):
        client.settler.stage(JOBS, [Range(7, offset, 0, 1)])
        await turns()
    assert len(client.wire.of(Ack)) == 2


async def test_more_ranges_than_a_frame_takes_go_in_several() -> None:
    client = FakeClient()
    client.wire.answers[Ack] = lambda _: Settled(1, b"")
    client.settler.stage(JOBS, [Range(7, 2 * i, 0, 1) for i in range(RANGES_MAX + 1)])
    await client.settler.flush()
    assert [len(ranges_of(ack)) for ack in client.wire.of(Ack)] == [RANGES_MAX, 1]


async def test_only_the_caller_whose_range_is_stale_learns_of_it() -> None:
    client = FakeClient()
    client.wire.answers[Ack] = lambda _: Settled(1, encode_ranges([Range(7, 1, 0, 1)]))
    fine, late = await asyncio.gather(
        client.settler.settle(JOBS, [Range(7, 0, 0, 1)]),
        client.settler.settle(JOBS, [Range(7, 1, 0, 1)]),
        return_exceptions=True,
    )
    assert fine is None
    assert isinstance(late, Stale)
    assert len(client.wire.of(Ack)) == 1


async def test_stale_after_a_resend_is_unknown_to_who_waits_however_often_he_asks() -> None:
    client = FakeClient()
    settling = asyncio.ensure_future(client.settler.settle(JOBS, [Range(7, 0, 0, 2)]))
    await turns()
    asked = client.wire.last(Ack)
    asked.on_resend()
    asked.reply(Settled(0, encode_ranges([Range(7, 0, 0, 2)])))
    with pytest.raises(OutcomeUnknown, match="that worked, or they will be delivered again") as unknown:
        await settling
    client.wire.answers[Ack] = lambda _: Settled(0, encode_ranges([Range(7, 0, 0, 2)]))
    with pytest.raises(OutcomeUnknown):
        await unknown.value.retry()


async def test_settled_by_a_resend_is_no_error() -> None:
    client = FakeClient()
    settling = asyncio.ensure_future(client.settler.settle(JOBS, [Range(7, 0, 0, 2)]))
    await turns()
    asked = client.wire.last(Ack)
    asked.on_resend()
    asked.reply(Settled(2, b""))
    await settling


async def test_stale_after_a_resend_of_a_staged_settle_is_an_event() -> None:
    client = FakeClient()
    client.settler.stage(JOBS, [Range(7, 0, 0, 2)])
    await turns()
    asked = client.wire.last(Ack)
    asked.on_resend()
    asked.reply(Settled(0, encode_ranges([Range(7, 0, 0, 2)])))
    await client.settler.flush()
    assert client.wire.events == [SettleStale("jobs", 2)]


async def test_an_error_reaches_every_caller_of_the_frame() -> None:
    client = FakeClient()

    async def repeat() -> None:
        raise AssertionError("nobody asked for it")

    client.wire.answers[Ack] = lambda _: OutcomeUnknown("too late", repeat=repeat)
    results = await asyncio.gather(
        *(client.settler.settle(JOBS, [Range(7, i, 0, 1)]) for i in range(3)), return_exceptions=True
    )
    assert [type(result) for result in results] == [OutcomeUnknown] * 3


async def test_settling_nothing_asks_nothing() -> None:
    client = FakeClient()
    await client.settler.settle(JOBS, [])
    await client.settler.flush()
    assert client.wire.asked == []


async def test_flush_waits_for_the_answers_of_what_was_staged() -> None:
    client = FakeClient()
    client.settler.stage(JOBS, [Range(7, 0, 0, 1)])
    flushing = asyncio.ensure_future(client.settler.flush())
    await turns()
    assert not flushing.done()
    client.wire.last(Ack).reply(Settled(1, b""))
    await flushing


async def test_tokens_are_those_without_an_answer_yet() -> None:
    client = FakeClient()
    client.settler.stage(JOBS, [Range(7, 0, 0, 1)])
    assert client.settler.tokens() == {7}
    await turns()
    client.settler.stage(Verdict("jobs", Outcome.RELEASE), [Range(8, 0, 0, 1)])
    assert client.settler.tokens() == {7, 8}
    client.wire.last(Ack).reply(Settled(1, b""))
    await turns()
    assert client.settler.tokens() == {8}


async def test_releasing_a_delivery_gives_all_of_its_messages_back() -> None:
    client = FakeClient()
    parts = [delivered(b"a", b"b", token=3, first=10), delivered(b"c", token=4, first=20, attempt=2)]
    client.settler.release("jobs", Delivery(*payload_of(*parts)))
    await turns()
    (nack,) = client.wire.of(Nack)
    assert nack.outcome == Outcome.RELEASE
    assert ranges_of(nack) == [Range(3, 10, 0, 2), Range(4, 20, 0, 1)]


small = st.builds(Range, st.integers(1, 2), st.integers(0, 20), st.integers(0, 1), st.integers(1, 5))


def places(ranges: list[Range]) -> set[tuple[int, int, int]]:
    return {(r.token, r.partition, offset) for r in ranges for offset in range(r.first, r.first + r.messages)}


@given(st.lists(small))
def test_merging_names_the_same_messages_in_ranges_that_do_not_touch(ranges: list[Range]) -> None:
    out = merged(ranges)
    assert places(out) == places(ranges)
    assert sum(each.messages for each in out) == len(places(out))
    assert all(
        not (a.token == b.token and a.partition == b.partition and a.first + a.messages == b.first)
        for a in out
        for b in out
    )


@given(small, small)
def test_overlap_counts_common_messages(a: Range, b: Range) -> None:
    assert overlap([a], [b]) == len(places([a]) & places([b]))


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Verdict("q"), Ack("q", b"")),
        (Verdict("q", Outcome.RELEASE), Nack("q", Outcome.RELEASE, None, None, b"")),
        (Verdict("q", Outcome.RETRY, 0, "why"), Nack("q", Outcome.RETRY, 0, "why", b"")),
    ],
    ids=["ack", "release", "nack at once"],
)
def test_a_verdict_becomes_its_frame(verdict: Verdict, expected: Ack | Nack) -> None:
    assert verdict.request([]) == expected
