"""The README and the pages of docs: their programs, their commands, their rows, and who tries each row."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.integration.process import BrokerProcess

import penstock
from penstock import (
    Backoff,
    Client,
    Consumer,
    Group,
    Message,
    Messages,
    Outgoing,
    Queue,
    QueueSettings,
    Record,
    Records,
    Table,
    Topic,
    TopicConsumer,
    TopicSettings,
)
from penstock.outgoing import EnqueueOptions
from penstock.schedules import ScheduleSettings
from penstock.topic_consumer import TopicConsumerOptions

HERE = Path(__file__).parent
TEST = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)
DOCS = Path(__file__).parents[2] / "docs"
PROGRAM = re.compile(r"<!-- (?:program|example): (\w+) -->\n+```python\n(.*?)```", re.DOTALL)
SESSION = re.compile(r"```\n(penstock .*?)```", re.DOTALL)
CODE = re.compile(r"`([^`]+)`")
ARGUMENT = re.compile(r"\b([a-z_]+)=(?!=)")
SECONDS = 30
FACES: dict[str, tuple[type, ...]] = {
    **{"client": (Client,), "consumer": (Consumer, TopicConsumer), "group": (Group,)},
    **{"queue": (Queue,), "message": (Message,), "messages": (Messages,)},
    **{"topic": (Topic,), "record": (Record,), "records": (Records,), "table": (Table,)},
}
CALL = re.compile(rf"\b(?:({'|'.join(FACES)})\.)([a-z_]+)")
OPTIONS = (QueueSettings, TopicSettings, EnqueueOptions, ScheduleSettings, TopicConsumerOptions)


class Row(NamedTuple):
    """A row of a table: what is there, what is here, and which tests try it."""

    there: str
    here: str
    tests: tuple[str, ...]


class Page:
    """One of them; `name`: its path from docs."""

    def __init__(self, name: str) -> None:
        self.text = (DOCS / name).read_text("utf-8")

    def rows(self) -> list[Row]:
        """Every row of every table; its last cell names its tests."""
        found = []
        for line in self.text.splitlines():
            if line.startswith("| ") and not line.endswith("| tried by |"):
                cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
                found.append(Row(cells[0], cells[1], tuple(CODE.findall(cells[-1]))))
        return found

    def untried(self, tests: set[str]) -> list[str]:
        """Rows that name no test, or one that is not there."""
        return [row.there for row in self.rows() if not row.tests or not set(row.tests) <= tests]

    def unnamed(self, tests: set[str]) -> set[str]:
        """Tests that no row names."""
        return tests - {test for row in self.rows() for test in row.tests}

    def unknown_words(self) -> list[str]:
        """What the second cells call or pass, and the client does not have."""
        arguments = _arguments()
        unknown = []
        for row in self.rows():
            for code in CODE.findall(row.here):
                if code.startswith("penstock_"):  # a metric
                    continue
                unknown += [name for name in ARGUMENT.findall(code) if name not in arguments]
                unknown += [
                    f"{face}.{name}"
                    for face, name in CALL.findall(code)
                    if not any(hasattr(each, name) for each in FACES[face])
                ]
        return unknown

    def program(self, name: str) -> str:
        """A program by its name."""
        return dict(PROGRAM.findall(self.text))[name]

    def sessions(self) -> list[str]:
        """What is typed into a shell."""
        return SESSION.findall(self.text)

    def session(self, word: str) -> str:
        """The one session with that word."""
        (found,) = [each for each in self.sessions() if word in each]
        return found


def _arguments() -> set[str]:
    """Every keyword that a call of the client takes."""
    names = {name for options in OPTIONS for name in options.__annotations__}
    for each in (Backoff, Outgoing, penstock.connect):
        names |= set(inspect.signature(each).parameters)
    for face in (each for faces in FACES.values() for each in faces):
        for _, method in inspect.getmembers(face, inspect.isfunction):
            names |= set(inspect.signature(method).parameters)
    return names


def tests(pattern: str) -> set[str]:
    """The tests of some files of this folder, but for those of the page itself."""
    found: set[str] = set()
    for path in HERE.glob(pattern):
        found |= set(TEST.findall(path.read_text("utf-8")))
    return {name for name in found if not name.startswith("test_page_")}


def environ(broker: BrokerProcess, **more: str) -> dict[str, str]:
    """Where programs and commands find their broker, and themselves."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PENSTOCK_URL": broker.url, "PATH": path, "PYTHONUNBUFFERED": "1"} | more


def first_line(program: str, environment: dict[str, str]) -> str:
    """What a program prints first; it is ended then."""
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            return process.stdout.readline()
        finally:
            process.terminate()
            process.wait(SECONDS)


def run(program: str, broker: BrokerProcess) -> subprocess.CompletedProcess[str]:
    """A program run to its end."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environ(broker),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def typed(session: str, broker: BrokerProcess) -> list[str]:
    """What each line of a session prints."""
    printed = []
    for line in session.strip().splitlines():
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line.split("  #")[0]],
            env=environ(broker),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        printed.append(done.stdout)
    return printed
