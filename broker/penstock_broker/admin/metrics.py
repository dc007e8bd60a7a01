"""Every metric, once: the table below is their one source of names, types, labels, units and help.

Nothing is registered and nothing is kept: a scrape reads the facts of the core and the meters of the
shell, so a series of a deleted queue cannot be left behind. Above `objects_max` objects of a sort, their
series give way to totals over all of them, and `penstock_metrics_truncated` says so.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import generate_latest

from penstock_broker.facts import NodeFacts
from penstock_broker.meters import SECONDS, Histogram, Meters
from penstock_protocol.errors import TABLE
from penstock_protocol.verbs import BY_CODE

Value: TypeAlias = float | Histogram
Values: TypeAlias = Value | Mapping[Any, Value]
"""One value, or several by the labels beside the object's own (text, or a tuple of texts)."""


class Sort(NamedTuple):
    """A sort of object: its labels, where its facts are, and what the labels of one are."""

    labels: tuple[str, ...]
    all: Callable[[NodeFacts], Sequence[Any]]
    of: Callable[[Any], tuple[str, ...]]


class Seen(NamedTuple):
    """One look at the node: what its own metrics are read from."""

    facts: NodeFacts
    meters: Meters
    truncated: bool


class Metric(NamedTuple):
    """One row. `of`: the sort of object it is about, or the node; `labels`: beside those of the sort;
    `total`: how the values of many objects become one, None if they cannot."""

    name: str
    of: str
    type: str
    labels: tuple[str, ...]
    unit: str
    help: str
    read: Callable[[Any], Values]
    total: Callable[[Iterable[Any]], float] | None = sum


SORTS = {
    "queue": Sort(("queue",), lambda facts: facts.queues, lambda q: (q.name,)),
    "partition": Sort(
        ("topic", "partition"),
        lambda facts: facts.partitions,
        lambda p: (p.topic, str(p.partition)),
    ),
    "group": Sort(
        ("group", "topic", "partition"),
        lambda facts: facts.groups,
        lambda g: (g.group, g.topic, str(g.partition)),
    ),
    "members": Sort(("group",), lambda facts: facts.members, lambda m: (m.group,)),
    "node": Sort((), lambda _: (), lambda _: ()),
}

STATES = ("ready", "held", "delayed", "in_flight", "waiting")
STATE, REASON = ("state",), ("reason",)
QUEUE, GROUP, TOPIC = "penstock_queue", "penstock_group", "penstock_topic"


def _requests(seen: Seen) -> Values:
    return {
        (BY_CODE[verb].name, TABLE[code].__name__ if code else "OK"): replies
        for (verb, code), replies in seen.meters.requests.items()
    }


def _request_seconds(seen: Seen) -> Values:
    return {BY_CODE[verb].name: histogram for verb, histogram in seen.meters.request_seconds.items()}


def _build(_: Seen) -> Values:
    return {(version("penstock"), platform.python_version()): 1}


METRICS = (
    Metric(f"{QUEUE}_messages", "queue", "gauge", STATE, "messages",
           "Messages by state; held: behind others of their group, and among the ready ones.",
           lambda q: {state: getattr(q, state) for state in STATES}),
    Metric(f"{QUEUE}_oldest_age_seconds", "queue", "gauge", STATE, "seconds",
           "Age of the oldest message by state; a state without messages is absent.",
           lambda q: q.oldest_age, max),
    Metric(f"{QUEUE}_enqueued_total", "queue", "counter", (), "messages", "Messages enqueued.",
           lambda q: q.enqueued),
    Metric(f"{QUEUE}_delivered_total", "queue", "counter", (), "messages", "Messages handed out.",
           lambda q: q.delivered),
    Metric(f"{QUEUE}_redelivered_total", "queue", "counter", (), "messages",
           "Messages handed out that may have been before.", lambda q: q.redelivered),
    Metric(f"{QUEUE}_acked_total", "queue", "counter", (), "messages", "Messages settled as done.",
           lambda q: q.acked),
    Metric(f"{QUEUE}_nacked_total", "queue", "counter", (), "messages", "Messages returned as failed.",
           lambda q: q.nacked),
    Metric(f"{QUEUE}_lease_expired_total", "queue", "counter", (), "messages",
           "Messages returned because their lease ended.", lambda q: q.lease_expired),
    Metric(f"{QUEUE}_expired_total", "queue", "counter", (), "messages",
           "Messages whose time to live ended.", lambda q: q.expired),
    Metric(f"{QUEUE}_dropped_total", "queue", "counter", (), "messages",
           "Messages that had to go for newer ones.", lambda q: q.dropped),
    Metric(f"{QUEUE}_duplicates_total", "queue", "counter", (), "messages",
           "Messages not taken: their dedup id was known, or their job key taken.", lambda q: q.duplicates),
    Metric(f"{QUEUE}_blocked_groups", "queue", "gauge", (), "groups",
           "Message groups held up by a failure, or parked.", lambda q: q.blocked_groups),
    Metric(f"{QUEUE}_throttled_tenants", "queue", "gauge", (), "groups",
           "Message groups over their rate, and tenants at their cap.", lambda q: q.throttled_tenants),
    Metric(f"{QUEUE}_dead_lettered_total", "queue", "counter", REASON, "messages",
           "Messages moved to the dead-letter queue.", lambda q: q.dead_lettered),
    Metric(f"{QUEUE}_refused_total", "queue", "counter", REASON, "messages",
           "Messages of publishes that were refused.", lambda q: q.refused),
    Metric(f"{QUEUE}_bytes", "queue", "gauge", (), "bytes", "Bytes of messages not settled.",
           lambda q: q.bytes),
    Metric(f"{GROUP}_lag_records", "group", "gauge", (), "records",
           "Records between the committed offset and the end.", lambda g: g.lag),
    Metric(f"{GROUP}_lag_seconds", "group", "gauge", (), "seconds",
           "Age of the first record that was not read; 0 at the end.", lambda g: g.lag_seconds, max),
    Metric(f"{GROUP}_offset", "group", "gauge", (), "offset",
           "Next record to be read; how fast it grows is the rate at which the group reads.",
           lambda g: g.current, None),
    Metric(f"{GROUP}_catch_up_seconds", "group", "gauge", (), "seconds",
           "When the lag will be gone at the rates of the last minute; absent if the group falls behind.",
           lambda g: {} if g.catch_up_seconds is None else g.catch_up_seconds, max),
    Metric(f"{GROUP}_members", "members", "gauge", (), "members", "Members of the group.",
           lambda m: m.members),
    Metric(f"{GROUP}_moving_partitions", "members", "gauge", (), "partitions",
           "Partitions on their way from one member to another.", lambda m: m.moving),
    Metric(f"{TOPIC}_start_offset", "partition", "gauge", (), "offset", "First record kept.",
           lambda p: p.start, None),
    Metric(f"{TOPIC}_end_offset", "partition", "gauge", (), "offset", "Next record to be written.",
           lambda p: p.end, None),
    Metric(f"{TOPIC}_bytes", "partition", "gauge", (), "bytes", "Bytes of records kept.",
           lambda p: p.bytes),
    Metric(f"{TOPIC}_dropped_records_total", "partition", "counter", (), "records",
           "Offsets given up by retention.", lambda p: p.records_dropped),
    Metric(f"{TOPIC}_dropped_bytes_total", "partition", "counter", (), "bytes",
           "Bytes given up by retention.", lambda p: p.bytes_dropped),
    Metric(f"{TOPIC}_filtered_records_total", "partition", "counter", (), "records",
           "Records that readers came by and their filters left out.", lambda p: p.records_filtered),
    Metric(f"{TOPIC}_compacted_records_total", "partition", "counter", (), "records",
           "Records removed by compaction.", lambda p: p.records_compacted),
    Metric(f"{TOPIC}_dirty_ratio", "partition", "gauge", (), "",
           "Share of the bytes in segments that compaction has not looked at yet; compacted topics alone.",
           lambda p: {} if p.dirty_ratio is None else p.dirty_ratio, max),
    Metric(f"{TOPIC}_compacted_timestamp_seconds", "partition", "gauge", (), "seconds",
           "When the last pass of compaction ended, since 1970; absent without one.",
           lambda p: p.compacted_at / 1000 if p.compacted_at else {}, max),
    Metric("penstock_requests_total", "node", "counter", ("verb", "code"), "requests",
           "Replies by verb and outcome.", _requests),
    Metric("penstock_request_seconds", "node", "histogram", ("verb",), "seconds",
           "From the arrival of a request to its reply; waits it asked for and syncs included.",
           _request_seconds),
    Metric("penstock_queue_wait_seconds", "node", "histogram", (), "seconds",
           "From the append of a message to its first hand-out, all queues.", lambda seen: seen.facts.waits),
    Metric("penstock_queue_service_seconds", "node", "histogram", (), "seconds",
           "From the hand-out of a message to its ack, all queues.", lambda seen: seen.facts.services),
    Metric("penstock_connections", "node", "gauge", (), "connections", "Open connections.",
           lambda seen: seen.facts.connections),
    Metric("penstock_connections_dropped_total", "node", "counter", REASON, "connections",
           "Connections that the broker refused or ended.", lambda seen: seen.meters.dropped),
    Metric("penstock_journal_sync_seconds", "node", "histogram", (), "seconds",
           "One write to the journal and its fdatasync, or one that was put off.",
           lambda seen: seen.meters.sync_seconds),
    Metric("penstock_payload_bytes_total", "node", "counter", (), "bytes", "Bytes of batches appended.",
           lambda seen: seen.facts.payload_bytes),
    Metric("penstock_disk_written_bytes_total", "node", "counter", (), "bytes",
           "Bytes given to the disk; divided by the payload it is the write amplification.",
           lambda seen: seen.facts.storage.written),
    Metric("penstock_loop_lag_seconds", "node", "histogram", (), "seconds",
           "How late the event loop was, looked at ten times a second.",
           lambda seen: seen.meters.loop_lag_seconds),
    Metric("penstock_disk_free_bytes", "node", "gauge", (), "bytes",
           "Free bytes of the file system with the data.", lambda seen: seen.facts.storage.free),
    Metric("penstock_journal_bytes", "node", "gauge", (), "bytes", "Bytes of the journal's files.",
           lambda seen: seen.facts.storage.journal),
    Metric("penstock_segments", "node", "gauge", (), "files", "Segment files.",
           lambda seen: seen.facts.storage.segments),
    Metric("penstock_segment_bytes", "node", "gauge", STATE, "bytes",
           "Bytes of segments: alive, or dead and still there.",
           lambda seen: seen.facts.storage.segment_bytes),
    Metric("penstock_moved_bytes_total", "node", "counter", REASON, "bytes",
           "Bytes of batches that were archived or evacuated.", lambda seen: seen.facts.storage.moved),
    Metric("penstock_indexes_rebuilt_total", "node", "counter", (), "indexes",
           "Damaged indexes of segments that were made again.",
           lambda seen: seen.facts.storage.indexes_rebuilt),
    Metric("penstock_recovery_seconds", "node", "gauge", (), "seconds", "How long the last start took.",
           lambda seen: seen.facts.recovery_seconds),
    Metric("penstock_build_info", "node", "gauge", ("version", "python"), "", "Always 1.", _build),
    Metric("penstock_durability_info", "node", "gauge", ("mode",), "",
           "Always 1; the mode of queues and topics that have none of their own.",
           lambda seen: {seen.facts.durability: 1}),
    Metric("penstock_metrics_truncated", "node", "gauge", (), "",
           "1: too many objects to show one by one; their metrics are totals.",
           lambda seen: seen.truncated),
)  # fmt: skip
BY_NAME = {metric.name: metric for metric in METRICS}
PER_OBJECT = [metric.name for metric in METRICS if metric.of != "node"]

FAMILIES: dict[str, type[Any]] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Exposition:
    """The node's metrics as Prometheus reads them."""

    def __init__(self, facts: Callable[[], NodeFacts], meters: Meters, objects_max: int) -> None:
        self._facts = facts
        self._meters = meters
        self._objects_max = objects_max

    def families(self) -> Iterator[Family]:
        """Every metric of one look at the node, as prometheus_client has them."""
        facts = self._facts()
        many = {name: len(sort.all(facts)) > self._objects_max for name, sort in SORTS.items()}
        seen = Seen(facts, self._meters, any(many.values()))
        for metric in METRICS:
            if metric.of == "node":
                yield _family(metric, (), [((), metric.read(seen))])
            elif not many[metric.of]:
                yield _of_each(metric, facts)
            elif metric.total is not None:
                yield _of_all(metric, facts, metric.total)

    def texts(self) -> Iterator[bytes]:
        """The text format, family by family, so that the event loop can do other things in between."""
        for family in self.families():
            yield _text(family)

    def per_object(self, name: str) -> bytes:
        """One family with every object, however many. Raises `KeyError` for a name not in `PER_OBJECT`."""
        if name not in PER_OBJECT:
            raise KeyError(name)
        return _text(_of_each(BY_NAME[name], self._facts()))


class _One(NamedTuple):
    """A registry of a single family, for the renderer."""

    family: Family

    def collect(self) -> Iterable[Family]:
        return (self.family,)


def _text(family: Family) -> bytes:
    return generate_latest(_One(family))


def _of_each(metric: Metric, facts: NodeFacts) -> Family:
    sort = SORTS[metric.of]
    return _family(metric, sort.labels, [(sort.of(each), metric.read(each)) for each in sort.all(facts)])


def _of_all(metric: Metric, facts: NodeFacts, total: Callable[[Iterable[Any]], float]) -> Family:
    gathered: dict[tuple[str, ...], list[Value]] = {}
    for each in SORTS[metric.of].all(facts):
        for labels, value in _by_labels(metric.read(each)):
            gathered.setdefault(labels, []).append(value)
    return _family(metric, (), [((), {labels: total(values) for labels, values in gathered.items()})])


def _family(
    metric: Metric, labels: tuple[str, ...], series: Iterable[tuple[tuple[str, ...], Values]]
) -> Family:
    family: Family = FAMILIES[metric.type](metric.name, metric.help, labels=(*labels, *metric.labels))
    for object_labels, values in series:
        for own_labels, value in _by_labels(values):
            _add(family, (*object_labels, *own_labels), value)
    return family


def _by_labels(values: Values) -> Iterator[tuple[tuple[str, ...], Value]]:
    if not isinstance(values, Mapping):
        yield (), values
        return
    for labels, value in values.items():
        yield (labels if isinstance(labels, tuple) else (labels,)), value


def _add(family: Any, labels: tuple[str, ...], value: Value) -> None:
    if isinstance(value, Histogram):
        bounds = [*map(str, SECONDS), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(value.counts), strict=True)), value.sum)
    else:
        family.add_metric(labels, value)
