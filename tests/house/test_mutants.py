"""The bank of mutants fits the source: `make mutants` says that each of them is noticed."""

import ast
import re
from pathlib import Path

import pytest
from tests.house.source import modules, texts
from tests.house.test_storage_specification import named_in
from tests.mutants.bank import BANK
from tests.mutants.mutant import Mutant, mutated

MUTANTS_MIN = 30


def bound_in(tree: ast.Module) -> set[str]:
    """Names that a module assigns."""
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("mutant", BANK, ids=[mutant.name for mutant in BANK])
def test_mutant_fits_the_source(mutant: Mutant) -> None:
    mutated(mutant, texts()[Path(mutant.file)])


@pytest.mark.parametrize("mutant", BANK, ids=[mutant.name for mutant in BANK])
def test_killer_exists(mutant: Mutant) -> None:
    path, _, test = mutant.killer.partition("::")
    if "::" in test:  # a state machine, which is bound to a name that pytest collects
        assert test.partition("::")[0] in bound_in(modules("tests")[Path(path)])
    elif test:
        assert test.partition("[")[0] in named_in(modules("tests")[Path(path)])
    else:
        assert re.fullmatch(r"seed \d+", mutant.killer)


def test_names_are_unique_and_many() -> None:
    assert len({mutant.name for mutant in BANK}) == len(BANK) >= MUTANTS_MIN
