"""What the README shows is run as it stands: both programs, and both shell sessions."""

import signal
import subprocess
import sys

import pytest
from tests.integration.pages import SECONDS, Page, environ, run, typed
from tests.integration.process import BrokerProcess

PAGE = Page("../README.md")


def test_queue_example_hands_the_message_to_the_worker_until_it_is_stopped(broker: BrokerProcess) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PAGE.program("queue")], env=environ(broker), stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "to user:42 attempt 1\n"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(SECONDS) == 0
    assert '"ready": 0' in typed("penstock queue describe emails --json", broker)[0]


def test_topic_example_prints_the_record_it_produced(broker: BrokerProcess) -> None:
    done = run(PAGE.program("topic"), broker)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("0 b'customer:7' paid 12.50\n")


def test_options_example_receives_what_is_ready_and_operators_can_do_what_they_are_told(
    broker: BrokerProcess,
) -> None:
    done = run(PAGE.program("options"), broker)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["first", "soon or never", "step 1", "once", "reindex"]
    typed(PAGE.session("redrive"), broker)
    (described,) = typed("penstock queue describe jobs --json", broker)
    assert '"ready": 1' in described
    assert '"paused": true' in described


@pytest.mark.parametrize(
    "session", [each for each in PAGE.sessions() if "redrive" not in each], ids=["queue", "topic"]
)
def test_shell_session_runs_line_by_line(session: str, broker: BrokerProcess) -> None:
    out = "".join(typed(session, broker))
    assert any(word in out for word in ("1\n2\n3\n", "paid 12.50"))
