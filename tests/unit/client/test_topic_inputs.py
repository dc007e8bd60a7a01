"""What is handed to a topic or a group and can never be meant: `Invalid`, before anything is sent."""

from typing import Any

import pytest
from tests.fakes.client_wire import FakeClient
from tests.fakes.topic_broker import Broker

import penstock
from penstock import Record, checks, codecs
from penstock.errors import Invalid
from penstock.group import Target
from penstock.topic import Topic
from penstock_protocol.limits import METADATA_BYTES_MAX


@pytest.mark.parametrize("to", [-1, -5, True, 1.5, "5", "--5", "soon", None])
def test_what_is_no_place_is_no_target_of_a_reset(to: Any) -> None:
    with pytest.raises(Invalid, match="is no place"):
        Target.of(to)


@pytest.mark.parametrize(
    ("to", "offset"), [("-5", 85), ("+5", 95), (5, 10), ("earliest", 10), ("latest", 100)]
)
def test_shifts_are_text_and_offsets_are_numbers(to: Any, offset: int) -> None:
    assert Target.of(to).offset(90, 10, 100) == offset


@pytest.mark.parametrize("producer", ["", 5, "x" * 1_000])
def test_what_cannot_be_a_name_names_no_producer(producer: Any) -> None:
    with pytest.raises(Invalid, match="producer="):
        Topic(FakeClient(), "orders", codecs.raw, producer=producer)  # type: ignore[arg-type]


@pytest.mark.parametrize("partition", [True, False, "1", 1.0, -1, [1], 10**30])
def test_what_is_no_partition_is_none_after_that_number_was_used_either(partition: Any) -> None:
    topic = Topic(FakeClient(), "orders", codecs.raw)  # type: ignore[arg-type]
    for number in (0, 1):
        topic._to(number, None)
    with pytest.raises(Invalid, match="partition="):
        topic._to(partition, None)


@pytest.mark.parametrize("metadata", [5, b"x", None, "\ud800", "x" * (METADATA_BYTES_MAX + 1), "ä" * 2_049])
def test_what_cannot_stand_beside_an_offset_says_how_much_can(metadata: Any) -> None:
    with pytest.raises(Invalid, match="4,096 bytes"):
        checks.metadata(metadata)


def test_metadata_may_be_as_long_as_the_broker_takes_it() -> None:
    checks.metadata("x" * METADATA_BYTES_MAX)
    checks.metadata("")


@pytest.mark.parametrize("until", [{7: 3}, {0: 1, 2: 3}])
async def test_end_in_a_partition_that_there_is_not_is_refused(until: dict[int, int]) -> None:
    broker = Broker(2)
    with pytest.raises(Invalid, match="has no such partition"):
        async with broker.consumer(0, 1, until=until):
            pass


@pytest.mark.parametrize("topics", [["orders.dead"], ["orders.*"], ["jobs", "#"], ["*.dead"]])
async def test_topic_that_the_consumer_s_patterns_select_takes_no_dead_letters(topics: list[str]) -> None:
    async def handler(_: Record[bytes]) -> None:
        raise AssertionError("nothing was to be handled")

    client = penstock.connect()
    consumer = client.consumer("g", topics=topics)
    with pytest.raises(Invalid, match=r"this consumer reads topic 'orders\.dead' itself"):
        await consumer.work(handler, dead_letter=client.topic("orders.dead"))
