"""Opening, closing, and what there is to create, alter, list, describe and delete."""

import asyncio
from datetime import timedelta
from os import getpid
from socket import gethostname
from uuid import UUID

import msgpack
import pytest
from tests.fakes.scripted_server import until

import penstock
from penstock import Backoff
from penstock.errors import ClientClosed, Conflict, Disconnected, Invalid, NotFound
from penstock_protocol.limits import LISTING_MAX
from penstock_protocol.messages.queues import (
    AlterQueue,
    CreateQueue,
    DeleteQueue,
    DescribeQueue,
    ListQueues,
)
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document, Done
from penstock_protocol.messages.topics import (
    AlterTopic,
    CreateTopic,
    DeleteTopic,
    DescribeTopic,
    ListGroups,
    ListTopics,
)

LOG = UUID("01234567-89ab-cdef-0123-456789abcdef")
SETTINGS = {
    "visibility_timeout": 30_000,
    "max_attempts": 5,
    "max_deliveries": 50,
    "dead_letter": "jobs.dead",
    "retry_initial": 1_000,
    "retry_factor": 2,
    "retry_max": 300_000,
    "retry_jitter": 0.2,
    "max_messages": None,
    "max_bytes": 8 << 30,
    "max_in_flight": 100_000,
    "overflow": "reject",
    "durability": "os",
    "of_a_newer_broker": 1,
}
TOPIC_SETTINGS = {
    "partitions": 1,
    "retention": None,
    "retention_bytes": 1 << 30,
    "cleanup": "both",
    "tombstone_retention": 3_600_000,
    "durability": "interval:50ms",
    "of_a_newer_broker": 1,
}
STATS = {
    "ready": 1,
    "delayed": 2,
    "in_flight": 3,
    "waiting": 4,
    "settled_total": 5,
    "oldest_age": 0.5,
    "bytes": 7,
}


def queue_document(name="jobs", **other):
    queue = {"name": name, "uuid": LOG.bytes, "created": True, "settings": SETTINGS, "stats": STATS}
    return Document(pack_document({**queue, **other}))


def topic_document(name="log"):
    partitions = [{"partition": 0, "uuid": LOG.bytes, "start": 1, "end": 9, "bytes": 800}]
    topic = {"name": name, "uuid": LOG.bytes, "created": False, "settings": TOPIC_SETTINGS}
    return Document(pack_document({**topic, "partitions": partitions}))


async def answered(server, coroutine, reply):
    """What a call asks, and its result when it is answered so."""
    call = asyncio.ensure_future(coroutine)
    asked = await server.asked(object)
    asked.reply(reply)
    return asked.message, await call


# Queues


async def test_a_queue_is_created_with_the_settings_that_were_passed(server, client):
    create = client.create_queue("jobs", visibility_timeout=timedelta(minutes=1), max_messages=None)
    asked, queue = await answered(server, create, queue_document())
    assert asked == CreateQueue("jobs", {"visibility_timeout": 60_000, "max_messages": None}, "check")
    assert queue.name == "jobs"


async def test_a_queue_without_a_name_gets_one_that_a_retry_repeats(server, client):
    create = asyncio.ensure_future(client.create_queue(None, if_exists="keep"))
    first = await server.asked(CreateQueue)
    server.cut()
    second = await server.asked(CreateQueue)
    assert first.message == second.message
    second.reply(queue_document())
    queue = await create
    assert queue.name == first.message.name
    assert queue.name.startswith("queue-")


async def test_a_queue_that_is_another_is_a_conflict(server, client):
    with pytest.raises(Conflict, match="if_exists"):
        await answered(server, client.create_queue("jobs", max_attempts=1), Conflict("it has max_attempts 5"))


async def test_altering_a_queue_describes_it(server, client):
    alter = client.alter_queue("jobs", retry=Backoff(initial=2), dead_letter=None)
    asked, found = await answered(server, alter, queue_document(created=False))
    curve = {"retry_initial": 2_000, "retry_factor": 2.0, "retry_max": 300_000, "retry_jitter": 0.2}
    assert asked == AlterQueue("jobs", {"dead_letter": None, **curve})
    assert (found.name, found.uuid, found.created) == ("jobs", LOG, False)


async def test_a_queue_is_described_in_the_units_of_the_calls(server, client):
    asked, found = await answered(server, client.describe_queue("jobs"), queue_document())
    assert asked == DescribeQueue("jobs")
    assert found.stats == penstock.QueueStats(1, 2, 3, 4, 5, 0.5, 7)
    assert found.settings == {
        "visibility_timeout": 30.0,
        "max_attempts": 5,
        "max_deliveries": 50,
        "dead_letter": "jobs.dead",
        "retry": Backoff(),
        "max_messages": None,
        "max_bytes": 8 << 30,
        "max_in_flight": 100_000,
        "overflow": "reject",
        "durability": "os",
    }


async def test_a_description_can_be_passed_to_create_another(server, client):
    _, found = await answered(server, client.describe_queue("jobs"), queue_document())
    asked, _ = await answered(server, client.create_queue("other", **found.settings), queue_document())
    assert asked.settings == {name: value for name, value in SETTINGS.items() if name != "of_a_newer_broker"}


async def test_a_listing_is_read_page_by_page(server, client):
    def page(*names, more):
        items = [msgpack.unpackb(queue_document(name).payload) for name in names]
        return Document(pack_document({"items": items, "more": more}))

    listing = asyncio.ensure_future(client.list_queues("j"))
    first = await server.asked(ListQueues)
    assert first.message == ListQueues("j", "", LISTING_MAX)
    first.reply(page("ja", "jb", more=True))
    second = await server.asked(ListQueues)
    assert second.message == ListQueues("j", "jb", LISTING_MAX)
    second.reply(page("jc", more=False))
    assert [found.name for found in await listing] == ["ja", "jb", "jc"]


async def test_deleting_what_is_not_there_is_not_found(server, client):
    with pytest.raises(NotFound):
        await answered(server, client.delete_queue("jobs"), NotFound("no queue"))


@pytest.mark.parametrize(
    ("delete", "request_class"),
    [
        (lambda client: client.delete_queue("jobs"), DeleteQueue),
        (lambda client: client.delete_topic("log"), DeleteTopic),
    ],
    ids=["a queue", "a topic"],
)
async def test_deleting_is_done_when_only_its_confirmation_was_lost(server, client, delete, request_class):
    deleting = asyncio.ensure_future(delete(client))
    await server.asked(request_class)
    server.cut()
    (await server.asked(request_class)).reply(NotFound("it is gone"))
    await deleting


# Topics and groups


async def test_a_topic_is_created_altered_described_and_deleted(server, client):
    asked, topic = await answered(server, client.create_topic("log", partitions=3), topic_document())
    assert asked == CreateTopic("log", {"partitions": 3}, "check")
    assert topic.name == "log"
    alter = client.alter_topic("log", retention=timedelta(days=1), tombstone_retention=60, cleanup="compact")
    asked, _ = await answered(server, alter, topic_document())
    changed = {"retention": 86_400_000, "tombstone_retention": 60_000, "cleanup": "compact"}
    assert asked == AlterTopic("log", changed)
    asked, _ = await answered(server, client.alter_topic("log", retention=None), topic_document())
    assert asked == AlterTopic("log", {"retention": None})
    asked, found = await answered(server, client.describe_topic("log"), topic_document())
    assert asked == DescribeTopic("log")
    assert found.partitions == (penstock.PartitionDescription(0, LOG, 1, 9, 800),)
    assert found.settings == {
        "partitions": 1,
        "retention": None,
        "retention_bytes": 1 << 30,
        "cleanup": "both",
        "tombstone_retention": 3_600.0,
        "durability": "interval:50ms",
    }
    asked, _ = await answered(server, client.delete_topic("log"), Done())
    assert asked == DeleteTopic("log")


async def test_topics_and_groups_are_listed(server, client):
    topics = [msgpack.unpackb(topic_document("log").payload)]
    reply = Document(pack_document({"items": topics, "more": False}))
    asked, found = await answered(server, client.list_topics(), reply)
    assert (asked, found[0].name) == (ListTopics("", "", LISTING_MAX), "log")
    reply = Document(pack_document({"items": [{"name": "readers"}], "more": False}))
    asked, found = await answered(server, client.list_groups("r"), reply)
    assert (asked, found) == (ListGroups("r", "", LISTING_MAX), ["readers"])


async def test_a_call_may_have_its_own_time(server, client):
    with pytest.raises(penstock.Timeout):
        await client.describe_queue("jobs", timeout=0.01)


# Life


async def test_awaiting_opens_too_and_opening_twice_is_opening_once(server):
    client = await penstock.connect(server.url)
    async with client as same:
        assert same is client
    assert len(server.hellos) == 1


@pytest.mark.parametrize("given", ["billing", "", None])
async def test_the_broker_is_told_who_it_is(server, given):
    async with penstock.connect(server.url, name=given):
        shown = f"{gethostname()}:{getpid()}" if given is None else given
        assert server.hellos[0].client == shown


async def test_handles_exist_before_the_client_is_open_and_calls_wait_for_it(server):
    client = penstock.connect(server.url)
    describing = asyncio.ensure_future(client.describe_queue("jobs"))
    await client
    (await server.asked(DescribeQueue)).reply(queue_document())
    assert (await describing).name == "jobs"
    await client.close()


async def test_leaving_the_block_closes_and_a_closed_client_says_so(server):
    async with penstock.connect(server.url) as client:
        pass
    await until(lambda: not server.peers)
    with pytest.raises(ClientClosed):
        await client.describe_queue("jobs")
    with pytest.raises(ClientClosed, match="connect"):
        await client
    await client.close()


async def test_a_client_that_cannot_connect_is_closed():
    client = penstock.connect("penstock://127.0.0.1:1", connect_timeout=0.01)
    with pytest.raises(Disconnected):
        await client
    with pytest.raises(ClientClosed):
        await client.describe_queue("jobs")


async def test_closing_stops_consumers_before_it_says_goodbye(server):
    order = []

    class Consumer:
        def stop(self):
            order.append("stop")

        async def closed(self):
            order.append(("closed", len(server.peers)))

    async with penstock.connect(server.url) as client:
        client.consumers.add(Consumer())
    assert order == ["stop", ("closed", 1)]


async def test_closing_gives_up_on_a_consumer_that_does_not_end(server):
    class Consumer:
        def stop(self):
            pass

        async def closed(self):
            await asyncio.Event().wait()

    client = await penstock.connect(server.url)
    client.consumers.add(Consumer())
    await client.close(timeout=0.01)
    await until(lambda: not server.peers)


@pytest.mark.parametrize(
    "arguments",
    [{"url": "redis://h"}, {"timeout": -1}, {"connect_timeout": float("nan")}, {"linger": float("inf")}],
    ids=["a URL of something else", "a negative time", "no time", "an endless time"],
)
def test_malformed_arguments_are_invalid_before_anything_is_opened(arguments):
    with pytest.raises(Invalid):
        penstock.connect(**arguments)
