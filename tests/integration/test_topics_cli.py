"""What `penstock` can ask of topics beyond produce and fetch."""

from tests.integration.command import Cli


def test_expected_offset_is_for_what_was_typed_and_says_where_the_partition_ends(cli: Cli) -> None:
    cli("topic", "create", "orders")
    assert cli("produce", "orders", "a", "b", "--expected-offset", "0") == b""
    code, line = cli.fails("produce", "orders", "c", "--expected-offset", "1")
    assert code == 1
    assert "ends at 2, not at 1" in line
    assert "expect 2" in line
    receipts = cli.objects("produce", "orders", "c", "--file", __file__, "--expected-offset", "2")
    assert [receipt["offset"] for receipt in receipts] == [2, 3]
    code, line = cli.fails("produce", "orders", "--expected-offset", "4", stdin=b"x\n")
    assert (code, "takes a VALUE or --file" in line) == (2, True)
    assert cli("fetch", "orders", "--from", "2", "-n", "1", "--format", r"%v\n") == b"c\n"
