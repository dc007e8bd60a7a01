"""What the world is like is known in one room each: time, chance, files, the environment, the event loop.

Everyone else is handed a clock, a random, files. That is what lets the whole node run in a simulator.
"""

import ast
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.house.source import modules, texts, uses

BROKER, CLIENT = "broker/penstock_broker", "client/penstock"


class Ban(NamedTuple):
    """Names that only some files of the given packages may use; all are patterns."""

    packages: tuple[str, ...]
    names: tuple[str, ...]
    rooms: tuple[str, ...]


CHANCE = (
    "random.[a-z]*",
    "random.Random()",
    "random.SystemRandom*",
    "uuid.uuid[14]*",
    "os.urandom",
    "secrets.*",
)
TIME = (
    "time.*",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "datetime.date.today",
)
ENVIRONMENT = ("os.environ*", "os.getenv", "os.putenv")
FILES = ("builtins.open()", "io.open", "os.*", "mmap*", "shutil*", "tempfile*", "fcntl*")

BANS = {
    "time in the broker": Ban(("broker", "protocol"), TIME, (f"{BROKER}/clock.py",)),
    "chance in the broker": Ban(
        ("broker", "protocol"), CHANCE, (f"{BROKER}/server/node.py", f"{BROKER}/tools/command.py")
    ),
    "files in the broker": Ban(
        ("broker", "protocol"),
        FILES,
        (f"{BROKER}/storage/os_*.py", f"{BROKER}/config.py", f"{BROKER}/tools/directory.py"),
    ),
    "the environment in the broker": Ban(("broker", "protocol"), ENVIRONMENT, (f"{BROKER}/config.py",)),
    "the event loop in the broker": Ban(
        ("broker", "protocol"),
        ("asyncio*", "uvloop*", "selectors*"),
        (f"{BROKER}/server/*", f"{BROKER}/admin/*"),
    ),
    "sockets in the broker": Ban(
        ("broker", "protocol"), ("socket*", "ssl*"), (f"{BROKER}/server/*", f"{BROKER}/admin/*")
    ),
    "threads in the broker": Ban(
        ("broker", "protocol"),
        ("threading*", "concurrent*", "multiprocessing*", "subprocess*"),
        (f"{BROKER}/server/workers.py", f"{BROKER}/storage/os_files.py"),
    ),
    "logging below the shell": Ban(
        ("broker", "protocol"),
        ("logging*", "structlog*", "builtins.print"),
        (f"{BROKER}/server/*", f"{BROKER}/__main__.py"),
    ),
    "time in the client": Ban(("client",), TIME, (f"{CLIENT}/connection.py", f"{CLIENT}/cli/*")),
    "chance in the client": Ban(("client",), CHANCE, (f"{CLIENT}/client.py",)),
    "the environment in the client": Ban(
        ("client",), ENVIRONMENT, (f"{CLIENT}/endpoint.py", f"{CLIENT}/cli/*")
    ),
    "files in the client": Ban(("client",), FILES, (f"{CLIENT}/endpoint.py", f"{CLIENT}/cli/*")),
    "sleeping instead of waiting": Ban(("broker", "protocol", "client"), ("time.sleep*",), ()),
    "unpickling, evaluating": Ban(
        ("broker", "protocol", "client", "loadtest"),
        ("pickle*", "marshal*", "builtins.eval", "builtins.exec"),
        (),
    ),
}


def offences(ban: Ban) -> list[str]:
    return [
        f"{path}:{line}: {name}"
        for path, tree in modules(*ban.packages).items()
        if not any(fnmatchcase(str(path), room) for room in ban.rooms)
        for line, name in uses(tree)
        if any(fnmatchcase(name, pattern) for pattern in ban.names)
    ]


@pytest.mark.parametrize("ban", BANS.values(), ids=BANS)
def test_name_is_used_in_its_own_room_alone(ban: Ban) -> None:
    assert offences(ban) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import time\ntime.time()", "time.time()"),
        ("import time as t\nt.monotonic()", "time.monotonic()"),
        ("from time import monotonic as now\nx = now", "time.monotonic"),
        ("import os.path\nos.getenv('A')", "os.getenv()"),
        ("from random import Random\nRandom(1)", "random.Random()"),
        ("from datetime import datetime\ndatetime.now()", "datetime.datetime.now()"),
        ("open('a')", "builtins.open()"),
    ],
)
def test_full_names_are_seen_through_imports(source: str, name: str) -> None:
    assert name in {found for _, found in uses(ast.parse(source))}


@pytest.mark.parametrize(
    "source",
    [
        "from random import Random\ndef f(random: Random) -> float:\n    return random.random()",
        "class A:\n    def open(self) -> None: ...\nA().open()",
        "def f(time: int) -> int:\n    return time",
    ],
)
def test_names_that_only_look_alike_are_not_banned(source: str) -> None:
    found = {name for _, name in uses(ast.parse(source))}
    names = [pattern for ban in BANS.values() for pattern in ban.names]
    assert not [name for name in found for pattern in names if fnmatchcase(name, pattern)]


# words of haste

HASTE = {
    "a note to finish later": re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b"),
    "a type error ignored without its code": re.compile(r"#\s*type:\s*ignore(?!\[)"),
    "a lint ignored without its code": re.compile(r"#\s*(ruff:\s*)?noqa(?!:\s*[A-Z]+\d)", re.IGNORECASE),
    "a breakpoint": re.compile(r"\bbreak" r"point\(\)|\bpdb\b"),
}
PYTHON = [path for path in texts() if path.suffix == ".py"]


@pytest.mark.parametrize("haste", HASTE.values(), ids=HASTE)
def test_source_has_no_sign_of_haste(haste: re.Pattern[str]) -> None:
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in PYTHON
        for number, line in enumerate(texts()[path].splitlines(), 1)
        if haste.search(line) and path != Path("tests/house/test_bans.py")
    ]
    assert found == []


def swallows(handler: ast.ExceptHandler) -> bool:
    """It catches everything, or catches broadly and does nothing about it."""
    if handler.type is None:
        return True
    broad = ast.unparse(handler.type) in ("Exception", "BaseException")
    empty = all(isinstance(node, ast.Pass | ast.Continue) for node in handler.body)
    return broad and empty


def test_no_exception_is_swallowed() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and swallows(node)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("body", "swallowed"),
    [
        ("except: raise", True),
        ("except Exception: pass", True),
        ("except BaseException: pass", True),
        ("except Exception: stop()", False),
        ("except KeyError: pass", False),
    ],
)
def test_swallowed_exceptions_are_seen(body: str, swallowed: bool) -> None:
    (attempt,) = ast.parse(f"try: f()\n{body}").body
    assert isinstance(attempt, ast.Try)
    assert swallows(attempt.handlers[0]) is swallowed
