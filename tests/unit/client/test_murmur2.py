"""The hash agrees with Kafka's own test vectors."""

import pytest

from penstock.murmur2 import murmur2, partition_of

KAFKA = [  # org.apache.kafka.common.utils.UtilsTest.testMurmur2, signed as Java prints them
    (b"21", -973932308),
    (b"foobar", -790332482),
    (b"a-little-bit-long-string", -985981536),
    (b"a-little-bit-longer-string", -1486304829),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    (b"abc", 479470107),
]


@pytest.mark.parametrize(("key", "signed"), KAFKA, ids=[key.decode() for key, _ in KAFKA])
def test_hash_is_the_one_kafka_computes(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed & 0xFFFFFFFF


@pytest.mark.parametrize(("key", "signed"), KAFKA, ids=[key.decode() for key, _ in KAFKA])
def test_partition_drops_the_sign_bit_before_the_remainder(key: bytes, signed: int) -> None:
    assert partition_of(key, 12) == (signed & 0x7FFFFFFF) % 12


def test_every_length_of_tail_counts() -> None:
    assert len({murmur2(b"abcdefgh"[:size]) for size in range(9)}) == 9
