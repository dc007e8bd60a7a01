"""What users hand in to be published, as columns; and what is refused before it shares a batch."""

from datetime import UTC, datetime, timedelta

import msgpack
import pytest
from tests.fakes.client_wire import NOW_MS

from penstock.errors import Invalid, TooLarge
from penstock.outgoing import EnqueueOptions, Outgoing, RequestOptions, message_cells, record_cells
from penstock.values import instant_of, ms_at
from penstock_protocol.batch import TRAITS, Kind, OnConflict
from penstock_protocol.limits import DELAY_MS_MAX

NOW = instant_of(NOW_MS)


def cells_of(**options):
    return dict(message_cells(Outgoing(b"x", **options), lambda: NOW_MS))


def record_cells_of(*, absent=False, **options):
    return dict(record_cells(Outgoing(b"x", **options), absent=absent))


@pytest.mark.parametrize(
    "options",
    [{}, {"headers": {}}, {"priority": 0}, {"delay": 0}, {"on_conflict": "reject", "job_key": None}],
    ids=repr,
)
def test_what_says_nothing_has_no_cells(options):
    if "on_conflict" in options:
        with pytest.raises(Invalid, match="without a job_key"):
            cells_of(**options)
    else:
        assert not cells_of(**options)


def test_cells_of_a_record_are_in_the_encoding_of_their_columns():
    when = datetime(2024, 1, 1, tzinfo=UTC)
    headers = {"s": "x", "b": b"\0", "i": 1, "f": 0.5, "t": True, "n": None}
    cells = record_cells_of(key="k", headers=headers, timestamp=when, absent=True)
    assert msgpack.unpackb(cells[Kind.KEY]) == b"k"
    assert msgpack.unpackb(cells[Kind.HEADERS]) == headers
    assert cells[Kind.TIMESTAMP] == ms_at(when)
    assert cells[Kind.ABSENT] == 1


COLUMNS = [
    ({"delay": 1.5}, Kind.DELAY, 1_500),
    ({"delay": timedelta(days=3_660)}, Kind.DELAY, DELAY_MS_MAX),
    ({"at": NOW + timedelta(hours=1)}, Kind.AT, NOW_MS + 3_600_000),
    ({"at": NOW - timedelta(hours=1)}, Kind.AT, NOW_MS - 3_600_000),
    ({"at": NOW + timedelta(milliseconds=DELAY_MS_MAX)}, Kind.AT, NOW_MS + DELAY_MS_MAX),
    ({"ttl": 0.001}, Kind.TTL, 1),
    ({"priority": 9}, Kind.PRIORITY, 9),
    ({"message_group": "ü"}, Kind.MESSAGE_GROUP, "ü"),
    ({"dedup_id": "x" * 255}, Kind.DEDUP_ID, "x" * 255),
    ({"job_key": "nightly"}, Kind.JOB_KEY, "nightly"),
    ({"reply_to": "answers"}, Kind.REPLY_TO, "answers"),
    ({"correlation_id": "7"}, Kind.CORRELATION_ID, "7"),
    ({"content_type": "text/plain"}, Kind.CONTENT_TYPE, "text/plain"),
]


@pytest.mark.parametrize(("options", "kind", "value"), COLUMNS)
def test_an_option_of_a_message_is_a_column(options, kind, value):
    cells = cells_of(**options)
    assert cells.keys() == {kind}
    found = cells[kind]
    assert (msgpack.unpackb(found) if isinstance(found, bytes) else found) == value


@pytest.mark.parametrize(
    ("name", "rule"),
    [("keep", OnConflict.KEEP), ("replace", OnConflict.REPLACE), ("run_after", OnConflict.RUN_AFTER)],
)
def test_what_a_job_key_does_on_conflict_is_a_column(name, rule):
    assert cells_of(job_key="k", on_conflict=name)[Kind.ON_CONFLICT] == rule


def test_refusing_is_what_a_job_key_does_by_itself():
    assert cells_of(job_key="k", on_conflict="reject").keys() == {Kind.JOB_KEY}


def test_every_column_of_a_queue_has_an_option():
    """Beside those of topics and of the broker."""
    columns = {kind for _, kind, _ in COLUMNS} | {Kind.ON_CONFLICT}
    assert columns >= TRAITS


def test_the_options_of_enqueue_are_the_fields_of_an_outgoing_message():
    fields = set(Outgoing.__dataclass_fields__) - {"body", "key", "partition", "timestamp"}
    assert EnqueueOptions.__annotations__.keys() == fields
    assert RequestOptions.__annotations__.keys() == fields - {"reply_to", "correlation_id"}


WRONG = {
    "a delay above ten years": ({"delay": timedelta(days=3_661)}, "delay=3661 days.*3660 days"),
    "an instant beyond ten years": ({"at": NOW + timedelta(days=3_661)}, "at=.*at most ten years ahead"),
    "a naive instant": ({"at": datetime(2030, 1, 1)}, "no time zone"),  # naive is the case
    "delay and at": ({"delay": 5, "at": NOW}, "exclude each other"),
    "no delay and at": ({"delay": 0, "at": NOW}, "exclude each other"),
    "a negative delay": ({"delay": -1}, "not a duration"),
    "no time to live": ({"ttl": 0}, "ttl=0"),
    "a time to live above ten years": ({"ttl": timedelta(days=3_661)}, "ttl=3661"),
    "a priority too high": ({"priority": 10}, "priority=10: it can be 0 to 9"),
    "a priority below zero": ({"priority": -1}, "priority=-1"),
    "a priority that is no number": ({"priority": "high"}, "priority='high'"),
    "a priority that is a bool": ({"priority": True}, "priority=True"),
    "a label that is empty": ({"dedup_id": ""}, "dedup_id='': it is text of 1 to 255 bytes"),
    "a label that is too long": ({"message_group": "x" * 256}, "message_group='xxx.*…: it is text"),
    "a label of too many bytes": ({"job_key": "ü" * 128}, "job_key='üüü"),
    "a label that is no text": ({"correlation_id": 7}, "correlation_id=7: it is text"),
    "a label that is no UTF-8": ({"content_type": "\udcff"}, "content_type=.*: it is text of 1 to 255 bytes"),
    "a group and a job key": ({"message_group": "g", "job_key": "k"}, "exclude each other"),
    "all three": ({"message_group": "g", "job_key": "k", "on_conflict": "keep"}, "exclude each other"),
    "a rule without a key": ({"on_conflict": "keep"}, "without a job_key"),
    "a rule that is none": ({"job_key": "k", "on_conflict": "drop"}, "it can be reject, keep, replace"),
    "a key": ({"key": "k"}, "a message of a queue has no key"),
    "a partition": ({"partition": 0}, "a message of a queue has no partition"),
    "a timestamp": ({"timestamp": NOW}, "a message of a queue has no timestamp"),
}


@pytest.mark.parametrize(("options", "said"), WRONG.values(), ids=WRONG)
def test_what_a_queue_cannot_take_is_invalid_and_named(options, said):
    with pytest.raises(Invalid, match=said):
        cells_of(**options)


@pytest.mark.parametrize(
    "option",
    [
        *({"delay": 1}, {"at": NOW}, {"ttl": 1}, {"priority": 1}, {"on_conflict": "keep"}),
        *({"message_group": "g"}, {"dedup_id": "d"}, {"job_key": "k"}),
        *({"reply_to": "q"}, {"correlation_id": "c"}, {"content_type": "t"}),
    ],
    ids=lambda option: next(iter(option)),
)
def test_what_is_for_queues_is_invalid_in_a_topic(option):
    (name,) = option
    with pytest.raises(Invalid, match=f"a record of a topic has no {name}"):
        record_cells_of(**option)


@pytest.mark.parametrize(
    "headers",
    [{"x": ["nested"]}, {"x": {}}, {1: "x"}, {"x" * 256: "y"}, {"x": 2**64}],
    ids=["a list", "a map", "a name that is no text", "a long name", "an integer of 65 bits"],
)
def test_headers_the_wire_cannot_carry_are_invalid(headers):
    with pytest.raises(Invalid):
        cells_of(headers=headers)


@pytest.mark.parametrize(
    "headers",
    [{str(i): 1 for i in range(65)}, {"x": "y" * 33_000}],
    ids=["too many", "too long"],
)
def test_headers_above_the_limits_are_too_large(headers):
    with pytest.raises(TooLarge):
        cells_of(headers=headers)


def test_a_key_above_its_limit_is_too_large():
    with pytest.raises(TooLarge, match="digest"):
        record_cells_of(key=b"x" * 16_385)
