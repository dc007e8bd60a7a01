"""The table of scenarios: every row can be run, at every scale."""

import pytest

from penstock_loadtest.payload import SIZE_MIN
from penstock_loadtest.scenarios import SCENARIOS, Flow, Scenario, scaled


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_row_makes_sense(scenario: Scenario) -> None:
    assert scenario.about
    assert len({flow.name for flow in scenario.flows}) == len(scenario.flows)
    for flow in scenario.flows:
        assert flow.size >= SIZE_MIN
        assert flow.kind == "topic" or flow.readers == 1
        assert flow.warm_up, "without one, confirms of a closed loop are not corrected"
        assert flow.messages % (flow.batch * flow.producers) == 0
        assert len(flow.pauses_us) <= flow.readers


@pytest.mark.parametrize("scale", [1e-9, 0.001, 0.1, 1.0])
def test_scaled_flow_keeps_whole_calls(scale: float) -> None:
    flow = Flow(batch=100, producers=3, messages=30_000, warm_up=3_000)
    (made,) = scaled(Scenario("any", "thing", (flow,)), scale).flows
    assert made.messages % 300 == 0
    assert made.messages == max(300, round(30_000 * scale / 300) * 300)
    assert made.warm_up == round(3_000 * scale / 300) * 300


def test_scale_of_one_changes_nothing() -> None:
    for scenario in SCENARIOS.values():
        assert scaled(scenario, 1.0) == scenario
