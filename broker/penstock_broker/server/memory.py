"""How the C library's allocator treats this process.

glibc gives a block of 128 KiB or more back to the kernel when it is freed, and takes fresh pages for the next
one: 64 page faults for every block that is read from a segment, a sixth of the broker's work there. What
such blocks took is kept instead, up to a bound.
"""

import ctypes

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
MAPPED_BYTES_MIN = 32 << 20
"""A block of that size is a map of its own, given back when it is freed. glibc takes no more on 64 bits."""
KEPT_BYTES_MAX = 64 << 20
"""Beyond that much unused memory at the end of the heap it is given back."""


def keep_freed() -> None:
    """Do it, where the C library is glibc; others have no such setting, or need none."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES_MIN)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES_MAX)
