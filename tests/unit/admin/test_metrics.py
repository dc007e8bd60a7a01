"""Metrics as a scrape shows them."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock_broker.admin import metrics
from penstock_broker.admin.metrics import METRICS, PER_OBJECT, Exposition
from penstock_broker.facts import GroupFacts, MemberFacts, NodeFacts, PartitionFacts, QueueFacts, StorageFacts
from penstock_broker.meters import Histogram, Meters
from penstock_protocol.errors import QueueFull
from penstock_protocol.messages.queues import Enqueue
from penstock_protocol.verbs import BY_REQUEST

ENQUEUE = BY_REQUEST[Enqueue].code

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def queue(name: str, ready: int, age: float) -> QueueFacts:
    return QueueFacts(
        name,
        ready,
        held=4,
        delayed=1,
        in_flight=2,
        waiting=0,
        bytes=100,
        settled_total=9,
        oldest_age={"ready": age},
        consumers=1,
        enqueued=20,
        delivered=10,
        redelivered=3,
        acked=7,
        nacked=2,
        lease_expired=1,
        expired=6,
        dropped=8,
        duplicates=5,
        dead_lettered={"rejected": 1, "max_attempts": 2},
        refused={"QueueFull": 4},
        blocked_groups=2,
        throttled_tenants=1,
    )


LINES_1 = PartitionFacts("lines", 1, 0, 3, 300, 0, 0, 0, 0, None, 0)


def observed(seconds: float, times: int) -> Histogram:
    histogram = Histogram()
    histogram.observe(seconds, times)
    return histogram


def node(queues: list[QueueFacts]) -> NodeFacts:
    return NodeFacts(
        queues,
        [PartitionFacts("lines", 0, 5, 25, 2000, 5, 400, 12, 9, 0.25, 7_000), LINES_1],
        [
            GroupFacts("readers", "lines", 0, 20, 25, 5, 1.5, 10.0, 20.0, 0.5, "reader-1"),
            GroupFacts("readers", "lines", 1, 1, 3, 2, 0.5, 10.0, 5.0, None, None),
        ],
        [MemberFacts("readers", 2, 1)],
        connections=3,
        sessions=2,
        payload_bytes=1000,
        storage=StorageFacts(
            4096, 1 << 20, 1 << 30, 2, {"alive": 700, "dead": 300}, {"archived": 900, "evacuated": 100}, 1
        ),
        disk_full=False,
        recovery_seconds=0.25,
        boot=1,
        waits=observed(0.2, 3),
        services=observed(2.0, 1),
        durability="fsync",
    )


QUEUES = [queue("emails", 10, 4.0), queue("invoices", 5, 9.0)]


def scrape(facts: NodeFacts, meters: Meters | None = None, objects_max: int = 1000) -> Series:
    exposition = Exposition(lambda: facts, meters or Meters(), objects_max)
    return series_of(b"".join(exposition.texts()))


def series_of(text: bytes) -> Series:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def names_of(series: Series) -> set[str]:
    return {name for name, _ in series}


def test_queue_shows_its_messages_by_state_and_its_totals() -> None:
    series = scrape(node(QUEUES))
    emails = ("queue", "emails")
    assert series["penstock_queue_messages", (emails, ("state", "ready"))] == 10
    assert series["penstock_queue_messages", (emails, ("state", "in_flight"))] == 2
    assert series["penstock_queue_oldest_age_seconds", (emails, ("state", "ready"))] == 4.0
    assert ("penstock_queue_oldest_age_seconds", (emails, ("state", "waiting"))) not in series
    assert series["penstock_queue_acked_total", (emails,)] == 7
    assert series["penstock_queue_dead_lettered_total", (emails, ("reason", "max_attempts"))] == 2
    assert series["penstock_queue_refused_total", (emails, ("reason", "QueueFull"))] == 4


def test_features_of_a_queue_are_counted() -> None:
    series = scrape(node(QUEUES))
    emails = ("queue", "emails")
    assert series["penstock_queue_messages", (emails, ("state", "held"))] == 4
    assert series["penstock_queue_expired_total", (emails,)] == 6
    assert series["penstock_queue_dropped_total", (emails,)] == 8
    assert series["penstock_queue_duplicates_total", (emails,)] == 5
    assert series["penstock_queue_blocked_groups", (emails,)] == 2
    assert series["penstock_queue_throttled_tenants", (emails,)] == 1


def test_waiting_and_serving_of_all_queues_are_timed() -> None:
    series = scrape(node(QUEUES))
    assert series["penstock_queue_wait_seconds_count", ()] == 3
    assert series["penstock_queue_wait_seconds_sum", ()] == pytest.approx(0.6)
    assert series["penstock_queue_service_seconds_bucket", (("le", "1.0"),)] == 0
    assert series["penstock_queue_service_seconds_bucket", (("le", "2.5"),)] == 1


def test_group_and_topic_show_every_partition() -> None:
    series = scrape(node([]))
    place = (("group", "readers"), ("partition", "0"), ("topic", "lines"))
    assert series["penstock_group_lag_records", place] == 5
    assert series["penstock_group_lag_seconds", place] == 1.5
    assert series["penstock_topic_end_offset", (("partition", "1"), ("topic", "lines"))] == 3


def test_partition_shows_what_retention_and_compaction_did() -> None:
    series = scrape(node([]))
    compacted, other = ((("partition", number), ("topic", "lines")) for number in "01")
    assert series["penstock_topic_dropped_records_total", compacted] == 5
    assert series["penstock_topic_dropped_bytes_total", compacted] == 400
    assert series["penstock_topic_compacted_records_total", compacted] == 9
    assert series["penstock_topic_filtered_records_total", compacted] == 12
    assert series["penstock_topic_dirty_ratio", compacted] == 0.25
    assert series["penstock_topic_compacted_timestamp_seconds", compacted] == 7
    assert ("penstock_topic_dirty_ratio", other) not in series
    assert ("penstock_topic_compacted_timestamp_seconds", other) not in series


def test_requests_are_counted_by_verb_and_outcome_and_timed_by_verb() -> None:
    meters = Meters()
    meters.requests[ENQUEUE, 0] += 5
    meters.requests[ENQUEUE, QueueFull.code] += 2
    meters.request_seconds[ENQUEUE].observe(0.0003)
    meters.request_seconds[ENQUEUE].observe(99.0)
    series = scrape(node([]), meters)
    assert series["penstock_requests_total", (("code", "OK"), ("verb", "ENQUEUE"))] == 5
    assert series["penstock_requests_total", (("code", "QueueFull"), ("verb", "ENQUEUE"))] == 2
    bucket = "penstock_request_seconds_bucket"
    assert series[bucket, (("le", "0.00025"), ("verb", "ENQUEUE"))] == 0
    assert series[bucket, (("le", "0.0005"), ("verb", "ENQUEUE"))] == 1
    assert series[bucket, (("le", "30.0"), ("verb", "ENQUEUE"))] == 1
    assert series[bucket, (("le", "+Inf"), ("verb", "ENQUEUE"))] == 2
    assert series["penstock_request_seconds_sum", (("verb", "ENQUEUE"),)] == pytest.approx(99.0003)


def test_more_objects_than_the_limit_are_shown_as_totals() -> None:
    series = scrape(node(QUEUES), objects_max=1)
    assert series["penstock_metrics_truncated", ()] == 1
    assert series["penstock_queue_messages", (("state", "ready"),)] == 15
    assert series["penstock_queue_oldest_age_seconds", (("state", "ready"),)] == 9.0
    assert series["penstock_group_lag_seconds", ()] == 1.5
    assert series["penstock_topic_bytes", ()] == 2300
    assert "penstock_topic_end_offset" not in names_of(series), "a sum of offsets means nothing"
    assert not any(label == "queue" for _, labels in series for label, _ in labels)


def test_as_many_objects_as_the_limit_are_shown_one_by_one() -> None:
    series = scrape(node(QUEUES), objects_max=2)
    assert series["penstock_metrics_truncated", ()] == 0
    assert ("penstock_queue_acked_total", (("queue", "invoices"),)) in series


def test_series_of_a_deleted_queue_are_gone_at_the_next_scrape() -> None:
    queues = list(QUEUES)
    exposition = Exposition(lambda: node(queues), Meters(), 1000)
    assert b'queue="emails"' in b"".join(exposition.texts())
    del queues[0]
    assert b'queue="emails"' not in b"".join(exposition.texts())


def test_one_family_can_be_had_for_every_object_beyond_the_limit() -> None:
    exposition = Exposition(lambda: node(QUEUES), Meters(), 0)
    series = series_of(exposition.per_object("penstock_queue_acked_total"))
    assert series == {
        ("penstock_queue_acked_total", (("queue", "emails"),)): 7,
        ("penstock_queue_acked_total", (("queue", "invoices"),)): 7,
    }


@pytest.mark.parametrize("name", ["penstock_connections", "penstock_queue", ""])
def test_family_without_objects_is_not_had_one_by_one(name: str) -> None:
    with pytest.raises(KeyError):
        Exposition(lambda: node([]), Meters(), 0).per_object(name)


def test_every_row_of_the_table_shows_up_in_a_scrape() -> None:
    meters = Meters()
    meters.requests[ENQUEUE, 0] += 1
    meters.request_seconds[ENQUEUE].observe(0.1)
    meters.dropped["stuck"] += 1
    shown = names_of(scrape(node(QUEUES), meters))
    for metric in METRICS:
        name = metric.name + "_count" if metric.type == "histogram" else metric.name
        assert name in shown


def test_names_follow_the_rules_of_prometheus() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"penstock(_[a-z]+)+", metric.name)
        assert metric.name.endswith("_total") == (metric.type == "counter")
        assert metric.help.endswith(".")
        if metric.unit in ("seconds", "bytes"):
            assert metric.unit in metric.name
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert set(PER_OBJECT) | {m.name for m in METRICS if m.of == "node"} == set(metrics.BY_NAME)
