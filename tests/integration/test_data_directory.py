"""A data directory that is not ours to serve is refused with one line and exit code 1."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.process import BrokerProcess
from tests.integration.raw import RawClient

from penstock_broker.storage import blocks, checkpoint
from penstock_protocol.checksum import crc32

StartBroker = Callable[..., BrokerProcess]
NEWER = 99


def with_newer_version(path: Path, header: int) -> None:
    """Raise the version in the header of a file, with a checksum that fits."""
    data = bytearray(path.read_bytes())
    data[4:6] = NEWER.to_bytes(2, "little")
    data[header : header + 4] = crc32(data[:header]).to_bytes(4, "little")
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("pattern", "header"),
    [
        pytest.param("journal-*", blocks.FILE.size, id="journal"),
        pytest.param("checkpoint-*", checkpoint.HEADER.size, id="checkpoint"),
    ],
)
def test_newer_format_is_refused_and_named(
    start_broker: StartBroker, tmp_path: Path, pattern: str, header: int
) -> None:
    assert start_broker().wait_ready().stop() == 0
    for path in (tmp_path / "data").glob(pattern):
        with_newer_version(path, header)
    second = start_broker()
    assert second.wait() == 1
    said = second.log().strip().splitlines()
    assert len(said) == 1
    assert f"format {NEWER}" in said[0]


def test_directory_that_is_removed_meanwhile_ends_the_broker_with_4(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    broker = start_broker("--set", "storage.journal_file_bytes_max=1MiB").wait_ready()
    with RawClient(broker.address) as client:

        def fill() -> None:
            for _ in range(64):
                client.enqueue("jobs", bytes(512 << 10))

        client.create_queue("jobs")
        shutil.rmtree(tmp_path / "data")
        with pytest.raises(ConnectionError):
            fill()
    assert broker.wait() == 4
