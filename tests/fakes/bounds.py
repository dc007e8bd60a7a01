"""Bounds of the broker, which are constants of its modules, set to others for a while."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bounds_set(bounds: Iterable[tuple[Any, str, int]]) -> Iterator[None]:
    """(module, name, value) of each."""
    before = [(module, name, getattr(module, name), value) for module, name, value in bounds]
    for module, name, _, value in before:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, was, _ in before:
            setattr(module, name, was)
