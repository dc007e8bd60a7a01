"""What `import penstock` shows and costs, and that users' code is clean under strict type checkers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import penstock
from penstock_protocol.errors import TABLE

EIGHT_LINES = """\
import asyncio, penstock

async def send_email(message):
    print("to", message.text, "attempt", message.attempt)

async def main():
    async with penstock.connect() as client:
        emails = await client.create_queue("emails")
        await emails.enqueue("user:42")
        await emails.work(send_email, concurrency=10)

asyncio.run(main())
"""

TYPED_USE = """\
import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import assert_type

import penstock
from penstock import Backoff, Message, Outgoing, codecs


class Order:
    number = 1


class OrderCodec:
    def encode(self, value: Order, /) -> bytes:
        return b"%d" % value.number

    def decode(self, raw: bytes, /) -> Order:
        return Order()


async def handle(message: Message[bytes]) -> None:
    print("to", message.text, "attempt", message.attempt)


async def charge(record: penstock.Record[object]) -> None:
    print(record.text)


async def main() -> None:
    async with penstock.connect(name="worker", timeout=timedelta(seconds=5), on_event=print) as client:
        emails = await client.create_queue("emails", visibility_timeout=5, retry=Backoff(max=60))
        assert_type(emails, penstock.Queue[bytes])
        receipt = await emails.enqueue("user:42", headers={"a": 1, "b": None})
        assert_type(receipt, penstock.Receipt)
        receipts = await emails.enqueue_many([b"a", "b", Outgoing("c", headers={"d": b"e"})], atomic=True)
        assert_type(receipts[0], penstock.Receipt)
        await emails.enqueue("later", delay=timedelta(days=1), ttl=5, priority=9, message_group="acme")
        await emails.enqueue_many([Outgoing("once", dedup_id="d", job_key="k", on_conflict="keep")])
        tenants = await client.create_queue(None, fair=True, group_weights={"acme": 3}, exclusive=True)
        assert_type(await tenants.request("ping", 1.0, headers={"a": 1}), Message[bytes])
        orders = client.queue("orders", codec=OrderCodec())
        assert_type(orders, penstock.Queue[Order])
        await orders.enqueue(Order())
        for order in await orders.receive(10, wait=1.0):
            assert_type(order.body, Order)
            assert_type(order.enqueued_at, datetime)
            assert_type(order.checkpoint, bytes | None)
            assert_type(order.history, penstock.History | None)
            await order.extend(60, checkpoint=b"half-way")
            await order.reply(Order())
        for seen in await orders.find(header=("user", 42)):
            assert_type(seen.message, Message[Order])
        scheduled = await emails.schedule("daily", "report", cron="0 9 * * 1-5", options={"priority": 1})
        assert_type(scheduled.next, tuple[datetime, ...])
        await emails.schedule("other", "report", **scheduled.settings)
        assert_type(await orders.redrive("emails", limit=5, dry_run=True), penstock.Redriven)
        assert_type((await orders.explain("id")).reasons, tuple[str, ...])
        async with emails.consume(prefetch=10, priority=1, settle=True) as consumer:
            async for message in consumer:
                assert_type(message, Message[bytes])
                async with message:
                    raise penstock.Retry(delay=1)
        await emails.work(handle, concurrency=10)
        stats = await emails.stats()
        assert_type(stats.ready, int)
        described = await client.describe_queue("emails")
        await client.create_queue("copy", **described.settings)
        topic = await client.create_topic("log", partitions=3)
        metadata = await topic.produce("x", key="k", timestamp=datetime.now(timezone.utc))
        assert_type(metadata, penstock.RecordMetadata)
        values = client.topic("values", codec=codecs.json)
        async with topic.consumer("readers", partitions=[0]) as records:
            async for record in records:
                assert_type(record.value, bytes | None)
                await records.commit()

        async def revoked(partitions: Sequence[int]) -> None:
            await members.commit()

        members = values.consumer("g", start="latest", auto_commit=True, until="now", on_revoked=revoked)
        async with members as member:
            assert_type(member.assignment, tuple[int, ...])
            await member.work(charge, dead_letter=emails, retry=Backoff(max=5), max_attempts=3)
        async with client.consumer("g", topics=["a.*"], codec=OrderCodec(), rate="recorded") as several:
            assert_type(several.assignment, tuple[penstock.TopicPartition, ...])
            several.pause(*several.assignment)
            async for found in several:
                assert_type(found, penstock.Record[Order])
        async with topic.consumer(None, partitions=[0], until={0: 5}, rate=10, where={"key": "a*"}) as reader:
            async for batch in reader.batches(100):
                assert_type(batch, Sequence[penstock.Record[bytes]])
        plan = await client.group("g").reset("log", "-5", dry_run=True)
        assert_type(plan, list[penstock.OffsetChange])
        assert_type((await client.group("g").describe()).members, tuple[penstock.GroupMember, ...])
        print(values, await client.group("readers").offsets("log"))
        try:
            await emails.enqueue("x", timeout=1.0)
        except penstock.OutcomeUnknown as error:
            print(await error.retry())
        except penstock.BatchError as error:
            print(len(error.receipts), error.refused, error.unknown)
        except penstock.Refused as error:
            print(error.code, error.message, error.hint, error.retriable, error.retry_after)


asyncio.run(main())
"""

ROOT = Path(__file__).parents[3]
CHECKERS = {
    "mypy": ["-m", "mypy", "--strict", "--no-incremental"],
    "pyright": ["-m", "pyright", "--warnings"],
}


def check(checker: str, tmp_path: Path, program: str) -> str:
    """What the checker says about a program of a user; empty if it is clean."""
    (tmp_path / "program.py").write_text(program)
    paths = [str(ROOT / "client"), str(ROOT / "protocol")]
    settings = {"typeCheckingMode": "strict", "extraPaths": paths}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    found = subprocess.run(
        [sys.executable, *CHECKERS[checker], "program.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": ":".join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout + found.stderr if found.returncode else ""


def annotated(program: str) -> str:
    """The eight lines as strict checkers want functions: with their types."""
    return (
        program.replace("import asyncio, penstock", "import asyncio\n\nimport penstock")
        .replace("send_email(message):", "send_email(message: penstock.Message[bytes]) -> None:")
        .replace("main():\n    async", "main() -> None:\n    async")
    )


@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.parametrize("program", [annotated(EIGHT_LINES), TYPED_USE], ids=["eight lines", "everything"])
def test_users_code_is_clean_under_strict_checkers(checker, program, tmp_path):
    assert check(checker, tmp_path, program) == ""


MISTAKES = """\
import penstock
async def main(client: penstock.Client) -> None:
    await client.create_queue("q", max_atempts=1)
    await client.create_queue("q", max_attempts="1")
    await client.queue("q").enqueue(5)
    await client.queue("q").enqueue("x", delya=5)
    await client.queue("q").enqueue("x", on_conflict="drop")
    (await client.queue("q").receive())[0].nope
"""


@pytest.mark.parametrize("checker", CHECKERS)
def test_mistakes_in_users_code_are_found(checker, tmp_path):
    found = check(checker, tmp_path, MISTAKES)
    assert {int(line) for line in re.findall(r"program\.py:(\d+)", found)} == {3, 4, 5, 6, 7, 8}


def loaded_by(program: str) -> set[str]:
    """Top-level modules a program loads beyond the standard library."""
    program += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    out = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    return set(out.stdout.split()) - set(sys.stdlib_module_names)


def test_import_penstock_loads_the_standard_library_msgpack_and_the_protocol_alone():
    loaded = loaded_by("import penstock") - loaded_by("import msgpack")
    assert loaded - {"isal"} == {"penstock", "penstock_protocol"}  # that one is used where it happens to be


def test_client_without_the_fast_checksum_has_that_of_the_standard_library():
    without = (
        "import sys; sys.modules['isal'] = None; import penstock.client, penstock_protocol.checksum as c"
    )
    assert "isal" not in loaded_by(without + "; assert c.crc32.__module__ == 'zlib'; del sys.modules['isal']")


def test_every_public_name_is_there_and_every_name_there_is_public():
    public = {name for name in vars(penstock) if not name.startswith("_")}
    modules = {path.stem for path in Path(penstock.__file__).parent.iterdir()}
    assert set(penstock.__all__) <= public
    assert public - set(penstock.__all__) <= modules
    assert sorted(penstock.__all__) == sorted(set(penstock.__all__))


def test_every_error_a_call_can_raise_is_exported():
    inside = {"SequenceGap", "NotOwner", "Unsupported", "Closing", "BadFrame", "Cancelled"}
    raised = {cls.__name__ for cls in TABLE.values()} - inside
    assert raised <= set(penstock.__all__)


def test_every_error_of_its_own_says_what_to_do():
    classes = [getattr(penstock, name) for name in penstock.__all__]
    errors = {cls for cls in classes if isinstance(cls, type) and issubclass(cls, penstock.Error)}
    silent = {cls for cls in errors if cls.advice == penstock.Error.advice}
    assert silent == {penstock.Error, penstock.Refused, penstock.BatchError}
