"""The broker as a process: how it starts, refuses to start, stops, dies and comes back."""

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.process import BrokerProcess
from tests.integration.raw import RawClient

StartBroker = Callable[..., BrokerProcess]

FAILING_DISK = """
import sys
from penstock_broker.__main__ import command
from penstock_broker.storage.os_files import OsFiles
good = OsFiles._write
def bad(self, job):
    raise OSError(5, "Input/output error")
def good_once(self, job):
    OsFiles._write = bad
    good(self, job)
OsFiles._write = good_once
sys.exit(command(sys.argv[1:]))
"""
BROKEN_CORE = """
import sys
from penstock_broker.__main__ import command
from penstock_broker.core import Core
def publish(self, *_):
    assert False, "credit is negative"
Core.publish = publish
sys.exit(command(sys.argv[1:]))
"""
ENDLESS_DRAIN = """
import sys
from penstock_broker.__main__ import command
from penstock_broker.core import Core
Core.stopped = property(lambda self: False)
sys.exit(command(sys.argv[1:]))
"""


def listen_unix(path: Path) -> socket.socket:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(path))
    manager.settimeout(20)
    return manager


# ---- Start


def test_ready_line_names_both_ports_and_the_data(broker: BrokerProcess) -> None:
    assert set(broker.ready) == {"event", "tcp", "http", "data"}
    assert broker.ready["event"] == "ready"
    assert broker.ready["data"] == str(broker.data)
    with RawClient(broker.address) as client:
        assert client.welcome.server.startswith("penstock ")
    assert broker.get("/readyz") == (200, '{"status": "ready"}')
    assert broker.get("/livez") == (200, '{"status": "alive"}')


def test_service_manager_hears_of_recovery_readiness_life_and_stop(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    with listen_unix(tmp_path / "notify") as manager:
        environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "30000000"}
        broker = start_broker(environ=environ).wait_ready()
        assert broker.stop() == 0
        said = []
        while "STOPPING=1" not in said:
            said.append(manager.recv(200).decode())
    assert said[0].startswith("EXTEND_TIMEOUT_USEC=")
    assert "WATCHDOG=1" in said
    assert said.index("READY=1") < said.index("STOPPING=1")


def test_person_is_told_where_it_listens_where_data_is_and_what_to_type(start_broker: StartBroker) -> None:
    broker = start_broker("--set", "log.format=console").wait_ready()
    assert broker.stop() == 0
    tcp, web, data = (broker.ready[key] for key in ("tcp", "http", "data"))
    lines = [line.strip() for line in broker.log().splitlines() if line.startswith("  ")]
    assert lines == [
        f"listening  penstock://{tcp}  and  http://{web}/metrics",
        f"data       {data}",
        f"try        penstock queue create emails --url penstock://{tcp}",
    ]


# ---- Refusing to start


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--set", "server.prot=1"], "there is no setting 'server.prot'; the nearest is server.port"),
        (["--set", "limits.message_bytes=1TiB"], "must be a size"),
        (["--durability", "sometimes"], "must be fsync, interval:50ms (from 1ms to 60000ms) or os"),
        (["--config", "/nowhere.toml"], "cannot read /nowhere.toml"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:0"),
    ],
)
def test_wrong_setting_is_one_line_and_exit_1(
    start_broker: StartBroker, flags: list[str], complaint: str
) -> None:
    broker = start_broker(*flags)
    assert broker.wait() == 1
    assert complaint in broker.log()
    assert broker.log().count("\n") == 1


def test_unknown_flag_is_exit_2(start_broker: StartBroker) -> None:
    assert start_broker("--prot", "1").wait() == 2


def test_good_configuration_is_told_without_starting(start_broker: StartBroker) -> None:
    broker = start_broker("--check-config")
    assert broker.wait() == 0
    assert not broker.data.exists()


def test_second_broker_on_a_directory_is_refused_with_the_process_in_its_way(
    broker: BrokerProcess, start_broker: StartBroker
) -> None:
    second = start_broker()
    assert second.wait() == 1
    assert second.log() == f"penstock: data directory {broker.data} is in use by process {broker.pid}\n"
    assert broker.get("/readyz")[0] == 200


def test_port_that_is_taken_is_one_line_and_exit_1(
    broker: BrokerProcess, start_broker: StartBroker, tmp_path: Path
) -> None:
    flags = ["--port", str(broker.address[1]), "--http-port", "0"]
    second = start_broker(*flags, data=tmp_path / "other")
    assert second.wait() == 1
    assert "Address already in use; choose another port with --port" in second.log()
    assert second.log().count("\n") == 1


def test_data_path_that_is_a_file_is_one_line_and_exit_1(start_broker: StartBroker, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    broker = start_broker(data=tmp_path / "file")
    assert broker.wait() == 1
    assert broker.log().count("\n") == 1


# ---- Stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_drains_and_ends_with_0(broker: BrokerProcess, number: int) -> None:
    with RawClient(broker.address) as client:
        client.create_queue("jobs")
        client.enqueue("jobs", b"one")
        broker.signal(number)
        assert broker.wait() == 0
        while client.next() is not None:
            pass
    assert [event["event"] for event in broker.events()] == ["recovered", "ready", "stopping", "stopped"]


def test_what_was_confirmed_is_there_after_a_clean_stop(
    broker: BrokerProcess, start_broker: StartBroker
) -> None:
    with RawClient(broker.address) as client:
        client.create_queue("jobs")
        client.enqueue("jobs", b"one", b"two")
    assert broker.stop() == 0
    again = start_broker().wait_ready()
    with RawClient(again.address) as client:
        assert client.receive("jobs") == [b"one", b"two"]


def test_what_was_confirmed_is_there_after_kill_9(broker: BrokerProcess, start_broker: StartBroker) -> None:
    life = broker
    expected: list[bytes] = []
    for number in range(3):
        with RawClient(life.address) as client:
            client.create_queue("jobs")
            body = b"body %d" % number
            client.enqueue("jobs", body)
            expected.append(body)
            life.kill()
        life = start_broker().wait_ready()
    with RawClient(life.address) as client:
        assert client.receive("jobs") == expected


def test_second_signal_ends_it_at_once_with_1(start_broker: StartBroker, tmp_path: Path) -> None:
    with listen_unix(tmp_path / "notify") as manager:
        broker = start_broker(script=ENDLESS_DRAIN, environ={"NOTIFY_SOCKET": manager.getsockname()})
        broker.wait_ready().signal(signal.SIGTERM)
        while manager.recv(200) != b"STOPPING=1":
            pass
        broker.signal(signal.SIGTERM)
        assert broker.wait() == 1


def test_drain_that_takes_longer_than_its_time_ends_with_1(start_broker: StartBroker) -> None:
    broker = start_broker("--set", "server.stop_timeout=1s", script=ENDLESS_DRAIN).wait_ready()
    assert broker.stop() == 1
    assert broker.events()[-1]["event"] == "stopped_before_drained"


# ---- What ends it


def test_disk_that_fails_ends_the_broker_with_4_and_nothing_more_is_confirmed(
    start_broker: StartBroker,
) -> None:
    broker = start_broker(script=FAILING_DISK).wait_ready()
    with RawClient(broker.address) as client, pytest.raises(ConnectionError):
        client.create_queue("jobs")
    assert broker.wait() == 4
    (event,) = [event for event in broker.events() if event["level"] == "critical"]
    assert event["event"] == "storage_failed"


def test_failed_assert_ends_the_broker_with_5_and_one_event_with_its_traceback(
    start_broker: StartBroker,
) -> None:
    broker = start_broker(script=BROKEN_CORE).wait_ready()
    with RawClient(broker.address) as client:
        client.create_queue("jobs")
        with pytest.raises(ConnectionError):
            client.enqueue("jobs", b"one")
    assert broker.wait() == 5
    (event,) = [event for event in broker.events() if event["level"] == "critical"]
    assert event["event"] == "assert_failed"
    assert "credit is negative" in event["exception"]


def test_log_is_json_line_by_line(broker: BrokerProcess) -> None:
    assert broker.stop() == 0
    assert all(isinstance(json.loads(line), dict) for line in broker.log().splitlines())
