"""Commands that come with extras."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from penstock.cli import main, plugins


@pytest.fixture
def installed(monkeypatch):
    def install(**commands):
        found = EntryPoints(EntryPoint(name, target, plugins.GROUP) for name, target in commands.items())
        monkeypatch.setattr(plugins, "entry_points", lambda **wanted: found.select(**wanted))

    return install


def test_missing_command_says_what_to_install(installed, capsys):
    installed()
    assert main(["serve", "--port", "0"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "penstock: `penstock serve` is not installed: pip install 'penstock[server]'\n")


def test_command_without_its_libraries_says_what_to_install(installed, capsys):
    installed(serve="surely_not_installed.anywhere:command")
    assert main(["serve"]) == 2
    _, err = capsys.readouterr()
    assert "needs surely_not_installed, which is not installed: pip install 'penstock[server]'" in err
    assert err.count("\n") == 1


def command(argv):
    """What an entry point names: it returns its exit code."""
    return len(argv)


def test_command_gets_what_follows_its_name_and_sets_the_exit_code(installed):
    installed(count=f"{__name__}:command")
    assert main(["count", "a", "--b", "c"]) == 3


def test_options_in_front_of_a_command_reach_it(installed):
    installed(count=f"{__name__}:command")
    assert main(["--json", "count"]) == 1


def test_base_command_line_imports_nothing_of_the_server(run_python):
    loaded = run_python(
        "import sys; from penstock.cli import main; main(['--version']);"
        "print([name for name in sys.modules if name.split('.')[0] in"
        " ('penstock_broker', 'aiohttp', 'structlog', 'prometheus_client', 'uvloop')])"
    )
    assert loaded.splitlines()[-1] == "[]"
