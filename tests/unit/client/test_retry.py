"""What may be sent again, and when."""

from itertools import islice
from random import Random

from penstock import retry
from penstock_protocol.errors import Busy, Closing
from penstock_protocol.messages.session import Cancel, Goodbye
from penstock_protocol.verbs import VERBS

CHANGES = {
    *("ENQUEUE", "ACK", "NACK", "EXTEND", "CONSUME", "CREDIT", "STOP", "PURGE", "PRODUCE", "COMMIT"),
    *("CHECKPOINT", "REPLY", "RESUME", "RESCHEDULE", "TRANSFER"),
    *("CREATE_SCHEDULE", "ALTER_SCHEDULE", "DELETE_SCHEDULE"),
    *("CREATE_QUEUE", "ALTER_QUEUE", "DELETE_QUEUE", "CREATE_TOPIC", "ALTER_TOPIC", "DELETE_TOPIC"),
    *("OPEN_PRODUCER", "DELETE_PRODUCER", "DELETE_GROUP"),
}


def test_pauses_double_up_to_the_longest_with_half_of_each_by_chance():
    steps = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    pauses = list(islice(retry.pauses(Random(1)), len(steps)))
    assert all(step / 2 <= pause <= step for step, pause in zip(steps, pauses, strict=True))
    assert len(set(pauses)) == len(pauses)


def test_two_clients_do_not_come_back_together():
    first, second = (list(islice(retry.pauses(Random(seed)), 5)) for seed in (1, 2))
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_the_broker_may_ask_for_a_longer_pause():
    assert retry.pause_after(Busy("later", retry_after=2.0), retry.pauses(Random(1))) == 2.0


def test_the_curve_counts_when_the_broker_asks_for_less():
    steps = iter([0.5])
    assert retry.pause_after(Closing("draining", retry_after=0.01), steps) == 0.5


def test_every_verb_is_known_to_be_a_read_or_a_change():
    asked = {verb.name for verb in VERBS if not verb.pushed and verb.request not in (Cancel, Goodbye)}
    reads = {verb.name for verb in VERBS if verb.request in retry.READS}
    assert reads.isdisjoint(CHANGES)
    assert reads | CHANGES == asked
