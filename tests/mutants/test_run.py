"""The runner of mutants notices what it is for; a few mutants are killed with every test run."""

import pytest
from tests.mutants.bank import BANK
from tests.mutants.mutant import BROKER, Mutant, Rotten
from tests.mutants.tree import Tree, Verdict

QUICK = (
    "confirm before the sync",
    "failed sync ignored",
    "file freed before both checkpoints reflect it",
    "settle answered before it is durable",
)
KILLER = "tests/unit/storage/test_syncs.py::test_os_is_never_due"
LINE = "            self.durable = self.written\n"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(tmp_path_factory.mktemp("mutants"))


def by_hand(old: str, new: str, killer: str = KILLER) -> Mutant:
    return Mutant("by hand", f"{BROKER}/storage/journal.py", old, new, killer)


def judged(tree: Tree, mutant: Mutant) -> Verdict:
    with tree.with_bug(mutant):
        return tree.run([mutant.killer])[0]


@pytest.mark.parametrize("mutant", [mutant for mutant in BANK if mutant.name in QUICK], ids=lambda m: m.name)
def test_mutant_is_killed(tree: Tree, mutant: Mutant) -> None:
    assert tree.run([mutant.killer]) == (Verdict.PASSED, "")
    assert judged(tree, mutant) is Verdict.FAILED


def test_bug_that_its_killer_does_not_notice_survives(tree: Tree) -> None:
    assert judged(tree, by_hand(LINE, LINE + LINE)) is Verdict.PASSED


@pytest.mark.parametrize(
    "new", ["            no_such_name\n", "            self.durable.no_such_attribute()\n"]
)
def test_program_that_is_only_broken_is_no_kill(tree: Tree, new: str) -> None:
    killer = "tests/unit/storage/test_syncs.py::test_fsync_is_one_job_that_writes_and_syncs"
    assert judged(tree, by_hand(LINE, new, killer)) is Verdict.BROKE


def test_killer_that_does_not_exist_is_no_kill(tree: Tree) -> None:
    assert judged(tree, by_hand(LINE, LINE + LINE, KILLER + "_of_another_name")) is Verdict.BROKE


@pytest.mark.parametrize(
    ("old", "new"),
    [("no such text", "x"), ("self.durable", "self.written"), (LINE, LINE), (LINE, "            (\n")],
    ids=["is not there", "is there many times", "changes nothing", "cannot be compiled"],
)
def test_mutant_that_does_not_fit_the_source_is_an_error(tree: Tree, old: str, new: str) -> None:
    with pytest.raises(Rotten):
        judged(tree, by_hand(old, new))
