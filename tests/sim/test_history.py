"""The checker finds what it must in hand-made bad histories, under the right name and no other, and finds
nothing in histories that the contract allows."""

import pytest
from tests.sim import (  # noqa: F401 they put their tales into BAD and GOOD
    bad_features,
    bad_logs,
    bad_queues,
    good_features,
    good_histories,
    source_tales,
    stream_tales,
)
from tests.sim.checker import (
    GROUP_RULES,
    JOURNEY_RULES,
    LOG_RULES,
    PRODUCER_RULES,
    QUEUE_RULES,
    check,
)
from tests.sim.story import BAD, GOOD, Story, Tale, title


@pytest.mark.parametrize(("anomaly", "tale"), BAD, ids=[f"{name}: {title(tale)}" for name, tale in BAD])
def test_bad_history_is_flagged_with_its_name_and_no_other(anomaly: str, tale: Tale) -> None:
    story = Story()
    tale(story)
    assert {found.name for found in check(story.records)} == {anomaly}


@pytest.mark.parametrize("tale", GOOD, ids=title)
def test_allowed_history_is_not_flagged(tale: Tale) -> None:
    story = Story()
    tale(story)
    assert check(story.records) == []


def test_every_rule_has_a_bad_history() -> None:
    rules = {*QUEUE_RULES, *JOURNEY_RULES, *LOG_RULES, *GROUP_RULES, *PRODUCER_RULES}
    assert {name for name, _ in BAD} == rules
