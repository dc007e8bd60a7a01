"""Consumer groups and replay on the command line, on the real broker."""

from tests.integration.command import Cli, ended, line


def produced(cli: Cli, *, partitions: int = 2) -> None:
    """A topic of two partitions, "0" to "4" in each."""
    cli("topic", "create", "t", "--partitions", str(partitions))
    for partition in range(partitions):
        cli("produce", "t", "--partition", str(partition), *[str(number) for number in range(5)])


def ran(cli: Cli, *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that says what it is going to do."""
    done = cli.run(*argv)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_group_fetches_as_members(cli: Cli) -> None:
    produced(cli)
    follower = cli.start("fetch", "t", "--follow", "--group", "g", "--format", r"%p %v\n")
    assert sorted(line(follower) for _ in range(10)) == [
        b"%d %d\n" % (p, n) for p in range(2) for n in range(5)
    ]
    [member] = cli.objects("group", "describe", "g", "--members")
    assert member["topics"] == ["t"]
    assert member["partitions"] == [["t", 0], ["t", 1]]
    assert {row["member"] for row in cli.objects("group", "describe", "g")} == {member["member"]}
    shown = cli("group", "describe", "g", "--members").decode().splitlines()
    assert shown[0].split() == ["MEMBER", "CLIENT", "STATE", "PARTITIONS", "TOPICS"]
    code, _, said = ran(cli, "group", "reset", "g", "t", "--to", "earliest", "--yes")
    assert (code, "has members" in said) == (1, True)
    code, _, said = ran(cli, "group", "delete", "g", "--yes")
    assert (code, "stop them first" in said) == (1, True)
    follower.terminate()
    ended(follower)


def test_group_is_reset_by_a_plan(cli: Cli) -> None:
    produced(cli)
    cli("fetch", "t", "--group", "g")
    assert cli("fetch", "t", "--group", "g") == b""
    reset = ("group", "reset", "g", "t", "--to")
    assert cli.objects(*reset, "-2", "--dry-run") == [
        {"group": "g", "topic": "t", "partition": 0, "current": 5, "to": 3},
        {"group": "g", "topic": "t", "partition": 1, "current": 5, "to": 3},
    ]
    code, plan, said = ran(cli, *reset, "-2")
    assert (code, said.splitlines()) == (
        2,
        ["move group g in 2 partitions of t", "penstock: nothing was changed; add --yes to do it"],
    )
    assert plan.split() == [
        "TOPIC",
        "PARTITION",
        "CURRENT",
        "TO",
        *("t", "0", "5", "3"),
        *("t", "1", "5", "3"),
    ]
    assert cli("fetch", "t", "--group", "g") == b""
    assert ran(cli, *reset, "-2", "--yes") == (0, plan, "move group g in 2 partitions of t\n")
    assert cli("fetch", "t", "--group", "g", "--format", "%v").count(b"34") == 2
    assert ran(cli, *reset, "earliest", "--partition", "1", "--yes")[0] == 0
    assert cli("fetch", "t", "--group", "g", "--format", "%p%v ") == b"10 11 12 13 14 "
    assert ran(cli, *reset, "-1h", "--partition", "0", "--yes")[1].split()[4:] == ["t", "0", "5", "0"]
    assert cli("group", "reset", "g", "t", "--to", "0", "--partition", "0", "--yes").split()[4:] == (
        [b"t", b"0", b"0", b"0"]
    )
    code, said = cli.fails("group", "reset", "g", "t", "--to", "middle", "--yes")
    assert (code, "or a shift like -100" in said) == (2, True)


def test_group_is_deleted_with_its_offsets(cli: Cli) -> None:
    produced(cli)
    cli("fetch", "t", "--group", "g", "-n", "1")
    code, _, said = ran(cli, "group", "delete", "g")
    assert (code, "add --yes" in said) == (2, True)
    assert ran(cli, "group", "delete", "g", "--yes") == (0, "", "delete group g with 2 offsets\n")
    assert cli.objects("group", "list") == []
    cli("fetch", "t", "--group", "g", "-n", "1")
    assert ran(cli, "group", "delete", "g", "--yes", "--json")[:2] == (0, '{"name": "g", "deleted": true}\n')


def test_fetch_ends_where_it_is_told(cli: Cli) -> None:
    produced(cli)
    assert cli("fetch", "t", "--partition", "0", "--from", "1", "--until", "3", "--format", "%v") == b"12"
    assert cli("fetch", "t", "--until", "-1h") == b""
    assert cli("fetch", "t", "--until", "2020-01-01T00:00Z", "--group", "g") == b""
    assert cli("fetch", "t", "--partition", "1", "--group", "g", "--until", "2", "--format", "%v") == b"01"
    for wrong in (
        ["--until", "3"],
        ["--until", "3", "--group", "g"],
        ["--from", "3", "--group", "g"],
        ["--until", "-1h", "--follow"],
        ["--until", "never"],
        ["--rate", "0"],
    ):
        code, _ = cli.fails("fetch", "t", *wrong)
        assert code == 2


def test_fetch_keeps_to_a_rate(cli: Cli) -> None:
    produced(cli)
    assert len(cli("fetch", "t", "--rate", "200").splitlines()) == 10
    assert len(cli("fetch", "t", "--rate", "recorded", "--where", "key=x*").splitlines()) == 0
    assert len(cli("fetch", "t", "--rate", "recorded").splitlines()) == 10
