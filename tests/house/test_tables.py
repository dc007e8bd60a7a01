"""Tables are whole: what they list exists, what exists is listed, and somebody uses it."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

from tests.house.source import modules, texts

from penstock_broker import config, meters
from penstock_broker.admin.metrics import METRICS, SORTS
from penstock_broker.handlers import HANDLERS
from penstock_protocol.verbs import VERBS

METRIC_NAMES = {metric.name for metric in METRICS}
PROMISED = {
    *(f"penstock_queue_{name}" for name in ("messages", "oldest_age_seconds", "bytes")),
    *(
        f"penstock_queue_{name}_total"
        for name in (
            *("enqueued", "delivered", "redelivered", "acked", "nacked"),
            *("lease_expired", "dead_lettered", "refused"),
        )
    ),
    *("penstock_group_lag_records", "penstock_group_lag_seconds"),
    *("penstock_topic_start_offset", "penstock_topic_end_offset", "penstock_topic_bytes"),
    *("penstock_requests_total", "penstock_request_seconds", "penstock_connections"),
    *("penstock_journal_sync_seconds", "penstock_loop_lag_seconds", "penstock_recovery_seconds"),
    *("penstock_payload_bytes_total", "penstock_disk_written_bytes_total", "penstock_disk_free_bytes"),
    *("penstock_build_info", "penstock_metrics_truncated"),
}
"""Names that dashboards outside this repository rely on."""


def attributes(where: Callable[[Path], bool]) -> set[str]:
    """Every attribute that some files of the broker read."""
    return {
        node.attr
        for path, tree in modules("broker").items()
        if where(path)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
    }


def test_every_verb_has_its_handler() -> None:
    assert HANDLERS.keys() == {verb.code for verb in VERBS if not verb.pushed}


def test_promised_metrics_exist() -> None:
    assert PROMISED <= METRIC_NAMES


def test_metric_names_are_unique_and_say_their_unit() -> None:
    assert len(METRIC_NAMES) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("penstock_")
        assert metric.name.endswith("_total") == (metric.type == "counter"), metric.name
        assert ("seconds" in metric.name) == (metric.unit == "seconds"), metric.name
        assert metric.help.endswith("."), metric.name
        assert metric.of in SORTS, metric.name


def test_every_metric_that_a_text_names_is_in_the_table() -> None:
    pattern = re.compile(r"\bpenstock_(?:queue|group|topic|request|journal|loop|disk)s?_\w*[a-z]\b")
    named = {
        re.sub("_(bucket|sum|count)$", "", name)
        for path, text in texts().items()
        if path.suffix in (".md", ".py", ".yml") and path.parts[0] != "tests"
        for name in pattern.findall(text)
    }
    assert named
    assert named <= METRIC_NAMES


def test_everything_metered_is_shown() -> None:
    assert vars(meters.Meters()).keys() <= attributes(lambda path: path.name == "metrics.py")


def test_every_setting_says_what_it_is_for() -> None:
    assert all(setting.about for setting in config.SETTINGS.values())


def test_every_setting_is_used_by_somebody() -> None:
    used = attributes(lambda path: path.name != "config.py")
    assert [key for key, setting in config.SETTINGS.items() if setting.attribute not in used] == []
