"""Commands that other parts of the distribution bring: functions `(argv) -> exit code`, found by name.

The base command line never imports them before they are typed, and works without what they need.
"""

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points

from penstock.cli.command import Usage

GROUP = "penstock.commands"
PROVIDERS = {
    "serve": ("server", "Run a broker."),
    "config": ("server", "Show the settings a broker would run with."),
    "doctor": ("server", "Check a data directory, and say what to do about it."),
    "dump": ("server", "Print what stands in a data directory."),
    "backup": ("server", "Copy a data directory, also while a broker serves it."),
    "repair": ("server", "Cut what is damaged in a data directory, by name."),
    "loadtest": ("loadtest", "Measure a broker under load, and compare it with others."),
}
"""Commands of this project that an extra of the distribution brings, and what they do."""


def names() -> set[str]:
    """Every command that may be asked for here."""
    return PROVIDERS.keys() | {entry.name for entry in entry_points(group=GROUP)}


def load(name: str) -> Callable[[Sequence[str]], int]:
    """The function of a command. Raises `Usage` that says what to install."""
    found = next(iter(entry_points(group=GROUP, name=name)), None)
    extra, _ = PROVIDERS.get(name, ("server", ""))
    install = f"pip install 'penstock[{extra}]'"
    if found is None:
        raise Usage(f"`penstock {name}` is not installed: {install}")
    try:
        command: Callable[[Sequence[str]], int] = found.load()
    except ModuleNotFoundError as error:
        raise Usage(f"`penstock {name}` needs {error.name}, which is not installed: {install}") from error
    return command
