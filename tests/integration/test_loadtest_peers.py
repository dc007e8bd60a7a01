"""Servers of others: started, looked at, stopped with all that they started. Any server will do for that."""

import shutil
import sys
from pathlib import Path

import pytest

from penstock_loadtest.peers.server import PeerServer

SERVE = (
    "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), None).serve_forever()"
)

pytestmark = pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv and timeout (Linux)")


class Serving(PeerServer):
    """A process that listens, and a child of it that does not care for signals."""

    PROGRAM = sys.executable

    def launch(self) -> None:
        child = "import signal, time; signal.signal(15, signal.SIG_IGN); signal.pause()"
        start = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]); {SERVE}"
        self.spawn(sys.executable, "-c", start, str(self.port))


class Failing(PeerServer):
    PROGRAM = "false"

    def launch(self) -> None:
        self.spawn("sh", "-c", "echo no room; echo no disk either; exit 3")


class Absent(PeerServer):
    PROGRAM = "surely-not-installed"

    def launch(self) -> None:
        raise AssertionError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories of servers are made below the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_server_is_used_and_stopped_with_all_that_it_started(elsewhere: Path) -> None:
    with Serving() as server:
        assert len(server.pids()) == 2
        assert server.usage().rss_anon > 0
        assert server.directory.is_dir()
    assert server.pids() == []
    assert list((elsewhere / "bench-results").iterdir()) == []


def test_server_that_ends_at_once_says_its_last_words(elsewhere: Path) -> None:
    with pytest.raises(RuntimeError, match="false ended with 3: no disk either"), Failing():
        pass
    assert list((elsewhere / "bench-results").iterdir()) == []


def test_missing_server_says_where_to_read_on() -> None:
    assert Absent.missing() == (
        "surely-not-installed is not installed: see loadtest/README.md, or run loadtest/peers/install.sh"
    )
    assert Serving.missing() is None


def test_version_is_found_by_running_it() -> None:
    (version,) = Serving().versions().values()
    assert version == ".".join(map(str, sys.version_info[:3]))
