"""Settings of a queue that any client could send."""

from typing import Any

import pytest

from penstock_broker.queues.policy import policy_for
from penstock_protocol.errors import Invalid


@pytest.mark.parametrize("group", ["x" * 256, "ü" * 128], ids=["too long", "too many bytes"])
def test_weight_is_of_a_message_group_that_can_be(group: str) -> None:
    with pytest.raises(Invalid, match="text of up to 255 bytes"):
        policy_for("jobs", {"fair": True, "group_weights": (group, 3)})
    longest, none = "ü" * 127, ""  # messages without a group are a tenant, too
    assert policy_for("jobs", {"fair": True, "group_weights": (longest, 3, none, 2)}).group_weights


@pytest.mark.parametrize("value", ["x" * 30_000, ("x" * 30_000,)], ids=["text", "a list"])
def test_error_does_not_echo_all_of_a_long_value(value: Any) -> None:
    with pytest.raises(Invalid, match=r"overflow=.*xxx.* is not allowed") as caught:
        policy_for("jobs", {"overflow": value})
    assert len(caught.value.message) < 400
