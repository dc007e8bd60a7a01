"""The language two Penstock peers speak: bytes to messages and back, without I/O.

Nothing here opens a socket, reads a clock or knows what a queue is; `README.md` beside this
file is the wire specification, and these modules are its one implementation for both roles.
"""

WIRE_VERSION = 1
"""The only wire version so far. HELLO carries a range, so that a later one can be negotiated."""
