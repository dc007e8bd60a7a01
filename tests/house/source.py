"""The source as the house tests see it: files, syntax trees, the full names of what a module uses."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "protocol": ROOT / "protocol/penstock_protocol",
    "broker": ROOT / "broker/penstock_broker",
    "client": ROOT / "client/penstock",
    "loadtest": ROOT / "loadtest/penstock_loadtest",
    "tests": ROOT / "tests",
}
LEFT_OUT = {".git", ".venv", "__pycache__"}


@cache
def texts() -> dict[Path, str]:
    """Every file of the repository that is text, by its path from the root. Ignored files are left out."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if (ROOT / ".git").exists():
        names = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split("\0")
        paths = [ROOT / name for name in names if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not LEFT_OUT & set(path.parts)]
    found = {}
    for path in paths:
        if path.is_file():
            data = path.read_bytes()
            if b"\0" not in data:
                found[path.relative_to(ROOT)] = data.decode()
    return found


def modules(*packages: str) -> dict[Path, ast.Module]:
    """Syntax trees of the Python files of some packages (default: all), by their path from the root."""
    roots = tuple(f"{PACKAGES[name].relative_to(ROOT)}/" for name in packages or PACKAGES)
    return {path: _tree(path) for path in texts() if path.suffix == ".py" and str(path).startswith(roots)}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(texts()[path], str(path))


def uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, full name) of everything that a module imports, reads or, with `()` behind it, calls: what
    `from time import monotonic as now` and `now()` mean is `time.monotonic` and `time.monotonic()`."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                yield node.lineno, module + alias.name
                means = alias.name if module or alias.asname else alias.name.partition(".")[0]
                known[alias.asname or means] = module + means
    for node in ast.walk(tree):
        called = isinstance(node, ast.Call)
        name = _full_name(node.func if isinstance(node, ast.Call) else node, known)
        if name:
            yield getattr(node, "lineno", 0), name + "()" * called


def _full_name(node: ast.AST, known: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return known.get(node.id, f"builtins.{node.id}")
    if isinstance(node, ast.Attribute):
        owner = _full_name(node.value, known)
        return (owner and not owner.startswith("builtins.") and f"{owner}.{node.attr}") or None
    return None
