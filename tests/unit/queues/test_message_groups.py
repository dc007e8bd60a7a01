"""Message groups, without a queue around them."""

import pytest

from penstock_broker.queues.message_groups import JOB_PREFIX, MessageGroups, Rules
from penstock_broker.queues.states import Event, State, States


class Ground:
    """Groups over states; messages are appended one by one."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.states = States()
        self.groups = MessageGroups(self.states)
        self.groups.obey(rules or Rules())
        self.end = 0

    def join(self, *names: str) -> None:
        for name in names:
            self.groups.join(self.end, name)
            self.end += 1

    def ready(self, wanted: int = 100, mono: int = 0) -> list[int]:
        self.groups.promote(wanted, mono)
        return [o for o in range(self.end) if self.states.state(o) == State.SPECIAL]

    def settle(self, offset: int) -> None:
        self.states.move(offset, 1, Event.SETTLE)
        self.groups.leave(offset)


def test_one_message_of_each_group_is_out() -> None:
    ground = Ground()
    ground.join("a", "b", "a", "b")
    assert ground.ready() == [0, 1]
    ground.settle(0)
    assert ground.ready() == [1, 2]


def test_group_is_forgotten_with_its_last_message() -> None:
    ground = Ground()
    ground.join("a", "b")
    ground.ready()
    ground.settle(0)
    ground.settle(1)
    ground.ready()
    assert not ground.groups.named
    assert not ground.groups.of


def test_settled_message_leaves_once_and_a_stranger_not_at_all() -> None:
    ground = Ground()
    ground.join("a")
    ground.settle(0)
    ground.groups.leave(0)
    ground.groups.leave(99)
    ground.groups.failed(99)
    ground.groups.park(99)
    assert not ground.groups.held(99)
    assert not ground.groups.parked


def test_parked_group_lets_nothing_out_until_it_is_resumed() -> None:
    ground = Ground()
    ground.join("a", "a")
    ground.ready()
    ground.groups.park(0)
    ground.settle(0)
    assert ground.ready() == []
    assert ground.groups.blocked == 1
    ground.groups.resume("a")
    assert ground.ready() == [1]
    ground.groups.resume("unknown")


def test_job_is_never_parked_and_has_one_out_whatever_the_rules() -> None:
    ground = Ground(Rules(concurrency=5, skip=True))
    ground.join(JOB_PREFIX + "k", JOB_PREFIX + "k")
    assert ground.ready() == [0]
    ground.groups.park(0)
    assert not ground.groups.parked
    assert list(ground.groups.job("k")) == [0, 1]
    assert list(ground.groups.job("other")) == []


def test_tenants_take_turns_by_weight_and_only_as_many_go_as_are_wanted() -> None:
    ground = Ground(Rules(fair=True, concurrency=None, weights={"a": 3.0}))
    ground.join(*"a" * 30, *"b" * 30)
    out = ground.ready(wanted=20)
    assert len(out) == 20
    assert len([each for each in out if each < 30]) == 15


def test_tenant_over_its_rate_sleeps_and_says_until_when() -> None:
    ground = Ground(Rules(fair=True, concurrency=None, rate=1.0))
    ground.join("a", "a", "b")
    assert ground.ready(mono=10_000) == [0, 1, 2], "a second's worth was saved up, and the next begins"
    ground.join("a")
    assert ground.ready(mono=10_000) == [0, 1, 2]
    assert ground.groups.throttled == 1
    until = ground.groups.next_at
    assert until is not None
    assert 10_000 < until <= 11_001
    assert ground.ready(mono=until) == [0, 1, 2, 3]
    assert ground.groups.next_at is None


def test_rules_that_change_are_obeyed_at_once() -> None:
    ground = Ground(Rules(rate=0.001))
    ground.join("a", "a", "a", "a")
    assert ground.ready() == [0]
    ground.groups.obey(Rules(concurrency=3))
    assert ground.ready() == [0, 1, 2]
    ground.groups.obey(Rules(concurrency=3))
    assert ground.ready() == [0, 1, 2]


@pytest.mark.parametrize("skip", [True, False])
def test_failed_message_steps_aside_only_if_the_rules_say_so(skip: bool) -> None:
    ground = Ground(Rules(skip=skip))
    ground.join("a", "a")
    ground.ready()
    ground.states.move(0, 1, Event.DELAY)
    ground.groups.failed(0)
    assert ground.ready() == ([1] if skip else [])
    assert ground.groups.blocked == (0 if skip else 1)
    assert ground.groups.held(0) is skip


def test_snapshot_holds_who_is_where_and_what_is_parked() -> None:
    ground, again = Ground(), Ground()
    ground.join("a", "a", "b", JOB_PREFIX + "k")
    ground.ready()
    ground.groups.park(0)
    again.end = ground.end
    again.groups.restore(ground.groups.snapshot(), lambda offset: offset == 0)
    assert {o: group.name for o, group in again.groups.of.items()} == {1: "a", 2: "b", 3: JOB_PREFIX + "k"}
    assert again.ready() == [2, 3]
