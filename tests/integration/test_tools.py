"""dump, doctor, repair and backup as people type them, on directories of real brokers."""

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.command import PENSTOCK, SECONDS
from tests.integration.process import BrokerProcess
from tests.integration.raw import RawClient

import penstock
from penstock_broker.storage.files import PAGE_BYTES
from penstock_broker.tools.directory import Directory
from penstock_broker.tools.doctor import study

StartBroker = Callable[..., BrokerProcess]
SMALL = (
    *("--set", "storage.journal_budget_bytes=8MiB"),
    *("--set", "storage.journal_file_bytes_min=64KiB"),
    *("--set", "storage.journal_file_bytes_max=512KiB"),
)
BODY = bytes(700)
FILLED = 30_000
"""Messages, so that the journal has gone round a few times before the backup begins."""


def run(*argv: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `penstock …`."""
    done = subprocess.run(
        [*PENSTOCK, *map(str, argv)], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    return done.returncode, done.stdout, done.stderr


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def filled(start_broker: StartBroker, messages: int = 6) -> BrokerProcess:
    """A broker with a queue `jobs`."""
    broker = start_broker().wait_ready()
    with RawClient(broker.address) as client:
        client.create_queue("jobs")
        for number in range(messages):
            client.enqueue("jobs", b"%d" % number)
    return broker


# Backup


class Load:
    """Publishers and a consumer at work; what they know for sure."""

    def __init__(self) -> None:
        self.jobs: list[bytes] = []
        """Confirmed, in a queue with a consumer."""
        self.kept: list[bytes] = []
        """Confirmed, in a queue without one."""
        self.records: list[bytes] = []
        self.acked: set[bytes] = set()
        """Acks that were begun."""
        self.stopped = False
        self._grown = asyncio.Event()

    async def publish(self, queue: penstock.Queue[bytes], confirmed: list[bytes]) -> None:
        number = 0
        while not self.stopped:
            bodies = [b"%d " % (number + more) + BODY for more in range(50)]
            await queue.enqueue_many(bodies)
            confirmed += bodies
            self._grown.set()
            number += 50

    async def produce(self, topic: penstock.Topic[bytes]) -> None:
        number = 0
        while not self.stopped:
            values = [b"%d " % (number + more) + BODY for more in range(50)]
            await topic.produce_many(values)
            self.records += values
            number += 50

    async def consume(self, queue: penstock.Queue[bytes]) -> None:
        while not self.stopped:
            messages = await queue.receive(100, wait=0.2)
            self.acked.update(message.body for message in messages)
            await messages.ack()

    async def reached(self, messages: int) -> None:
        """Wait until so many are confirmed."""
        while self.confirmed < messages:
            self._grown.clear()
            await self._grown.wait()

    @property
    def confirmed(self) -> int:
        return len(self.jobs) + len(self.kept) + len(self.records)


@asynccontextmanager
async def under_load(url: str) -> Any:
    """A client with everything at work beside the block."""
    load = Load()
    async with penstock.connect(url, timeout=30) as client:
        jobs = await client.create_queue("jobs")
        kept = await client.create_queue("kept")
        events = await client.create_topic("events")
        async with asyncio.TaskGroup() as tasks:
            for work in (
                load.publish(jobs, load.jobs),
                load.publish(kept, load.kept),
                load.produce(events),
                load.consume(jobs),
            ):
                tasks.create_task(work)
            try:
                yield load
            finally:
                load.stopped = True


async def drained(client: penstock.Client, name: str) -> set[bytes]:
    """Every message of a queue."""
    bodies: set[bytes] = set()
    while messages := await client.queue(name).receive(1_000, wait=0):
        bodies.update(message.body for message in messages)
        await messages.ack()
    return bodies


async def records_of(client: penstock.Client) -> list[bytes]:
    """Every record of the topic."""
    values: list[bytes] = []
    topic = client.topic("events")
    while records := await topic.fetch(0, len(values), max_records=5_000, max_bytes=4 << 20):
        values += [record.value for record in records]
    return values


@pytest.mark.timeout(240)
async def test_backup_of_a_busy_broker_has_all_that_was_confirmed_and_serves_beside_it(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    first = start_broker(*SMALL).wait_ready()
    async with under_load(first.url) as load:
        await load.reached(FILLED)
        before = list(load.jobs), list(load.kept), list(load.records)
        code, out, err = await asyncio.to_thread(run, "backup", first.data, tmp_path / "copy")
        assert (code, out) == (
            0,
            f"{tmp_path}/copy is whole, and can be served: penstock serve --data {tmp_path}/copy\n",
        ), err
        after = len(load.kept)
        await load.reached(load.confirmed + 1_000)
    assert after > len(before[1]), "nothing was published meanwhile"

    second = start_broker(*SMALL, data=tmp_path / "copy").wait_ready()
    async with (
        penstock.connect(second.url, timeout=30) as copy,
        penstock.connect(first.url, timeout=30) as one,
    ):
        await copy.queue("kept").enqueue_many([b"only in the copy %d " % n + BODY for n in range(5_000)])
        await copy.topic("events").produce_many([b"only in the copy %d " % n + BODY for n in range(5_000)])
        records = await records_of(copy)
        assert records[: len(before[2])] == before[2]
        assert set(before[0]) - await drained(copy, "jobs") <= load.acked
        assert set(before[1]) <= await drained(copy, "kept")
        assert await records_of(one) == load.records
        assert await drained(one, "kept") == set(load.kept)
        assert set(load.jobs) - await drained(one, "jobs") <= load.acked
    assert (first.stop(), second.stop()) == (0, 0)
    assert run("doctor", first.data)[0] == 0, run("doctor", first.data)[1]
    assert run("doctor", second.data)[0] == 0, run("doctor", second.data)[1]


async def test_sealed_segments_are_linked_and_all_else_is_a_copy(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    broker = start_broker(*SMALL).wait_ready()
    async with under_load(broker.url) as load:
        await load.reached(FILLED)
    assert broker.stop() == 0
    assert run("backup", broker.data, tmp_path / "copy")[0] == 0
    directory = Directory(broker.data)
    sealed = {
        f"segment-{number:012d}"
        for number, each in study(directory).registry.node.segments.items()
        if each.sealed
    }
    directory.close()
    for path in (tmp_path / "copy").iterdir():
        shared = path.stat().st_ino == (broker.data / path.name).stat().st_ino
        assert shared == (path.name in sealed), path.name


def other_file_system(path: Path) -> Iterator[Path]:
    here = path.stat().st_dev
    return (
        each
        for each in map(Path, ("/dev/shm", "/tmp", "/run"))
        if each.is_dir() and each.stat().st_dev != here
    )


def test_backup_to_another_file_system_is_a_copy(start_broker: StartBroker, tmp_path: Path) -> None:
    place = next((each for each in other_file_system(tmp_path) if os.access(each, os.W_OK)), None)
    if place is None:
        pytest.skip("there is one file system here")
    broker = filled(start_broker)
    dest = place / f"penstock-{os.getpid()}"
    try:
        assert run("backup", broker.data, dest)[0] == 0
        code, out, _ = run("doctor", dest, "--json")
        assert (code, objects(out)[-1]["messages"]) == (0, 6)
    finally:
        for path in dest.iterdir():
            path.unlink()
        dest.rmdir()


def test_backup_into_a_directory_with_something_in_it_is_refused(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    broker = filled(start_broker)
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest/letter").write_text("dear")
    code, out, err = run("backup", broker.data, tmp_path / "dest")
    assert (code, out, err) == (
        1,
        "",
        f"penstock: {tmp_path}/dest is not empty: type a new directory for the backup\n",
    )
    assert [path.name for path in (tmp_path / "dest").iterdir()] == ["letter"]


def test_backup_of_a_damaged_directory_says_so(start_broker: StartBroker, tmp_path: Path) -> None:
    broker = filled(start_broker)
    broker.kill()
    damage(broker.data, 3, 4)
    code, _, err = run("backup", broker.data, tmp_path / "copy")
    assert code == 1
    assert f"penstock doctor {tmp_path}/copy" in err


# Doctor, dump, repair


def damage(data: Path, page: int, at: int) -> str:
    """Change one byte of a page of the first journal file; its name."""
    path = min(data.glob("journal-*"))
    with path.open("r+b") as file:
        file.seek(page * PAGE_BYTES + at)
        byte = file.read(1)
        file.seek(page * PAGE_BYTES + at)
        file.write(bytes([byte[0] ^ 0x41]))
    return path.name


def test_doctor_of_a_running_broker_names_the_process_in_its_way(start_broker: StartBroker) -> None:
    broker = filled(start_broker)
    code, out, err = run("doctor", broker.data)
    assert (code, out) == (1, "")
    assert err == f"penstock: data directory {broker.data} is in use by process {broker.pid}: stop it first\n"


def test_doctor_of_a_stopped_broker_says_healthy(start_broker: StartBroker) -> None:
    broker = filled(start_broker)
    assert broker.stop() == 0
    code, out, err = run("doctor", broker.data)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "healthy"


def test_dump_of_a_running_broker_shows_its_messages_and_notes_the_process(start_broker: StartBroker) -> None:
    broker = filled(start_broker)
    code, out, err = run("dump", broker.data, "--log", "jobs", "--offsets", "1-2", "--bodies", "--json")
    assert code == 0
    assert (
        err
        == f"penstock: process {broker.pid} serves {broker.data} at this moment: the newest may look torn\n"
    )
    assert [each["body"] for each in objects(out) if each["is"] == "message"] == ["1", "2"]


def test_dump_ends_quietly_when_its_reader_has_seen_enough(start_broker: StartBroker) -> None:
    broker = filled(start_broker, 2_000)
    assert broker.stop() == 0
    dump = subprocess.Popen(
        [*PENSTOCK, "dump", str(broker.data)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert dump.stdout is not None
    assert dump.stdout.readline()
    dump.stdout.close()
    assert dump.stderr is not None
    with dump.stderr:
        assert dump.stderr.read() == b""
    assert dump.wait(SECONDS) == 0


def test_rotten_block_is_found_and_cut_and_the_broker_serves_again(start_broker: StartBroker) -> None:
    broker = filled(start_broker)
    broker.kill()
    name = damage(broker.data, 3, 4)
    refused = start_broker()
    assert refused.wait() == 1
    code, out, _ = run("doctor", broker.data, "--json")
    found = [each for each in objects(out) if each["is"] == "finding"]
    assert code == 1
    typed = f"penstock repair DATA --block {name}:{3 * PAGE_BYTES}"
    assert typed in found[0]["do"]

    code, out, err = run("repair", broker.data, "--block", f"{name}:{3 * PAGE_BYTES}")
    assert (code, out) == (2, "")
    assert "corrupt by it, answering Corrupt from then on: queue jobs" in err
    assert err.splitlines()[-1] == "penstock: nothing was changed; add --yes to do it"
    code, out, _ = run("repair", broker.data, "--block", f"{name}:{3 * PAGE_BYTES}", "--yes")
    assert code == 0
    assert f"kept in {broker.data}/cut-{name}-{3 * PAGE_BYTES}" in out
    served = start_broker().wait_ready()
    with RawClient(served.address) as client:
        client.create_queue("others")
        client.enqueue("others", b"1")
    _, out, _ = run("queue", "list", "--url", served.url, "--json")
    assert {each["name"]: each["corrupt"] for each in objects(out)} == {"jobs": True, "others": False}
    assert run("queue", "delete", "jobs", "--yes", "--url", served.url)[0] == 0
    with RawClient(served.address) as client:
        client.create_queue("jobs")
        client.enqueue("jobs", b"1")
    assert served.stop() == 0


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("doctor",), "the following arguments are required: DATA; type penstock doctor DATA"),
        (("repair", "DATA"), "one of the arguments --block --range --checkpoint is required"),
        (("repair", "DATA", "--block", "journal"), "is no place: write it like journal-000000000001:4096"),
        (("dump", "DATA", "--kind", "APEND"), "is no kind: known are APPEND, SETTLE"),
        (("dump", "DATA", "--offsets", "9-1"), "is no range of offsets: write it like 10-19"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_what_is_typed_wrong_is_one_line_that_says_what_to_type(argv: tuple[str, ...], says: str) -> None:
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("penstock: ")
    assert err.count("\n") == 1
    assert says in err


def test_directory_that_holds_no_journal_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        code, out, err = run("doctor", path)
        assert (code, out) == (1, "")
        assert err.endswith("type the directory of `penstock serve --data`\n")
