"""The hash of Kafka's default partitioner, so that keys land where a Kafka producer puts them."""

from struct import Struct

SEED = 0x9747B28C
M = 0x5BD1E995
R = 24
U32 = 0xFFFFFFFF
POSITIVE = 0x7FFFFFFF
WORD = Struct("<I")


def murmur2(data: bytes) -> int:
    """MurmurHash 2 of `data` as an unsigned 32-bit number (Kafka shows the same bits with a sign)."""
    whole = len(data) & ~3
    h = SEED ^ len(data)
    for (k,) in WORD.iter_unpack(memoryview(data)[:whole]):
        k = k * M & U32
        k = (k ^ k >> R) * M & U32
        h = h * M & U32 ^ k
    if whole < len(data):
        h = (h ^ int.from_bytes(data[whole:], "little")) * M & U32
    h = (h ^ h >> 13) * M & U32
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key among `partitions`."""
    return (murmur2(key) & POSITIVE) % partitions
