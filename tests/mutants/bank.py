"""The bank: every mutant there is."""

from tests.mutants import of_durability

BANK = (*of_durability.MUTANTS,)
