"""What `penstock` can ask of topics beyond produce and fetch."""

from tests.integration.command import Cli, line


def test_expected_offset_is_for_what_was_typed_and_says_where_the_partition_ends(cli: Cli) -> None:
    cli("topic", "create", "orders")
    assert cli("produce", "orders", "a", "b", "--expected-offset", "0") == b""
    code, said = cli.fails("produce", "orders", "c", "--expected-offset", "1")
    assert code == 1
    assert "ends at 2, not at 1" in said
    assert "expect 2" in said
    receipts = cli.objects("produce", "orders", "c", "--file", __file__, "--expected-offset", "2")
    assert [receipt["offset"] for receipt in receipts] == [2, 3]
    code, said = cli.fails("produce", "orders", "--expected-offset", "4", stdin=b"x\n")
    assert (code, "takes a VALUE or --file" in said) == (2, True)
    assert cli("fetch", "orders", "--from", "2", "-n", "1", "--format", r"%v\n") == b"c\n"


def test_where_chooses_by_key_and_headers(cli: Cli) -> None:
    cli("topic", "create", "lines", "--partitions", "2")
    for key, kind in (("eu.1", "a"), ("us.1", "a"), ("eu.2", "b"), ("eu.3", "aa")):
        cli("produce", "lines", "--key", key, "-H", f"type={kind}", key)
    eu = cli("fetch", "lines", "--where", "key=eu.*", "--where", "header:type=a*", "--format", r"%v\n")
    assert sorted(eu.split()) == [b"eu.1", b"eu.3"]
    assert cli("fetch", "lines", "--where", "key=x=y") == b""
    for wrong, said in (
        (["--where", "color=red"], "no condition"),
        (["--where", "key"], "no condition"),
        (["--where", "key=a", "--where", "key=b"], "one condition on the key"),
    ):
        done = cli.run("fetch", "lines", *wrong)
        assert (done.returncode, done.stdout) == (2, b"")
        assert said in done.stderr.decode()
    code, said = cli.fails("fetch", "lines", "--where", "key=" + "*" * 17)
    assert (code, "17 stars" in said) == (1, True)


def test_following_with_a_filter_prints_what_fits_as_it_comes(cli: Cli) -> None:
    cli("topic", "create", "lines")
    following = cli.start("fetch", "lines", "--follow", "--where", "key=eu.*", "--format", r"%o %v\n")
    for key in ("us.1", "eu.1", "us.2", "eu.2"):
        cli("produce", "lines", "--key", key, key)
    assert [line(following) for _ in range(2)] == [b"1 eu.1\n", b"3 eu.2\n"]


def test_name_of_a_producer_is_taken_over_listed_and_deleted(cli: Cli) -> None:
    cli("topic", "create", "orders")
    for value in ("a", "b"):
        cli("produce", "orders", value, "--producer", "orders-writer")
    (listed,) = cli.objects("producer", "list")
    assert (listed["name"], listed["epoch"]) == ("orders-writer", 2)
    assert cli("producer", "list", "--prefix", "x").splitlines()[1:] == []
    assert cli.run("producer", "delete", "orders-writer").returncode == 2
    assert cli.run("producer", "delete", "orders-writer", "--yes").returncode == 0
    again = cli.run("producer", "delete", "orders-writer", "--yes")
    assert (again.returncode, b"penstock producer list" in again.stderr) == (1, True)
    assert cli.objects("producer", "list") == []
