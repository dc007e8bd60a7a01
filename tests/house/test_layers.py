"""Who may import whom: `.importlinter` says it, this holds the source to it."""

import pytest
from importlinter import cli
from tests.house.source import ROOT


def test_imports_keep_to_the_layers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its logging configuration would switch off every logger there is, for all tests behind this one.
    monkeypatch.setattr(cli, "_configure_logging", lambda verbose: None)
    broken = cli.lint_imports(config_filename=str(ROOT / ".importlinter"), no_cache=True)
    assert not broken, capsys.readouterr().out
