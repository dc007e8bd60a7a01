"""A full disk refuses publishes and nothing else, and when there is room again they go on, without a restart.

`python -m tests.disk.full` is the same by hand, and for long.
"""

from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from penstock_protocol.errors import DiskFull
from tests.disk.books import patiently
from tests.disk.disks import MIB, Disk, disk, empty, fill
from tests.disk.full import GREEDY, SMALL, Tenant, churn

pytestmark = pytest.mark.root

SEED = 1
CHURN_SECONDS = 5.0
LARGE_BYTES = 10_000


@pytest.fixture
def tenant(small_disk: Disk, tmp_path: Path) -> Tenant:
    """A broker of small files on a small disk, to be run."""
    return Tenant(small_disk, tmp_path, SMALL)


def prepare(tenant: Tenant) -> None:
    """Some of everything that a full disk must not stand in the way of, as far as there is room."""
    with suppress(DiskFull):
        for _ in range(20):
            patiently(lambda: tenant.books.enqueue(tenant.client))
            patiently(lambda: tenant.books.produce(tenant.client))


@pytest.mark.covers(
    *("enqueue", "receive/lease", "ack", "produce", "offsets"),
    *("disk full",),
)
def test_publishing_goes_on_after_the_messages_that_fill_the_disk_are_settled(tenant: Tenant) -> None:
    with tenant.running():
        prepare(tenant)
        tenant.until_full(LARGE_BYTES)
        tenant.settle(100)
        while tenant.books.take(tenant.client, 1_000):
            pass
        print(f"{tenant.until_publishing():.2f} s from settled to confirmed")
        tenant.close_the_books()
        tenant.stop()


@pytest.mark.parametrize("spare", [0, 100_000, MIB], ids=["to the last byte", "almost", "to a mebibyte"])
def test_publishing_goes_on_after_somebody_else_filled_the_disk_and_left(tenant: Tenant, spare: int) -> None:
    with tenant.running():
        prepare(tenant)
        fill(tenant.disk.root, spare)
        tenant.until_full(LARGE_BYTES)
        for _ in range(5):
            tenant.settle(10)
        tenant.go_on_with_room()


@pytest.mark.parametrize(
    ("allocation", "killed"),
    [(1, False), (1, True), (2, True), (3, False), (5, True), (8, False), (13, True), (21, False)],
)
def test_broker_lives_through_a_disk_that_fills_in_an_allocation(
    tenant: Tenant, allocation: int, killed: bool
) -> None:
    spare = Random(allocation).choice((0, 4_096, 70_000))
    fault = {"ALLOCATIONS": str(allocation), "FILLS": str(tenant.disk.root), "SPARES": str(spare)}
    with tenant.running(GREEDY, **fault):
        prepare(tenant)
        tenant.until_full(LARGE_BYTES)
        tenant.settle(100)
        if not killed:
            tenant.go_on_with_room()
    if killed:
        empty(tenant.disk.root)
        fill(tenant.disk.root, MIB)  # a start needs little room
        with tenant.running():
            tenant.settle(100)
            tenant.go_on_with_room()


@pytest.mark.covers(
    *("enqueue", "receive/lease", "ack", "produce", "offsets", "archive", "checkpoint"),
    *("disk full", "kill -9", "checkpoint damaged"),
)
def test_default_configuration_lives_through_a_full_disk_a_kill_and_a_rotten_checkpoint(
    tmp_path: Path,
) -> None:
    with disk(192 * MIB) as on:
        tenant = Tenant(on, tmp_path)
        with tenant.running():
            prepare(tenant)
            tenant.until_full(60_000)
            tenant.settle(100)
            files = {path.name.partition("-")[0] for path in tenant.data.iterdir()}
            assert files == {"journal", "segment", "checkpoint", "lock"}
        with tenant.running():
            tenant.settle(100)
        newest = max(tenant.data.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime_ns)
        newest.write_bytes(bytes(newest.stat().st_size))
        with tenant.running():
            tenant.settle(100)
            while tenant.books.take(tenant.client):
                pass
            tenant.go_on_with_room()
        with tenant.running():
            tenant.close_the_books()
            tenant.stop()


def test_room_comes_and_goes(tenant: Tenant) -> None:
    churn(tenant, CHURN_SECONDS, Random(SEED), print)
