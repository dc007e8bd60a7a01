"""Flame graphs need py-spy, and say so."""

import shutil
from pathlib import Path

import pytest

from penstock_loadtest.profile import Profiles


def test_missing_py_spy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with (
        pytest.raises(RuntimeError, match="py-spy is not installed: pip install py-spy"),
        Profiles(tmp_path, {}),
    ):
        pass
