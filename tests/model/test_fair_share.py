"""Fair queues: a message group is a tenant, and no tenant delays another; weights, caps and rates."""

from collections import Counter
from typing import Any

import pytest
from tests.model.traits import LIVES, RESTARTS, World, bodies, message, texts

from penstock_protocol.errors import Invalid
from penstock_protocol.messages import queues as q

lives = pytest.mark.parametrize("life", LIVES)


def backlog(world: World, tenant: str, messages: int) -> None:
    world.publish(*(message(f"{tenant}{n}".encode(), group=tenant) for n in range(messages)))


def tenants(found: list[bytes]) -> str:
    return "".join(body.decode()[0] for body in found)


@lives
def test_quiet_tenant_is_not_delayed_by_the_backlog_of_a_noisy_one(life: str) -> None:
    world = World(fair=True)
    backlog(world, "noisy", 500)
    world.enqueue(message(b"quiet", group="quiet"))
    LIVES[life](world)
    assert b"quiet" in world.bodies(2)


@lives
def test_tenants_take_turns(life: str) -> None:
    world = World(fair=True)
    for tenant in "abc":
        backlog(world, tenant, 30)
    LIVES[life](world)
    assert Counter(tenants(world.bodies(30))) == {"a": 10, "b": 10, "c": 10}


@lives
def test_messages_of_a_tenant_have_no_order_among_their_tries_but_begin_in_order(life: str) -> None:
    world = World(fair=True)
    backlog(world, "a", 3)
    LIVES[life](world)
    found = world.receive(2)
    world.nack(found[0], delay=60_000)
    assert world.bodies() == [b"a2"], "a failure holds up nobody of the tenant"


@lives
def test_messages_without_a_group_are_one_tenant(life: str) -> None:
    world = World(fair=True)
    world.publish(*(message(b"p") for _ in range(100)))
    backlog(world, "a", 100)
    LIVES[life](world)
    assert Counter(tenants(world.bodies(20))) == {"p": 10, "a": 10}


@lives
def test_weights_share_out_the_turns(life: str) -> None:
    world = World(fair=True, group_weights=("a", 3, "b", 1))
    for tenant in "ab":
        backlog(world, tenant, 100)
    LIVES[life](world)
    assert Counter(tenants(world.bodies(40))) == {"a": 30, "b": 10}


def test_weights_that_are_altered_count_at_once() -> None:
    world = World(fair=True)
    for tenant in "ab":
        backlog(world, tenant, 200)
    assert Counter(tenants(world.bodies(20))) == {"a": 10, "b": 10}
    world.alter(group_weights=("a", 9))
    counts = Counter(tenants(world.bodies(100)))
    assert counts["a"] >= 85


def test_tenant_that_was_idle_has_saved_up_nothing() -> None:
    world = World(fair=True)
    backlog(world, "a", 100)
    world.bodies(50)
    backlog(world, "b", 100)
    assert Counter(tenants(world.bodies(20)))["a"] >= 9


@lives
def test_tenant_has_no_more_in_flight_than_its_cap(life: str) -> None:
    world = World(fair=True, group_concurrency=2)
    backlog(world, "a", 5)
    backlog(world, "b", 5)
    LIVES[life](world)
    found = world.receive()
    assert Counter(tenants([each.body for each in found])) == {"a": 2, "b": 2}
    world.ack(found[0])
    assert tenants(world.bodies()) == found[0].body.decode()[0]


@lives
def test_message_that_waits_for_its_retry_is_not_in_flight_and_takes_nobody_s_place(life: str) -> None:
    world = World(fair=True, group_concurrency=1)
    backlog(world, "a", 3)
    world.nack(*world.receive(), delay=60_000)
    LIVES[life](world)
    assert world.bodies() == [b"a1"]


def test_consumer_that_waits_gets_more_of_a_tenant_when_one_is_acked() -> None:
    world = World(fair=True, group_concurrency=1)
    world.subscribe()
    backlog(world, "a", 2)
    ((_, first),) = world.deliveries()
    world.ack(first)
    assert bodies(world.deliveries()) == [b"a1"]


# ---- Rates


@lives
def test_queue_hands_out_at_its_rate(life: str) -> None:
    world = World(rate=10)
    world.publish(*texts(*(f"m{n}" for n in range(40))))
    LIVES[life](world)
    world.subscribe(credit=100)
    for _ in range(20):
        world.pass_(100)
    assert 20 <= len(world.deliveries()) <= 22


def test_rate_below_one_a_second_is_kept() -> None:
    world = World(rate=0.5)
    world.publish(*texts("a", "b", "c"))
    world.subscribe(credit=100)
    assert len(world.deliveries()) == 1
    world.pass_(1_999)
    assert world.deliveries() == []
    world.pass_(2)
    assert len(world.deliveries()) == 1


def test_rate_that_is_raised_counts_at_once() -> None:
    world = World(rate=0.001)
    world.publish(*texts(*(f"m{n}" for n in range(20))))
    world.subscribe(credit=100)
    assert len(world.deliveries()) == 1
    world.alter(rate=1_000)
    world.pass_(100)
    assert len(world.deliveries()) == 19


def test_quiet_tenant_is_not_delayed_by_a_noisy_one_at_the_queue_s_rate() -> None:
    world = World(fair=True, rate=1)
    world.subscribe(credit=100)
    backlog(world, "noisy", 50)
    world.enqueue(message(b"quiet", group="quiet"))
    world.pass_(1_100)
    world.pass_(1_100)
    assert b"quiet" in bodies(world.deliveries())


def test_quiet_tenant_is_not_delayed_by_a_noisy_one_at_the_limit_in_flight() -> None:
    world = World(fair=True, max_in_flight=2)
    world.subscribe(credit=100)
    backlog(world, "noisy", 50)
    world.enqueue(message(b"quiet", group="quiet"))
    found = [each for _, each in world.deliveries()]
    world.ack(*found)
    assert b"quiet" in bodies(world.deliveries())


@pytest.mark.parametrize("fair", [True, False])
def test_tenant_is_handed_out_at_its_own_rate_and_slows_nobody_down(fair: bool) -> None:
    world = World(fair=fair, group_rate=2, group_concurrency=1_000)
    world.subscribe(credit=1_000)
    backlog(world, "a", 30)
    for number in range(50):
        world.enqueue(message(b"%d" % number, group=f"other {number}"))
    world.pass_(1)
    out = bodies(world.deliveries())
    assert len([body for body in out if body.isdigit()]) == 50
    before = tenants(out).count("a")
    assert before <= 3
    for _ in range(100):
        world.pass_(100)
    assert 19 <= len(world.deliveries()) <= 22


@pytest.mark.parametrize("fair", [True, False])
def test_rate_of_a_tenant_is_not_forgotten_while_it_has_no_message(fair: bool) -> None:
    world = World(fair=fair, group_rate=1)
    world.subscribe(credit=1_000)
    got = 0
    for number in range(10):
        world.enqueue(message(b"a", group="a"), message(b"x", group=f"other {number}"))
        for _, each in world.deliveries():
            got += each.body == b"a"
            world.ack(each)
    assert got <= 2
    world.pass_(60_000)
    world.enqueue(message(b"last", group="last"))
    for _, each in world.deliveries():
        world.ack(each)
    for _ in range(20):
        world.pass_(1_000)
        for _, each in world.deliveries():
            world.ack(each)
    assert world.stats()["ready"] == 0


@pytest.mark.parametrize("failure", ["block", "park", "skip"])
@pytest.mark.parametrize("fair", [True, False])
def test_message_that_is_tried_again_goes_at_the_rate_of_its_group_too(fair: bool, failure: str) -> None:
    world = World(fair=fair, group_rate=2, group_failure=failure, max_attempts=None, max_deliveries=None)
    world.subscribe(credit=1_000)
    world.enqueue(message(b"fails", group="a"), message(b"next", group="a"))
    world.enqueue(message(b"other", group="b"))
    tries: list[bytes] = []
    for _ in range(100):
        for _, each in world.deliveries():
            tries.append(each.body)
            if each.body == b"fails":
                world.nack(each, delay=0)
            else:
                world.ack(each)
        world.pass_(100)
    assert 19 <= tries.count(b"fails") <= 23
    assert tries.count(b"other") == 1
    assert b"next" not in tries, "it stands behind one that is due"


@pytest.mark.parametrize("what", ["pause", "purge"])
def test_throttled_tenant_keeps_nobody_busy_when_nothing_may_go(what: str) -> None:
    world = World(fair=True, group_rate=1)
    world.subscribe(credit=100)
    backlog(world, "a", 10)
    if what == "pause":
        world.alter(paused=True)
    else:
        world.document(q.Purge("jobs"))
    world.deliveries()
    world.clock.advance(5_000)
    world.bench.turn()
    deadline = world.bench.core.deadline
    assert deadline is None or deadline > world.clock.now().mono, "or the loop never sleeps"


def test_throttled_tenants_are_counted() -> None:
    world = World(fair=True, group_rate=1)
    world.subscribe(credit=100)
    backlog(world, "a", 10)
    backlog(world, "b", 10)
    assert world.stats()["throttled_tenants"] == 2


@pytest.mark.parametrize("life", RESTARTS)
def test_nothing_is_lost_or_handed_out_twice_across_a_restart(life: str) -> None:
    world = World(fair=True, group_concurrency=3)
    for tenant in "abc":
        backlog(world, tenant, 10)
    found = world.receive(5)
    out = [each.body for each in found]
    world.ack(*found)
    RESTARTS[life](world)
    assert sorted(out + world.drain()) == sorted(f"{t}{n}".encode() for t in "abc" for n in range(10))


def test_job_key_in_a_fair_queue_leaves_nothing_behind() -> None:
    world = World(fair=True)
    world.enqueue(message(b"a", job="k"), message(b"b"))
    assert sorted(world.drain()) == [b"a", b"b"]
    backlog(world, "z", 1)
    world.drain()
    groups = world.queue.indexes.groups
    assert not groups.of
    assert all(not group.members for group in groups.named.values())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fair", 1),
        ("rate", 0),
        ("rate", 1_000_001),
        ("group_rate", 0),
        ("group_weights", ["a"]),
        ("group_weights", ["a", 0]),
        ("group_weights", ["a", 1_001]),
        ("group_weights", ["a", float("nan")]),
        ("group_weights", [1, 1]),
        ("group_weights", {"a": 1}),
        ("rate", float("nan")),
        ("rate", float("inf")),
    ],
)
def test_setting_that_cannot_be_is_refused_by_name_value_and_range(setting: str, value: Any) -> None:
    error = World().ask(q.CreateQueue("other", {setting: value}, "check"))
    assert isinstance(error, Invalid)
    assert f"{setting}={value!r}" in str(error)
    assert "allowed" in str(error)


def test_queue_with_messages_does_not_become_fair_and_says_why() -> None:
    world = World()
    world.enqueue(message(b"x"))
    error = world.ask(q.AlterQueue("jobs", {"fair": True}))
    assert isinstance(error, Invalid)
    assert "holds 1 messages" in str(error)
    world.drain()
    world.alter(fair=True)
