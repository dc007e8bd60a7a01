"""Who may import whom: `.importlinter` says it, this holds the source to it."""

import pytest
from importlinter.cli import lint_imports
from tests.house.source import ROOT


def test_imports_keep_to_the_layers(capsys: pytest.CaptureFixture[str]) -> None:
    broken = lint_imports(config_filename=str(ROOT / ".importlinter"), no_cache=True)
    assert not broken, capsys.readouterr().out
