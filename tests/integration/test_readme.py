"""What the README shows is run as it stands: both programs, and both shell sessions."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.process import BrokerProcess

README = Path(__file__).parents[2] / "README.md"
PROGRAM = re.compile(r"<!-- example: (\w+) -->\n```python\n(.*?)```", re.DOTALL)
SESSION = re.compile(r"```\n(penstock .*?)```", re.DOTALL)
SECONDS = 30


def environ(broker: BrokerProcess) -> dict[str, str]:
    """Where the commands of the README find their broker, and themselves."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PENSTOCK_URL": broker.url, "PATH": path, "PYTHONUNBUFFERED": "1"}


def program(name: str) -> str:
    return dict(PROGRAM.findall(README.read_text()))[name]


def sessions() -> list[str]:
    return SESSION.findall(README.read_text())


def shell(line: str, broker: BrokerProcess) -> str:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env=environ(broker),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def test_queue_example_hands_the_message_to_the_worker_until_it_is_stopped(broker: BrokerProcess) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", program("queue")], env=environ(broker), stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "to user:42 attempt 1\n"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(SECONDS) == 0
    assert '"ready": 0' in shell("penstock queue describe emails --json", broker)


def test_topic_example_prints_the_record_it_produced(broker: BrokerProcess) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program("topic")],
        env=environ(broker),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert done.stdout.endswith("0 b'customer:7' paid 12.50\n")


def test_options_example_receives_what_is_ready_and_operators_can_do_what_they_are_told(
    broker: BrokerProcess,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program("options")],
        env=environ(broker),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert done.stdout.splitlines() == ["first", "soon or never", "step 1", "once", "reindex"]
    (session,) = [each for each in sessions() if "redrive" in each]
    for line in session.strip().splitlines():
        shell(line.split("  #")[0], broker)
    described = shell("penstock queue describe jobs --json", broker)
    assert '"ready": 1' in described
    assert '"paused": true' in described


@pytest.mark.parametrize(
    "session", [each for each in sessions() if "redrive" not in each], ids=["queue", "topic"]
)
def test_shell_session_runs_line_by_line(session: str, broker: BrokerProcess) -> None:
    out = [shell(line.split("  #")[0], broker) for line in session.strip().splitlines()]
    assert any(word in "".join(out) for word in ("1\n2\n3\n", "paid 12.50"))
