"""What is handed in and can never be meant: `Invalid`, which says what and what is allowed, and nothing is
sent."""

from math import inf, nan
from random import Random
from typing import Any

import pytest
from tests.fakes.topic_broker import Broker

from penstock import Record
from penstock.connection import Wire
from penstock.errors import Invalid
from penstock.group import Group
from penstock.topic_consumer import TopicConsumer
from penstock.values import TopicPartition
from penstock_protocol.limits import PARTITIONS_MAX
from penstock_protocol.messages.session import Ping
from penstock_protocol.messages.topics import Commit

NO_NAMES = {"none": None, "empty": "", "a number": 7, "bytes": b"t", "a list": ["t"], "half a pair": "\ud800"}
NO_NUMBERS = {
    **{"text": "x", "negative": -1, "not a number": nan, "broken": 1.5, "infinite": inf},
    **{"none": None, "a list": [0], "beyond 64 bits": 2**70, "a truth": True},
}


def params(values: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("wrong", values.values(), ids=values.keys())


# Administration

NAMED = (
    *("create_topic", "alter_topic", "delete_topic", "describe_topic", "delete_group", "delete_producer"),
    *("alter_queue", "delete_queue", "describe_queue", "delete_schedule", "topic", "group"),
)


@pytest.mark.parametrize("method", NAMED)
@params(NO_NAMES)
async def test_what_cannot_be_a_name_is_refused(server, client, method, wrong):
    with pytest.raises(Invalid, match="cannot be a name") as caught:
        await getattr(client, method)(wrong)
    assert repr(wrong) in caught.value.message
    assert "250 characters" in caught.value.hint
    assert server.requests.empty()


@pytest.mark.parametrize("method", ["list_topics", "list_groups", "list_producers", "list_queues"])
@params({name: wrong for name, wrong in NO_NAMES.items() if name != "empty"})
async def test_prefix_is_text(server, client, method, wrong):
    with pytest.raises(Invalid, match="prefix="):
        await getattr(client, method)(wrong)
    assert server.requests.empty()


SETTINGS = {
    "an object": {"cleanup": object()},
    "a set": {"durability": {"fsync"}},
    "a list of objects": {"cleanup": [object()]},
    "beyond 64 bits": {"partitions": 2**70},
    "far below": {"partitions": -(2**70)},
    "a time of ages": {"retention": 2.0**63},
    "half a pair": {"durability": "\ud800"},
    "what to do if it exists": {"if_exists": "maybe"},
    "a number for that": {"if_exists": 7},
    "a list for that": {"if_exists": ["keep"]},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
async def test_settings_that_the_wire_does_not_carry_are_refused(server, client, settings):
    for create in (client.create_topic, client.create_queue):
        with pytest.raises(Invalid, match=f"{next(iter(settings))}=.* is not allowed") as caught:
            await create("lines", **settings)
        assert "allowed: " in caught.value.hint
    assert server.requests.empty()


HANDLES = {
    "a producer that is a number": {"producer": 7},
    "a codec by name": {"codec": "json"},
    "no codec": {"codec": None},
    "a compression in a list": {"compression": ["lz4"]},
    "a partitioner that cannot be called": {"partitioner": 7},
}


@pytest.mark.parametrize("options", HANDLES.values(), ids=HANDLES.keys())
async def test_options_of_a_handle_are_checked(client, options):
    ((name, wrong),) = options.items()
    with pytest.raises(Invalid, match=name) as caught:
        client.topic("lines", **options)
    assert repr(wrong) in caught.value.message


# Groups


def refused(broker: Broker, error: Invalid, wrong: object) -> None:
    """It says what is wrong and what is allowed, and nothing was sent."""
    assert repr(wrong) in error.message
    assert error.hint != Invalid.advice
    assert not broker.wire.asked
    assert not broker.publisher.published


@params({name: wrong for name, wrong in NO_NUMBERS.items() if name != "a list"})
async def test_commit_of_a_group_takes_numbers_alone(wrong: Any) -> None:
    broker: Any = Broker()
    for offsets in ({0: wrong}, {wrong: 7}):
        with pytest.raises(Invalid, match="is not allowed") as caught:
            await Group(broker, "readers").commit("lines", offsets)
        refused(broker, caught.value, wrong)


@params({"a number": 7, "none": None, "a list": [1], "pairs": [(0, 1)], "text": "abc"})
async def test_commit_of_a_group_takes_a_mapping(wrong: Any) -> None:
    broker: Any = Broker()
    with pytest.raises(Invalid, match="offsets=") as caught:
        await Group(broker, "readers").commit("lines", wrong)
    refused(broker, caught.value, wrong)


async def test_offsets_of_a_group_can_be_committed_again() -> None:
    broker: Any = Broker()
    broker.committed = {0: (7, "")}
    group = Group(broker, "readers")
    await group.commit("lines", await group.offsets("lines"))
    assert broker.wire.of(Commit)[-1].offsets == ((0, 7, ""),)


@params(NO_NAMES)
async def test_topic_of_a_group_is_a_name(wrong: Any) -> None:
    broker: Any = Broker()
    group = Group(broker, "readers")
    for call in (group.offsets(wrong), group.commit(wrong, {0: 1}), group.reset(wrong, "earliest")):
        with pytest.raises(Invalid, match="cannot be a name") as caught:
            await call
        refused(broker, caught.value, wrong)


@params({"a number": 7, "bytes": b"x", "half a pair": "\ud800"})
async def test_metadata_is_text(wrong: Any) -> None:
    broker: Any = Broker()
    with pytest.raises(Invalid, match="metadata=") as caught:
        await Group(broker, "readers").commit("lines", {0: 1}, metadata=wrong)
    refused(broker, caught.value, wrong)
    async with broker.consumer() as consumer:
        with pytest.raises(Invalid, match="metadata="):
            await consumer.commit(metadata=wrong)
    assert broker.wire.of(Commit) == []


@params({name: wrong for name, wrong in NO_NUMBERS.items() if name not in ("negative", "beyond 64 bits")})
async def test_group_is_reset_to_a_place(wrong: Any) -> None:
    broker: Any = Broker()
    with pytest.raises(Invalid, match="is no place") as caught:
        await Group(broker, "readers").reset("lines", wrong)
    refused(broker, caught.value, wrong)


@params({name: wrong for name, wrong in NO_NUMBERS.items() if name != "none"})
async def test_partition_of_a_reset_is_a_number(wrong: Any) -> None:
    broker: Any = Broker()
    with pytest.raises(Invalid, match="partition=") as caught:
        await Group(broker, "readers").reset("lines", "earliest", partition=wrong)
    refused(broker, caught.value, wrong)


# Topics


@pytest.mark.parametrize("name", ["partition", "offset", "max_records", "max_bytes"])
@params(NO_NUMBERS)
async def test_fetch_takes_numbers(name: str, wrong: Any) -> None:
    broker = Broker()
    with pytest.raises(Invalid, match=name) as caught:
        await broker.topic().fetch(**{"partition": 0, "offset": 0, name: wrong})
    refused(broker, caught.value, wrong)


@params(NO_NUMBERS)
async def test_offset_is_of_a_partition_and_of_a_place(wrong: Any) -> None:
    broker = Broker()
    places: list[tuple[Any, ...]] = [(wrong,), (0, wrong)]
    for arguments in places:
        with pytest.raises(Invalid) as caught:
            await broker.topic().offset(*arguments)
        refused(broker, caught.value, wrong)


@params({name: wrong for name, wrong in NO_NUMBERS.items() if name != "none"} | {"many": PARTITIONS_MAX})
async def test_records_go_to_a_partition_that_can_be(wrong: Any) -> None:
    broker = Broker(2)
    topic = broker.topic()
    with pytest.raises(Invalid, match="partition=") as caught:
        await topic.produce("x", partition=wrong)
    refused(broker, caught.value, wrong)
    await topic.produce("x", partition=1)
    assert [to.partition for to, _, _ in broker.publisher.published] == [1]


@params({name: wrong for name, wrong in NO_NUMBERS.items() if name != "none"})
async def test_expected_offset_is_a_number(wrong: Any) -> None:
    broker = Broker()
    for call in (broker.topic().produce, lambda value, **more: broker.topic().produce_many([value], **more)):
        with pytest.raises(Invalid, match="expected_offset=") as caught:
            await call("x", partition=0, expected_offset=wrong)
        refused(broker, caught.value, wrong)


RECORDS = {
    "a key in a list": {"key": ["k"]},
    "a key below zero": {"key": -1},
    "a key that is not a number": {"key": nan},
    "half a pair as key": {"key": "\ud800"},
    "headers that are a number": {"headers": 7},
    "headers that are a list": {"headers": ["a"]},
    "headers that are text": {"headers": "abc"},
    "a time in ms": {"timestamp": 1_700_000_000_000},
    "a time as text": {"timestamp": "2026-01-01"},
}


@pytest.mark.parametrize("wrong", RECORDS.values(), ids=RECORDS.keys())
async def test_what_makes_a_record_is_checked(wrong: dict[str, Any]) -> None:
    broker = Broker()
    ((name, value),) = wrong.items()
    with pytest.raises(Invalid, match=f"{name}=") as caught:
        await broker.topic().produce("x", partition=0, **wrong)
    refused(broker, caught.value, value)


async def test_a_header_name_that_utf8_does_not_have_is_refused() -> None:
    broker = Broker()
    with pytest.raises(Invalid, match="no form on the wire"):
        await broker.topic().produce("x", partition=0, headers={"\ud800": 1})
    assert not broker.publisher.published


@params({"a number": 7, "none": None})
async def test_many_records_can_be_iterated(wrong: Any) -> None:
    broker = Broker()
    with pytest.raises(Invalid, match="items=") as caught:
        await broker.topic().produce_many(wrong)
    refused(broker, caught.value, wrong)


# Consumers

OPTIONS = {
    "partitions that are a number": ({"partitions": 7}, "partitions=7 is no list"),
    "partitions as text": ({"partitions": "01"}, "partitions='01' is no list"),
    "a negative partition": ({"partitions": [-1]}, "partition=-1"),
    "a partition that is not a number": ({"partitions": [nan]}, "partition=nan"),
    "a partition beyond 64 bits": ({"partitions": [2**70]}, "partition=1180591620717411303424"),
    "an end that is a number": ({"until": 7}, "until=7 is no end"),
    "an end that is not a number": ({"until": nan}, "until=nan is no end"),
    "an end in a list": ({"until": ["now"]}, "until=.* is no end"),
    "an end as text": ({"until": {0: "x"}}, "until.0.='x'"),
    "an end of nothing": ({"until": {"x": 1}}, "partition='x'"),
    "an end that never comes": ({"until": {0: nan}}, "until.0.=nan"),
    "an end before the start": ({"until": {0: -1}}, "until.0.=-1"),
    "an instance without a name": ({"instance": ""}, "instance=''"),
    "an instance that is a number": ({"instance": 7}, "instance=7"),
    "an assignor that is not known": ({"assignor": "fair"}, "assignor='fair'"),
    "no assignor": ({"assignor": None}, "assignor=None"),
    "auto_commit as text": ({"auto_commit": "no"}, "auto_commit='no'"),
    "something to call that cannot be": ({"on_assigned": 7}, "on_assigned=7"),
    "the same at the end": ({"on_revoked": 7}, "on_revoked=7"),
}


@pytest.mark.parametrize(("options", "words"), OPTIONS.values(), ids=OPTIONS.keys())
def test_options_of_a_consumer_are_checked(options: Any, words: str) -> None:
    broker = Broker()
    with pytest.raises(Invalid, match=words) as caught:
        broker.topic().consumer("readers", **options)
    assert caught.value.hint != Invalid.advice


@params({name: wrong for name, wrong in NO_NAMES.items() if name != "none"})
async def test_group_of_a_consumer_is_a_name(client: Any, wrong: Any) -> None:
    for make in (lambda: Broker().topic().consumer(wrong), lambda: client.consumer(wrong, topics=["lines"])):
        with pytest.raises(Invalid, match=r"group=.* cannot be a name"):
            make()


TOPICS = {
    "a number": (7, "topics=7 is no list"),
    "none": (None, "topics=None is no list"),
    "text": ("lines", "topics='lines' is no list"),
    "numbers": ([7], "topic=7 cannot be a name"),
    "an empty one": ([""], "topic='' cannot be a name"),
    "lists": ([["lines"]], "topic=.* cannot be a name"),
}


@pytest.mark.parametrize(("topics", "words"), TOPICS.values(), ids=TOPICS.keys())
async def test_topics_of_a_consumer_are_names(client: Any, topics: Any, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        client.consumer("readers", topics=topics)


@params(
    {"a number": 0, "a name": "lines", "too little": ("lines",), "no topic": (7, 0), "below": ("lines", -1)}
)
async def test_ends_of_several_topics_are_by_topic_and_partition(client: Any, wrong: Any) -> None:
    client.consumer("readers", topics=["lines"], until={TopicPartition("lines", 0): 5, ("lines", 1): 5})
    with pytest.raises(Invalid):
        client.consumer("readers", topics=["lines"], until={wrong: 5})


@params({"a number": 7, "text": "x", "a place": TopicPartition("lines", 0)})
async def test_commit_is_up_to_a_record(wrong: Any) -> None:
    broker = Broker()
    broker.append(b"a")
    async with broker.consumer() as consumer:
        record = await anext(consumer)
        assert isinstance(record, Record)
        with pytest.raises(Invalid, match="is no record") as caught:
            await consumer.commit(wrong)
        assert repr(wrong) in caught.value.message
        assert broker.wire.of(Commit) == []
        await consumer.commit(record)
    assert broker.committed == {0: (1, "")}


async def _batch(consumer: TopicConsumer[bytes], most: Any) -> Any:
    return await anext(consumer.batches(most))


@params({**NO_NUMBERS, "zero": 0})
async def test_a_batch_has_a_number_of_records(wrong: Any) -> None:
    broker = Broker()
    broker.append(b"a")
    async with broker.consumer() as consumer:
        with pytest.raises(Invalid, match="max_records="):
            await _batch(consumer, wrong)
        assert [record.value for record in await _batch(consumer, 1)] == [b"a"]


@params(NO_NUMBERS)
async def test_a_consumer_seeks_an_offset_of_a_partition_it_has(wrong: Any) -> None:
    broker = Broker()
    async with broker.consumer() as consumer:
        with pytest.raises(Invalid, match="offset="):
            consumer.seek(0, wrong)
        for name in (lambda: consumer.seek(wrong, 0), lambda: consumer.pause(wrong)):
            with pytest.raises(Invalid, match="is not assigned"):
                name()


@pytest.mark.parametrize("value", ["x", "1", True, nan, [1]])
async def test_timeout_that_is_no_number_of_seconds_sends_nothing(value: Any) -> None:
    wire = Wire([], random=Random(1))
    with pytest.raises(Invalid, match="timeout="):
        await wire.request(Ping(), timeout=value)
