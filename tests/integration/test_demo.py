"""The demonstration, as a user starts it."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from penstock_loadtest.broker import Broker
from penstock_loadtest.demo import PARTITIONS, Demo
from penstock_loadtest.demo_text import Text

ALL_WELL = "Every line came through both groups in order, and every job was done."


def run_demo(directory: Path, *files: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "penstock_loadtest.demo", *files]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def test_everything_comes_through_though_a_worker_and_the_broker_are_killed(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 4_000)
    (tmp_path / "long line").write_bytes(b"a" * 2_500_000 + b"\nand the end")
    (tmp_path / "new\nline").write_bytes(b"one\ntwo\n" * 2_000)
    code, said, complaints = run_demo(tmp_path, "empty", "binary", "long line", "new\nline")
    assert (code, complaints) == (0, "")
    assert "lines longer than the 1 MiB that a message may hold were cut: 2 more" in said
    assert "killed -9 while it held the job long line" in said
    assert "lines confirmed and" in said
    assert said.endswith(ALL_WELL + "\n")


@pytest.mark.parametrize(
    ("file", "complaint"),
    [("nowhere.txt", "there is no file nowhere.txt"), (".", ". is no file")],
    ids=["a missing file", "a directory"],
)
def test_unusable_file_is_one_line_and_exit_2(tmp_path: Path, file: str, complaint: str) -> None:
    assert run_demo(tmp_path, file) == (2, "", f"demo: {complaint}\n")


def test_no_repository_is_one_line_and_exit_2(tmp_path: Path) -> None:
    code, said, complaint = run_demo(tmp_path)
    assert (code, said) == (2, "")
    assert complaint == "demo: this is no git repository with a log; name files to work on\n"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("one two\nthree\n")
    text = Text(words)

    async def missing() -> list[str]:
        demo = Demo([text, text], Broker(directory=str(tmp_path)), tmp_path)
        for line in (b"one two\n", b"three\n", b"four\n"):
            demo.sent.take(1, demo.sent.lines[1], text.key, line)
        for offset, line in ((0, b"one two\n"), (1, b"three\n"), (2, b"four\n")):
            demo.read["index"].take(1, offset, text.key, line)
        for offset, line in ((0, b"three\n"), (1, b"one two\n"), (2, b"four\n")):
            demo.read["archive"].take(1, offset, text.key, line)
        demo.done[1] += [3, 2]
        return list(demo.missing())

    assert PARTITIONS > 1
    assert asyncio.run(missing()) == [
        "1 lines were not confirmed",
        "group archive, partition 1: 3 lines read, 3 sent; they differ",
        f"job {words} was not done",
        f"job {words}: [3, 2] words were found; there are 3",
    ]
