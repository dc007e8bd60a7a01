"""What a trial of the queues came upon, on a whole node: settings that nothing keeps, dead letters that go
round, ages, counts and limits that were told wrong; whatever dies meanwhile."""

from dataclasses import fields
from typing import Any

import pytest
from tests.model.traits import DAY_MS, LIVES, RESTARTS, World, batch_of, message, seen, texts

from penstock_broker.catalogue import Item, part_for
from penstock_broker.observing import observe
from penstock_broker.queues.admission import BEYOND_MAX
from penstock_broker.queues.policy import OVER_TOPIC, Policy, policy_for
from penstock_broker.storage.entries import Kind
from penstock_protocol.errors import Error, Invalid, QueueFull
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import topics as t

lives = pytest.mark.parametrize("life", LIVES)
NO_LIMITS = {"dead_letter": None, "max_attempts": None, "max_deliveries": None}
KEPT = {
    *("visibility_timeout", "max_attempts", "max_deliveries", "dead_letter"),
    *("retry_initial", "retry_factor", "retry_max", "retry_jitter"),
    *("max_in_flight", "single_active", "paused", "rate", "expires", "exclusive"),
    *("source", "source_start", "durability"),
}
"""What a queue over a topic does as any other."""
UNKEPT: dict[str, Any] = {
    "max_messages": 10,
    "max_bytes": 10_000,
    "overflow": "drop_oldest",
    "delay": 60_000,
    "ttl": 60_000,
    "on_expiry": "dead_letter",
    "dedup_window": 60_000,
    "content_dedup": True,
    "job_scope": "queued",
    "priority_ageing": 1_000,
    "fair": True,
    "group_concurrency": 2,
    "group_failure": "park",
    "group_weights": ("acme", 2),
    "group_rate": 5,
    "keep_settled": 60_000,
}


def over_topic(**settings: Any) -> World:
    """A world with a topic `log` and a queue `over` over it."""
    world = World(**settings)
    world.call(t.CreateTopic("log", {}, "check"))
    world.create("over", source="log")
    return world


def refused(world: World, request: Any) -> str:
    """What a request is refused with."""
    error = world.ask(request)
    assert isinstance(error, Invalid), error
    return str(error)


# ---- Dead letters and topics


@lives
def test_queue_over_a_topic_is_nobodys_dead_letter_queue(life: str) -> None:
    world = over_topic()
    LIVES[life](world)
    for request in (
        q.CreateQueue("more", {"dead_letter": "over"}, "check"),
        q.CreateQueue("two", {"source": "log", "dead_letter": "over", "max_attempts": 1}, "check"),
        q.CreateQueue("jobs", {"dead_letter": "over"}, "alter"),
        q.AlterQueue("jobs", {"dead_letter": "over"}),
    ):
        said = refused(world, request)
        assert "dead_letter='over'" in said
        assert "the records of topic 'log'" in said
        assert "name another queue" in said
    assert {queue.name for queue in world.bench.core.registry.queues.values()} == {"jobs", "over"}


@pytest.mark.parametrize("dry", [True, False], ids=["plan", "redrive"])
def test_redrive_to_a_queue_over_a_topic_and_its_plan_are_refused_alike(dry: bool) -> None:
    world = over_topic()
    world.call(t.Produce("log", 0, payload=batch_of(*texts("a"))))
    (record,) = world.receive(name="over")
    world._settle(q.Nack("over", q.Outcome.DEAD_LETTER, None, "bad", b""), (record,))
    said = refused(world, q.Transfer("over.dead", None, "ready", 10, 0, {}, dry))
    assert "'over' has the records of a topic" in said
    assert world.call(q.Transfer("over.dead", "jobs", "ready", 10, 0, {}, dry)) is not None


@lives
def test_queue_that_dead_letters_go_to_is_not_made_over_a_topic(life: str) -> None:
    world = World(dead_letter="dead")
    world.call(t.CreateTopic("log", {}, "check"))
    LIVES[life](world)
    said = refused(world, q.CreateQueue("dead", {"source": "log"}, "check"))
    assert "dead letters of queue 'jobs' go to queue 'dead'" in said
    assert "alter dead_letter of 'jobs'" in said
    world.alter(dead_letter="elsewhere")
    world.create("dead", source="log")


def test_name_that_dead_letters_go_to_by_default_counts() -> None:
    world = World("first")
    world.call(t.CreateTopic("log", {}, "check"))
    assert "queue 'first' go to queue 'first.dead'" in refused(
        world, q.CreateQueue("first.dead", {"source": "log"}, "check")
    )
    world.create("second.dead", source="log")
    assert "dead_letter='second.dead'" in refused(world, q.CreateQueue("second", {}, "check"))
    world.create("second", dead_letter="somewhere")


def made_before(world: World, name: str, **settings: Any) -> None:
    """A queue as an earlier broker let it be made."""
    policy = policy_for(name, settings)
    core = world.bench.core
    logs = tuple(core.new_uuid() for _ in range(1))
    item = Item("queue", name, logs[0], policy.as_map(), logs if policy.source else ())
    core.engine.append([part_for(Kind.CREATE, item)], wall=world.wall)
    world.bench.settle()


@pytest.mark.parametrize("life", RESTARTS)
def test_what_was_made_before_it_was_refused_is_read_back_and_can_be_changed(life: str) -> None:
    world = over_topic()
    made_before(world, "late", source="log", **(UNKEPT | {"dead_letter": "over"}))
    RESTARTS[life](world)
    world.call(q.AlterQueue("late", {"paused": True}))
    assert "delay=5000 ms" in refused(world, q.AlterQueue("late", {"delay": 5_000}))
    world.call(q.AlterQueue("late", {"delay": 0, "dead_letter": "late.dead"}))
    assert "dead_letter='over'" in refused(world, q.AlterQueue("late", {"dead_letter": "over"}))


# ---- Settings over a topic


def test_every_setting_is_kept_over_a_topic_or_refused() -> None:
    every = {field.name for field in fields(Policy)}
    assert OVER_TOPIC.keys() == UNKEPT.keys() == every - KEPT
    assert every > KEPT


@pytest.mark.parametrize("setting", UNKEPT)
def test_setting_that_a_queue_over_a_topic_cannot_keep_is_refused(setting: str) -> None:
    world = over_topic()
    for request in (
        q.CreateQueue("new", {"source": "log", setting: UNKEPT[setting]}, "check"),
        q.CreateQueue("over", {setting: UNKEPT[setting]}, "alter"),
        q.AlterQueue("over", {setting: UNKEPT[setting]}),
    ):
        said = refused(world, request)
        assert f"{setting}={UNKEPT[setting]!r}" in said
        assert "is not kept by a queue over a topic: " in said
        assert OVER_TOPIC[setting].instead in said
    world.create("plain", **{setting: UNKEPT[setting]})


def test_what_holds_over_a_topic_anyway_may_be_said() -> None:
    world = over_topic()
    world.call(q.AlterQueue("over", {"max_messages": None, "max_bytes": None, "dedup_window": 0}))
    described = world.document(q.DescribeQueue("over"))["settings"]
    world.create("copy", **described)
    assert world.document(q.DescribeQueue("copy"))["settings"] == described
    world.call(q.AlterQueue("copy", {"rate": 5, "max_in_flight": 3, "expires": DAY_MS}))


# ---- What is told


@lives
def test_record_that_retention_took_in_hand_has_no_age(life: str) -> None:
    world = over_topic()
    world.call(t.Produce("log", 0, None, batch_of(*texts("a", "b"))))
    LIVES[life](world)
    world.receive(name="over")
    world.pass_(5_000)
    assert world.stats("over")["oldest_age"] == 5.0
    while world.bench.core.registry.topics["log"].partitions[0].log.start < 2:
        world.call(t.Produce("log", 0, None, batch_of(message(b"x" * 4_000))))
        world.call(t.AlterTopic("log", {"retention_bytes": 10_000}))
        world.pass_(2_000)
    stats = world.stats("over")
    assert stats["in_flight"] == 2
    assert stats["oldest_age"] is None or stats["oldest_age"] < DAY_MS / 1_000
    facts = next(each for each in observe(world.bench.core, world.clock.now()).queues if each.name == "over")
    assert "in_flight" not in facts.oldest_age


def test_oldest_age_is_that_of_the_oldest_whatever_way_it_went() -> None:
    world = World()
    world.enqueue(message(b"a"))
    world.pass_(3_000)
    world.enqueue(message(b"b"))
    world.pass_(1_000)
    (first,) = world.receive(1)
    assert world.stats()["oldest_age"] == 4.0
    world.release(first)
    facts = observe(world.bench.core, world.clock.now()).queues[0]
    assert facts.oldest_age == {"ready": 4.0}
    world.ack(*world.receive(1))
    assert world.stats()["oldest_age"] == 1.0


def counted(world: World) -> int:
    """Throttled tenants, as stats and metrics have them."""
    said: int = world.stats()["throttled_tenants"]
    facts = observe(world.bench.core, world.clock.now())
    assert next(each for each in facts.queues if each.name == "jobs").throttled_tenants == said
    return said


@lives
def test_tenant_at_its_cap_is_throttled_while_more_of_it_waits(life: str) -> None:
    world = World(fair=True, group_concurrency=2)
    world.enqueue(
        *texts("a1", "a2", "a3", group="a"), *texts("b1", "b2", group="b"), message(b"c", group="c")
    )
    LIVES[life](world)
    assert counted(world) == 0
    found = world.receive()
    assert len(found) == 5
    assert counted(world) == 1
    world.ack(next(each for each in found if each.body.startswith(b"a")))
    world.bench.settle()
    assert [each.body for each in world.receive()] == [b"a3"]
    assert counted(world) == 0


def test_tenant_over_its_rate_and_one_at_its_cap_are_counted_once() -> None:
    world = World(fair=True, group_concurrency=1, group_rate=1)
    world.enqueue(*texts("a1", "a2", "a3", group="a"))
    (first,) = world.receive()
    assert counted(world) == 1, "at its cap"
    world.ack(first)
    assert world.receive() == []
    assert counted(world) == 1, "over its rate"


def test_who_is_not_a_tenant_is_not_throttled() -> None:
    world = World()
    world.enqueue(*texts("a1", "a2", group="a"))
    world.receive()
    assert counted(world) == 0, "strict order is no cap"
    fair = World(fair=True, group_concurrency=1)
    fair.enqueue(message(b"x", job="k"))
    fair.receive()
    assert counted(fair) == 0


# ---- Looking at dead letters


@lives
def test_all_dead_letters_of_a_group_are_seen(life: str) -> None:
    world = World(group_failure="skip")
    world.enqueue(*texts("a1", "a2", "a3", group="a"), message(b"b"))
    while found := world.receive():
        world.dead_letter(*found)
    LIVES[life](world)
    looked = world.peek(name="jobs.dead")
    assert sorted(looked) == [b"a1", b"a2", b"a3", b"b"]
    assert len(looked) == world.stats("jobs.dead")["ready"]
    assert looked == [each.body for each in seen(world.call(q.Find("jobs.dead", 10, 0, {})))]
    (first, *_) = world.receive(1, "jobs.dead")
    assert first.body not in world.peek(name="jobs.dead")
    assert len(world.peek(name="jobs.dead")) == 3


def test_where_nobody_buries_ready_and_held_are_told_apart() -> None:
    world = World()
    world.enqueue(*texts("a1", "a2", group="a"))
    world.bench.settle()
    assert sorted(world.peek() + world.peek("held")) == [b"a1", b"a2"]
    assert b"a2" not in world.peek()


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_look_at_dead_letters_keeps_to_its_limit_and_to_their_order(limit: int) -> None:
    world = World()
    world.enqueue(*texts("a1", "a2", group="a"), *texts("b1", "b2", group="b"))
    while found := world.receive():
        world.dead_letter(*found)
    world.receive(1, "jobs.dead")
    whole = world.peek(name="jobs.dead")
    delivery = world.call(q.Peek("jobs.dead", limit, "ready"))
    assert len(whole) == 3
    assert [each.body for each in seen(delivery)] == whole[:limit]


# ---- Limits that are lowered


@lives
@pytest.mark.parametrize("overflow", ["drop_oldest", "dead_letter_oldest"])
def test_queue_comes_down_to_a_lowered_limit(overflow: str, life: str) -> None:
    world = World(max_messages=10, overflow=overflow)
    world.create("jobs.dead", **NO_LIMITS)
    world.enqueue(*texts(*"abcdefghij"))
    world.alter(max_messages=5)
    LIVES[life](world)
    world.enqueue(message(b"k"))
    assert world.stats()["ready"] == 5
    LIVES[life](world)
    world.enqueue(*texts("l", "m"))
    assert world.drain() == [b"i", b"j", b"k", b"l", b"m"]
    dead = b"".join(world.bodies(name="jobs.dead")) if overflow == "dead_letter_oldest" else b"abcdefgh"
    assert dead == b"abcdefgh"


@pytest.mark.parametrize("overflow", ["drop_oldest", "dead_letter_oldest"])
def test_what_is_in_flight_stays_above_a_lowered_limit_and_publishes_go_on(overflow: str) -> None:
    world = World(max_messages=10, overflow=overflow)
    world.enqueue(*texts(*"abcdefghij"))
    out = world.receive(7)
    world.alter(max_messages=5)
    world.enqueue(message(b"k"))
    stats = world.stats()
    assert (stats["in_flight"], stats["ready"]) == (7, 1)
    world.ack(*out)
    world.enqueue(*texts("l", "m"))
    assert world.drain() == [b"k", b"l", b"m"]


@pytest.mark.parametrize("given", [{"group": "g"}, {"delay": DAY_MS}, {"priority": 9}, {"job": "k"}])
def test_lowered_limit_counts_whatever_messages_wait_for(given: dict[str, Any]) -> None:
    world = World(max_messages=4, overflow="drop_oldest", job_scope="queued")
    world.publish(message(b"a", **given))
    world.enqueue(*texts("b", "c", "d"))
    world.alter(max_messages=2)
    world.enqueue(message(b"e"))
    assert world.drain() == [b"d", b"e"]
    world.pass_(DAY_MS)
    assert world.drain() == []


def test_no_publish_pushes_out_more_than_the_loop_bears() -> None:
    world = World(max_messages=10_000, overflow="drop_oldest")
    for _ in range(6):
        world.publish(*[message(b"x")] * 500)
    world.alter(max_messages=10)
    held = [3_000]
    while held[-1] > 10:
        world.enqueue(message(b"y"))
        held.append(world.stats()["ready"])
        assert held[-2] - held[-1] <= BEYOND_MAX
    assert held == [3_000, 2_000, 1_000, 10]


def test_lowered_limit_pushes_no_more_into_a_dead_letter_queue_than_has_room() -> None:
    world = World(max_messages=6, overflow="dead_letter_oldest")
    world.create("jobs.dead", max_messages=3, **NO_LIMITS)
    world.enqueue(*texts(*"abcdef"))
    world.alter(max_messages=2)
    world.enqueue(message(b"g"))
    assert world.peek(name="jobs.dead") == [b"a", b"b", b"c"]
    assert isinstance(world.publish(message(b"h")), QueueFull)
    assert world.drain() == [b"d", b"e", b"f", b"g"]


@pytest.mark.parametrize("batched", [True, False])
def test_queue_comes_down_to_lowered_bytes_and_no_further(batched: bool) -> None:
    world = World(max_bytes=20_000, overflow="drop_oldest")
    bodies = [b"%d" % number * 900 for number in range(10)]
    for some in [bodies[:5], bodies[5:]] if batched else [[body] for body in bodies]:
        world.publish(*map(message, some))
    world.alter(max_bytes=5_000)
    for name in (b"u", b"v", b"w", b"x", b"y", b"z")[0 if batched else 5 :]:
        world.enqueue(message(name * 900))
    assert world.stats()["bytes"] <= 5_000
    assert [body[:1] for body in world.drain()] == list(map(bytes, zip(b"vwxyz" if batched else b"6789z")))


def test_message_in_flight_at_the_head_does_not_empty_a_queue_with_lowered_bytes() -> None:
    world = World(max_bytes=20_000, overflow="drop_oldest")
    world.enqueue(*(message(b"%d" % number * 900) for number in range(10)))
    world.receive(1)
    world.alter(max_bytes=6_000)
    for _ in range(5):
        world.enqueue(message(b"x" * 900))
    assert world.stats()["ready"] >= 4


# ---- Behind a message that failed


@lives
def test_what_waits_behind_a_failed_head_is_told_so(life: str) -> None:
    world = World()
    world.enqueue(*texts("head", "x", group="g"))
    (head,) = world.receive()
    world.nack(head, delay=DAY_MS)
    LIVES[life](world)
    world.bench.settle()
    explained = world.document(q.Explain("jobs", world.queue.uuid, 1))
    assert explained["state"] == "held"
    reasons = "; ".join(explained["reasons"])
    assert "message group 'g' waits for the message at offset 0: it failed and is tried again in" in reasons
    assert "out" not in reasons


def test_errors_are_of_the_kind_that_says_what_to_do() -> None:
    world = over_topic()
    error = world.ask(q.AlterQueue("over", {"delay": 1_000}))
    assert isinstance(error, Error)
    assert error.hint
