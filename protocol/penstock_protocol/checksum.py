"""The one checksum of wire and disk: CRC-32 (zlib's), taken over bytes or views without a copy.

CRC-32 finds every burst up to 32 bits. `zlib.crc32` is in every Python; ISA-L's, which comes with the server,
gives the same numbers at some ten times the speed. Both take memoryviews and release the GIL for long ones.
"""

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from zlib import crc32
else:
    try:
        from isal.isal_zlib import crc32
    except ImportError:  # a client alone, or a machine there is no wheel for
        from zlib import crc32

__all__ = ["Buffer", "crc32"]

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes in any dress. A view is valid as long as its giver says."""
