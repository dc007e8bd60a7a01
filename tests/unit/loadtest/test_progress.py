"""What is seen while a run goes on."""

import io

from penstock_loadtest.tables import Progress


class Terminal(io.StringIO):
    """Where somebody looks."""

    def isatty(self) -> bool:
        return True


def sample(at: float, confirmed: int, *seen: int) -> dict[str, object]:
    return {"at": at, "flows": [[confirmed, *seen]], "rss_anon": 50 << 20, "descriptors": 10}


def test_rates_and_backlog_are_written_over_on_a_terminal() -> None:
    terminal = Terminal()
    progress = Progress("queue on penstock", terminal)
    for at in range(3):
        progress(sample(at, at * 1_000, at * 800))
    progress.end()
    assert terminal.getvalue().split("\r\x1b[K")[1:] == [
        "queue on penstock 1 s: 1,000 in 800 out/s, 200 behind, 50 MiB",
        "queue on penstock 2 s: 1,000 in 800 out/s, 400 behind, 50 MiB",
        "",
    ]


def test_slowest_reader_counts() -> None:
    terminal = Terminal()
    progress = Progress("t", terminal)
    progress(sample(0, 0, 0, 0))
    progress(sample(1, 100, 100, 40))
    assert "100 in 40 out/s, 60 behind" in terminal.getvalue()


def test_elsewhere_there_is_a_line_now_and_then() -> None:
    file = io.StringIO()
    progress = Progress("t", file)
    for at in range(25):
        progress(sample(at, at * 10, at * 10))
    assert [line.split(":")[0] for line in file.getvalue().splitlines()] == ["t 10 s", "t 20 s"]
