"""Tables over the real broker: through the client, and as people type it."""

import asyncio
import signal

import pytest
from tests.fakes.proxy import Proxy
from tests.integration.command import Cli, ended, line
from tests.integration.conftest import StartBroker
from tests.integration.process import BrokerProcess

import penstock
from penstock import Client, Outgoing

SECONDS = 20


async def test_table_holds_the_last_value_of_each_key_and_follows(client: Client) -> None:
    await client.create_topic("prices", partitions=3, cleanup="compact")
    prices = client.topic("prices", codec=penstock.codecs.json, compression="lz4")
    items = [Outgoing({"n": number}, key=f"item-{number % 100}") for number in range(5_000)]
    await prices.produce_many(items)
    async with asyncio.timeout(SECONDS), prices.table() as table:
        await table.ready()
        assert dict(table.items()) == {b"item-%d" % n: {"n": 4_900 + n} for n in range(100)}
        watch = table.watch(prefix="item-7")
        await prices.produce({"n": -1}, key="item-8")
        await prices.produce({"n": -1}, key="item-7")
        assert await anext(watch) == (b"item-7", {"n": 4_907}, {"n": -1})
        await prices.produce(None, key="item-70")
        assert await anext(watch) == (b"item-70", {"n": 4_970}, None)
        assert "item-70" not in table
        assert table["item-8"] == {"n": -1}
        assert len(table) == 99
    assert await client.list_groups() == []


async def test_table_survives_lost_sockets_and_a_new_broker(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    async with Proxy(broker.address) as proxy, penstock.connect(proxy.url) as client:
        topic = await client.create_topic("state", cleanup="compact")
        async with asyncio.timeout(SECONDS), topic.table() as table:
            await table.ready()
            watch = table.watch()
            for number in range(20):
                producing = asyncio.ensure_future(topic.produce(b"%d" % number, key="k"))
                await asyncio.sleep(0)
                proxy.cut()
                await producing
                while table.get("k") != b"%d" % number:
                    await anext(watch)


async def test_topic_that_is_not_compacted_has_no_table(client: Client) -> None:
    topic = await client.create_topic("events")
    with pytest.raises(penstock.Invalid, match="not compacted"):
        async with topic.table():
            pass
    with pytest.raises(penstock.NotFound):
        async with client.topic("nothing").table():
            pass


async def test_table_of_a_topic_that_is_deleted_says_so(client: Client) -> None:
    topic = await client.create_topic("state", cleanup="compact")
    async with asyncio.timeout(SECONDS), topic.table() as table:
        await table.ready()
        watch = table.watch()
        await client.delete_topic("state")
        with pytest.raises(penstock.NotFound):
            await anext(watch)
        with pytest.raises(penstock.NotFound):
            table.get("k")


async def test_client_that_closes_ends_its_tables(broker: BrokerProcess) -> None:
    async with penstock.connect(broker.url) as client:
        table = (await client.create_topic("state", cleanup="compact")).table()
        await table.__aenter__()
        watch = table.watch()
    assert [change async for change in watch] == []
    with pytest.raises(penstock.ClientClosed):
        len(table)


# Typed


def test_table_is_printed_by_key_and_watched(cli: Cli) -> None:
    cli("topic", "create", "prices", "--cleanup", "compact")
    cli("produce", "prices", "-K", ":", "a:1", "b:2", "a:3")
    assert sorted(cli("topic", "table", "prices").splitlines()) == [b"a\t3", b"b\t2"]
    assert cli("topic", "table", "prices", "--key", "b") == b"b\t2\n"
    assert cli.objects("topic", "table", "prices", "--key", "a") == [{"key": "a", "value": "3"}]
    code, said = cli.fails("topic", "table", "prices", "--key", "c")
    assert (code, "--key" in said) == (1, True)
    watching = cli.start("topic", "table", "prices", "--watch", "--key", "a")
    assert line(watching) == b"a\t3\n"
    cli("produce", "prices", "4", "--key", "b")
    cli("produce", "prices", "5", "--key", "a")
    assert line(watching) == b"a\t5\n"
    watching.send_signal(signal.SIGINT)
    assert ended(watching)[0] == 130


def test_table_of_a_topic_that_is_not_compacted_says_what_to_type(cli: Cli) -> None:
    cli("topic", "create", "events")
    code, said = cli.fails("topic", "table", "events")
    assert code == 1
    assert "compact" in said
