"""The bank: every mutant there is."""

from tests.mutants import of_durability, of_groups, of_messages, of_options, of_segments, of_streams

BANK = (
    *(*of_durability.MUTANTS, *of_segments.MUTANTS, *of_messages.MUTANTS),
    *(*of_options.MUTANTS, *of_streams.MUTANTS, *of_groups.MUTANTS),
)
