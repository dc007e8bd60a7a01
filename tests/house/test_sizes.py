"""Nothing is too long to be read at once."""

import ast
from pathlib import Path

import pytest
from tests.house.source import modules, texts

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60


@pytest.mark.parametrize("path", modules(), ids=str)
def test_file_is_short(path: Path) -> None:
    assert texts()[path].count("\n") <= FILE_LINES_MAX


def test_functions_are_short() -> None:
    long = [
        f"{path}:{node.lineno} {node.name}: {lines} lines"
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(path) for path, tree in modules().items() if tree.body and not ast.get_docstring(tree)]
    assert silent == []
