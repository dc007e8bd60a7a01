"""The one checksum of wire and disk: CRC-32 (zlib's), taken over bytes or views without a copy.

CRC-32 finds every burst up to 32 bits. `zlib.crc32` is in every Python, takes memoryviews,
releases the GIL above 5 KiB and runs at memory speed; a benchmark may change the choice here only.
"""

from typing import TypeAlias
from zlib import crc32

__all__ = ["Buffer", "crc32"]

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes in any dress. A view is valid as long as its giver says."""
