"""The journal at its budget: who is let in, and when."""

from tests.unit.storage.one_node import SETTINGS, OneNode

SMALL, LARGE = 3_000, 13_000
"""Five small ones fill a file; a large one takes a file of its own."""


def test_publishers_beyond_the_budget_go_on_as_fast_as_files_are_freed_however_slow_the_clock() -> None:
    node = OneNode().create_queue()
    budget = SETTINGS.journal_budget_bytes
    assert budget is not None
    for number in range(4 * budget // SMALL):
        node.enqueue(bytes(LARGE if number % 7 == 0 else SMALL))
    assert node.core.engine.journal.bytes <= budget + SETTINGS.journal_file_bytes_max
