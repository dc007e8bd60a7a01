"""Members of a consumer group on a whole node: who is told what and when, may commit what, is forgotten."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from tests.model.bench import SETTINGS, Bench, batch

from penstock_broker.groups.assignors import ASSIGNORS, sticky
from penstock_broker.session import Connection
from penstock_protocol.errors import Conflict, Error, Invalid, NotFound, OffsetOutOfRange, Stale
from penstock_protocol.messages import groups as g
from penstock_protocol.messages import session as s
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import pack_document, unpack_document

DAY_MS = 86_400_000
ANN, BOB = b"ann-------------", b"bob-------------"


class World(Bench):
    """A node with a topic of four partitions, and some processes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ann = self.connect(b"A" * 16)
        self.bob = self.connect(b"B" * 16)
        if "orders" not in self.core.registry.topics:
            self.create("orders", 4)

    def create(self, name: str, partitions: int) -> None:
        made = self.call(self.ann, t.CreateTopic(name, {"partitions": partitions}, "check"))
        assert isinstance(made, s.Document), made

    def join(
        self,
        connection: Connection,
        member: bytes,
        *topics: str,
        instance: str | None = None,
        claims: dict[str, list[int]] | None = None,
        assignor: str = "sticky",
    ) -> Any:
        """The assignment, or the refusal."""
        payload = memoryview(pack_document(claims) if claims is not None else b"")
        asked = g.Join("readers", member, topics or ("orders",), assignor, instance, payload)
        return opened(self.call(connection, asked))

    def wait(self, connection: Connection, member: bytes, seen: int, done: int | None = None) -> int:
        """A HEARTBEAT; its correlation."""
        asked = self.ask(connection, g.Heartbeat("readers", member, seen, seen if done is None else done))
        self.settle()
        return asked

    def told(self, connection: Connection, correlation: int) -> Any:
        """What it was answered; None: nothing yet."""
        self.settle()
        found = self.replies.pop((connection, correlation), None)
        return None if found is None else opened(found)

    def newest(self, member: bytes) -> int:
        """The generation it was told last."""
        group = self.core.membership.get("readers")
        assert group is not None
        return group.members[member].told

    def given(self, connection: Connection, correlation: int) -> Any:
        """The partitions in what it was answered."""
        told = self.told(connection, correlation)
        assert told is not None, "no news"
        return told["partitions"]

    def produce(self, partition: int, records: int = 1, topic: str = "orders") -> None:
        done = self.until_taken(self.ann, t.Produce(topic, partition, None, batch(*[b"x"] * records)))
        assert not isinstance(done, Error), done

    def commit(
        self,
        connection: Connection,
        partition: int,
        offset: int,
        member: bytes | None = None,
        generation: int = 0,
    ) -> Any:
        rows = ((partition, offset, ""),)
        return self.call(connection, t.Commit("readers", "orders", rows, member, generation))

    def describe(self) -> dict[str, Any]:
        return dict(unpack_document(self.call(self.ann, t.DescribeGroup("readers")).payload))


def opened(reply: Any) -> Any:
    return unpack_document(reply.payload) if isinstance(reply, s.Document) else reply


def restarted(world: World) -> World:
    return World(world.files.crash(Random(1)), world.clock)


def test_the_first_member_gets_everything_and_the_second_half_of_it() -> None:
    world = World()
    first = world.join(world.ann, ANN)
    assert first["partitions"] == {"orders": [0, 1, 2, 3]}
    assert (first["heartbeat_ms"], first["session_ms"]) == (3_000, 45_000)
    waiting = world.wait(world.ann, ANN, first["generation"])
    assert world.told(world.ann, waiting) is None
    second = world.join(world.bob, BOB)
    assert second["partitions"] == {}
    less = world.told(world.ann, waiting)
    assert less["partitions"] == {"orders": [0, 1]}
    bobs = world.wait(world.bob, BOB, second["generation"])
    assert world.told(world.bob, bobs) is None
    world.wait(world.ann, ANN, less["generation"])
    assert world.told(world.bob, bobs)["partitions"] == {"orders": [2, 3]}


def test_heartbeat_without_news_is_answered_when_the_next_is_due() -> None:
    world = World()
    first = world.join(world.ann, ANN)
    waiting = world.wait(world.ann, ANN, first["generation"])
    world.clock.advance(2_999)
    assert world.told(world.ann, waiting) is None
    world.clock.advance(1)
    assert world.told(world.ann, waiting) == {**first, "partitions": None}


def test_member_that_was_not_heard_of_is_gone_and_the_others_get_what_it_had() -> None:
    world = World()
    world.join(world.ann, ANN)
    for _ in range(16):
        world.clock.advance(3_000)
        world.call(world.bob, s.Ping())
    with_bob = world.join(world.bob, BOB)
    assert with_bob["partitions"] == {"orders": [0, 1, 2, 3]}
    assert isinstance(world.told(world.ann, world.wait(world.ann, ANN, 0)), Stale)


def test_what_a_member_had_moves_at_once_when_its_session_ends() -> None:
    world = World()
    world.join(world.ann, ANN)
    second = world.join(world.bob, BOB)
    waiting = world.wait(world.bob, BOB, second["generation"])
    world.call(world.ann, s.Goodbye())
    assert world.given(world.bob, waiting) == {"orders": [0, 1, 2, 3]}


def test_lost_socket_is_no_lost_member_for_as_long_as_the_session_lasts() -> None:
    world = World()
    first = world.join(world.ann, ANN)
    second = world.join(world.bob, BOB)
    waiting = world.wait(world.bob, BOB, second["generation"])
    world.core.disconnected(world.ann, world.clock.now())
    world.clock.advance(9_000)
    assert world.told(world.bob, waiting)["partitions"] is None
    again = world.connect(b"A" * 16)
    news = world.told(again, world.wait(again, ANN, first["generation"]))
    assert news["partitions"] == {"orders": [0, 1]}
    world.core.disconnected(again, world.clock.now())
    world.clock.advance(SETTINGS.session_grace_ms - 100)
    waiting = world.wait(world.bob, BOB, second["generation"])
    world.clock.advance(100)
    assert world.given(world.bob, waiting) == {"orders": [0, 1, 2, 3]}


@pytest.mark.parametrize("before", [-1, 0, 1], ids=["just before", "at that moment", "just after"])
def test_news_that_come_when_a_heartbeat_is_due_are_told(before: int) -> None:
    world = World()
    world.join(world.ann, ANN)
    second = world.join(world.bob, BOB)
    heartbeat, grace = SETTINGS.group_heartbeat_ms, SETTINGS.session_grace_ms
    world.core.disconnected(world.ann, world.clock.now())
    world.clock.advance(grace - heartbeat + before)
    waiting = world.wait(world.bob, BOB, second["generation"])
    world.clock.advance(heartbeat - before)  # she is gone, and his HEARTBEAT is to be answered
    told = world.told(world.bob, waiting)
    if told is None or told["partitions"] is None:
        told = world.told(world.bob, world.wait(world.bob, BOB, told["generation"] if told else 0))
    assert told is not None, "he believes that he knows what he has"
    assert told["partitions"] == {"orders": [0, 1, 2, 3]}


@pytest.mark.parametrize("due", [True, False], ids=["that is due", "and the next one"])
def test_news_of_a_hand_over_are_told_to_a_heartbeat(due: bool) -> None:
    world = World()
    world.join(world.ann, ANN)
    second = world.join(world.bob, BOB)
    less = world.told(world.ann, world.wait(world.ann, ANN, 0))
    asked = [world.wait(world.bob, BOB, second["generation"])]
    if due:
        world.clock.advance(SETTINGS.group_heartbeat_ms)
    world.ask(world.ann, g.Heartbeat("readers", ANN, less["generation"], less["generation"]))
    if not due:
        asked.append(world.ask(world.bob, g.Heartbeat("readers", BOB, *[second["generation"]] * 2)))
    assert [world.given(world.bob, each) for each in asked] == [{"orders": [2, 3]}] * len(asked)


def test_news_at_the_end_of_a_turn_are_told_to_the_newer_of_two_heartbeats() -> None:
    world = World()
    world.join(world.ann, ANN)
    second = world.join(world.bob, BOB)
    older = world.wait(world.bob, BOB, second["generation"])
    world.ask(world.ann, s.Goodbye())
    newer = world.ask(world.bob, g.Heartbeat("readers", BOB, second["generation"], second["generation"]))
    assert world.given(world.bob, older) is None
    assert world.given(world.bob, newer) == {"orders": [0, 1, 2, 3]}


def test_instance_keeps_its_seat_and_nothing_moves() -> None:
    world = World()
    world.join(world.ann, ANN, instance="a")
    second = world.join(world.bob, BOB, instance="b")
    less = world.told(world.ann, world.wait(world.ann, ANN, 0))
    world.wait(world.ann, ANN, less["generation"])
    news = world.told(world.bob, world.wait(world.bob, BOB, second["generation"]))
    waiting = world.wait(world.bob, BOB, news["generation"])
    world.call(world.ann, g.Leave("readers", ANN))
    assert world.told(world.bob, waiting) is None
    again = world.join(world.ann, b"ann again-------", instance="a")
    assert again["partitions"] == {"orders": [0, 1]}
    assert world.told(world.bob, waiting) is None
    fenced = world.told(world.ann, world.wait(world.ann, ANN, 0))
    assert isinstance(fenced, Stale)
    assert fenced.detail == {"fenced": True}
    assert isinstance(world.join(world.ann, ANN, instance="a"), Stale)


def test_patterns_follow_topics_that_come_and_go() -> None:
    world = World()
    first = world.join(world.ann, ANN, "eu.*", "#.log")
    assert first["partitions"] == {}
    waiting = world.wait(world.ann, ANN, first["generation"])
    world.create("eu.sales", 1)
    assert world.given(world.ann, waiting) == {"eu.sales": [0]}
    waiting = world.wait(world.ann, ANN, world.newest(ANN))
    world.create("eu.web.log", 2)
    assert world.given(world.ann, waiting) == {"eu.sales": [0], "eu.web.log": [0, 1]}
    waiting = world.wait(world.ann, ANN, world.newest(ANN))
    world.call(world.ann, t.DeleteTopic("eu.sales"))
    assert world.given(world.ann, waiting) == {"eu.web.log": [0, 1]}


def test_partitions_that_come_are_shared_out() -> None:
    world = World()
    first = world.join(world.ann, ANN)
    waiting = world.wait(world.ann, ANN, first["generation"])
    altered = world.call(world.ann, t.AlterTopic("orders", {"partitions": 6}))
    assert isinstance(altered, s.Document), altered
    assert world.told(world.ann, waiting)["partitions"] == {"orders": [0, 1, 2, 3, 4, 5]}


@pytest.mark.parametrize("dies", [False, True])
def test_group_that_reads_a_topic_reads_new_partitions_from_the_first_record_on(dies: bool) -> None:
    world = World()
    world.commit(world.ann, 0, 0)
    world.call(world.ann, t.Commit("others", "orders", ((1, 0, ""),)))
    world.create("elsewhere", 1)
    world.call(world.ann, t.Commit("strangers", "elsewhere", ((0, 0, ""),)))
    world.call(world.ann, t.AlterTopic("orders", {"partitions": 6}))
    if dies:
        world = restarted(world)
    committed = {
        group: [row[:2] for row in opened(world.call(world.ann, t.Offsets(group, "orders")))]
        for group in ("readers", "others", "strangers")
    }
    assert committed == {
        "readers": [[0, 0], [4, 0], [5, 0]],
        "others": [[1, 0], [4, 0], [5, 0]],
        "strangers": [],
    }


def test_only_who_has_a_partition_commits_for_it() -> None:
    world = World()
    world.produce(0, 5)
    first = world.join(world.ann, ANN)
    generation = first["generation"]
    assert world.commit(world.ann, 0, 1, ANN, generation) == s.Done()
    assert isinstance(world.commit(world.bob, 0, 2), Stale)
    assert isinstance(world.commit(world.bob, 0, 2, BOB, generation), Stale)
    assert isinstance(world.commit(world.ann, 0, 6, ANN, generation), OffsetOutOfRange)
    assert isinstance(world.commit(world.ann, 9, 0, ANN, generation), Invalid)
    world.join(world.bob, BOB, "orders")
    news = world.told(world.ann, world.wait(world.ann, ANN, generation))
    lost = ({0, 1, 2, 3} - set(news["partitions"]["orders"])).pop()
    assert world.commit(world.ann, lost, 0, ANN, generation) == s.Done()  # it is hers until she says so
    world.wait(world.ann, ANN, news["generation"])
    assert isinstance(world.commit(world.ann, lost, 0, ANN, news["generation"]), Stale)


def test_member_of_an_earlier_life_of_the_broker_is_stale_and_keeps_what_it_names() -> None:
    world = World()
    old = world.join(world.ann, ANN)["generation"]
    world = restarted(world)
    assert isinstance(world.told(world.ann, world.wait(world.ann, ANN, old)), Stale)
    assert isinstance(world.commit(world.ann, 0, 0, ANN, old), Stale)
    mine = world.join(world.ann, ANN, claims={"orders": [1]})
    assert mine["partitions"] == {"orders": [1]}
    assert mine["generation"] > old
    assert isinstance(world.commit(world.ann, 1, 0, ANN, old), Stale)
    yours = world.join(world.bob, BOB, claims={"orders": [0, 1, 3]})
    assert yours["partitions"] == {"orders": [0, 3]}
    waiting = world.wait(world.ann, ANN, mine["generation"])
    world.clock.advance(2_900)
    assert world.told(world.ann, waiting) is None
    waiting = world.wait(world.ann, ANN, mine["generation"])
    world.clock.advance(100)
    assert world.told(world.ann, waiting)["partitions"] == {"orders": [1, 2]}


def test_who_comes_first_after_a_restart_does_not_get_what_others_have_still() -> None:
    world = World()
    world.join(world.ann, ANN)
    world = restarted(world)
    standby = world.join(world.bob, BOB)
    assert standby["partitions"] == {}
    world.clock.advance(1_000)
    assert world.join(world.ann, ANN, claims={"orders": [0, 1]})["partitions"] == {"orders": [0, 1]}
    waiting = world.wait(world.bob, BOB, standby["generation"])
    world.clock.advance(2_000)
    assert world.told(world.bob, waiting)["partitions"] == {"orders": [2, 3]}


def test_who_comes_first_long_after_a_restart_gets_everything_at_once() -> None:
    world = restarted(World())
    world.clock.advance(world.core.settings.group_session_ms)
    assert world.join(world.ann, ANN)["partitions"] == {"orders": [0, 1, 2, 3]}


def test_many_that_come_and_go_in_one_turn_are_thought_over_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    calls: list[Any] = []
    monkeypatch.setitem(ASSIGNORS, "sticky", lambda *args: calls.append(args) or sticky(*args))
    members = [bytes([number] * 16) for number in range(20)]
    for member in members:
        world.ask(world.ann, g.Join("readers", member, ("orders",), "sticky", None, memoryview(b"")))
    world.settle()
    assert len(calls) == 1
    assert sum(len(row["partitions"]) for row in world.describe()["members"]) == 4
    world.ask(world.ann, s.Goodbye())
    world.join(world.bob, BOB)
    assert len(calls) == 2


def test_group_says_who_is_in_it_and_how_far_it_is() -> None:
    world = World()
    world.produce(1, 10)
    first = world.join(world.ann, ANN, instance="front-1")
    world.commit(world.ann, 1, 4, ANN, first["generation"])
    told = world.describe()
    assert (told["state"], told["assignor"], told["generation"]) == ("stable", "sticky", first["generation"])
    (member,) = told["members"]
    assert (member["member"], member["state"], len(member["partitions"])) == ("front-1", "steady", 4)
    (row,) = told["partitions"]
    assert (row["current"], row["end"], row["lag"], row["member"]) == (4, 10, 6, "front-1")
    world.join(world.bob, BOB)
    assert world.describe()["state"] == "balancing"


def test_rates_say_whether_a_group_catches_up() -> None:
    world = World()
    world.produce(0, 1)
    for second in range(1, 31):
        world.produce(0, 10)
        world.commit(world.ann, 0, second * 5)
        world.clock.advance(1_000)
    (row,) = world.describe()["partitions"]
    assert row["rate_in"] == pytest.approx(10, rel=0.3)
    assert row["rate_out"] == pytest.approx(5, rel=0.3)
    assert row["catch_up_seconds"] is None
    for _ in range(30):
        world.commit(world.ann, 0, row["current"] + 4)
        (row,) = world.describe()["partitions"]
        world.clock.advance(1_000)
    assert row["lag"] > 0
    world.clock.advance(10_000)
    world.commit(world.ann, 0, row["end"] - 10)
    (row,) = world.describe()["partitions"]
    assert row["rate_out"] > row["rate_in"]
    assert row["catch_up_seconds"] == pytest.approx(10 / (row["rate_out"] - row["rate_in"]))


def test_group_is_deleted_unless_it_has_members() -> None:
    world = World()
    assert isinstance(world.call(world.ann, g.DeleteGroup("readers")), NotFound)
    world.commit(world.ann, 0, 0)
    world.join(world.ann, ANN)
    assert isinstance(world.call(world.ann, g.DeleteGroup("readers")), Conflict)
    world.call(world.ann, g.Leave("readers", ANN))
    assert world.call(world.ann, g.DeleteGroup("readers")) == s.Done()
    assert "readers" not in restarted(world).core.registry.groups


@pytest.mark.parametrize("dies", [False, True])
def test_offsets_of_an_empty_group_are_kept_for_30_days_from_when_it_emptied(dies: bool) -> None:
    world = World()
    first = world.join(world.ann, ANN)
    world.commit(world.ann, 0, 0, ANN, first["generation"])
    for _ in range(40):
        alive_for(world, DAY_MS)
    assert "readers" in world.core.registry.groups
    world.call(world.ann, g.Leave("readers", ANN))
    for _ in range(29):
        alive_for(world, DAY_MS)
    if dies:
        world = restarted(world)
    alive_for(world, DAY_MS // 2)
    assert "readers" in world.core.registry.groups
    alive_for(world, DAY_MS)
    assert "readers" not in world.core.registry.groups


def alive_for(world: World, ms: int) -> None:
    """Time passes; a member, if there is one, is heard of as it should be."""
    world.clock.advance(ms - 120_000)
    group = world.core.membership.get("readers")
    for member in group.members.values() if group is not None else ():
        member.deadline = world.clock.now().mono + 200_000
    for _ in range(2):
        world.clock.advance(60_000)
        world.settle()


def test_members_of_a_group_that_just_came_back_are_waited_for_before_anything_is_forgotten() -> None:
    world = World()
    world.commit(world.ann, 0, 0)
    world.clock.advance(31 * DAY_MS)
    slow = replace(SETTINGS, group_session_ms=100_000)
    world = World(world.files.crash(Random(1)), world.clock, slow)
    world.clock.advance(70_000)
    world.settle()
    assert "readers" in world.core.registry.groups
    world.clock.advance(60_000)
    world.settle()
    assert "readers" not in world.core.registry.groups


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        pytest.param({"topics": ("nowhere",)}, NotFound, id="a topic that is not there"),
        pytest.param({"topics": ()}, Invalid, id="no topic"),
        pytest.param({"topics": ("a*",)}, Invalid, id="a wildcard inside a word"),
        pytest.param({"topics": (".".join("a" * 17) + ".*",)}, Invalid, id="a pattern too long"),
        pytest.param({"assignor": "mine"}, Invalid, id="an assignor that is none"),
        pytest.param({"member": b"short"}, Invalid, id="a member id too short"),
        pytest.param({"instance": "x" * 256}, Invalid, id="an instance too long"),
        pytest.param({"group": ""}, Invalid, id="no name"),
        pytest.param({"payload": memoryview(pack_document([1]))}, Invalid, id="claims that are no map"),
        pytest.param(
            {"payload": memoryview(pack_document({"orders": [-1]}))}, Invalid, id="a claim below zero"
        ),
        pytest.param({"payload": memoryview(b"\xc1")}, Invalid, id="claims that are no msgpack"),
    ],
)
def test_join_is_refused(asked: dict[str, Any], refusal: type[Error]) -> None:
    world = World()
    join = g.Join("readers", ANN, ("orders",), "sticky", None, memoryview(b""))._replace(**asked)
    assert type(world.call(world.ann, join)) is refusal
    assert world.core.membership.get("readers") is None


def test_group_takes_no_more_members_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock_broker.groups.coordinator.GROUP_MEMBERS_MAX", 2)
    world = World()
    world.join(world.ann, ANN)
    world.join(world.bob, BOB)
    assert isinstance(world.join(world.bob, b"cid-------------"), Conflict)
    assert len(world.describe()["members"]) == 2


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("*", ["a"], ["a.b", "a.b.c"]),
        ("#", ["a", "a.b", "a.b.c"], []),
        ("a.*", ["a.b"], ["a", "a.b.c", "b.a"]),
        ("a.#", ["a", "a.b", "a.b.c"], ["b", "aa"]),
        ("#.z", ["z", "a.z", "a.b.z"], ["a", "z.a"]),
        ("a.#.z", ["a.z", "a.b.z", "a.b.c.z"], ["a", "z", "a.z.b"]),
        ("*.#.*", ["a.b", "a.b.c"], ["a"]),
    ],
)
def test_pattern_selects_names(pattern: str, names: list[str], others: list[str]) -> None:
    world = World()
    for name in [*names, *others]:
        world.create(name, 1)
    assert sorted(world.join(world.ann, ANN, pattern, "orders")["partitions"].keys() - {"orders"}) == sorted(
        set(names) - {"orders"}
    )


def test_who_had_a_seat_learns_at_once_that_another_process_took_it() -> None:
    world = World()
    first = world.join(world.ann, ANN, instance="one")
    waiting = world.wait(world.ann, ANN, first["generation"])
    assert world.join(world.bob, BOB, instance="one")["partitions"] == first["partitions"]
    fenced = world.told(world.ann, waiting)
    assert isinstance(fenced, Stale)
    assert fenced.detail == {"fenced": True}
