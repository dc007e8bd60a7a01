"""Standard input as messages: one for each line, in bursts that are published together.

A burst is what came without a pause, so that `tail -f log | penstock enqueue logs` sends each line as it is
written, and a file goes as few large batches. Memory: one burst, one line.
"""

from collections.abc import AsyncGenerator

from penstock.cli import pipes
from penstock.cli.command import Failure
from penstock.cli.pipes import STDIN
from penstock_protocol.limits import MESSAGE_BYTES_MAX, MIB

BURST_BYTES_MAX = 4 * MIB
PAUSE_SECONDS = 0.01


async def bursts(delimiter: bytes, fd: int = STDIN) -> AsyncGenerator[list[bytes], None]:
    """Lists of lines without their delimiters. Bytes behind the last delimiter are a line, if there are any.

    Raises `Failure` for a line that no broker can take.
    """
    rest, size = b"", 0
    lines: list[bytes] = []
    while True:
        if size >= BURST_BYTES_MAX or (lines and not await pipes.readable_within(fd, PAUSE_SECONDS)):
            yield lines
            lines, size = [], 0
        data = await pipes.read(fd)
        if not data:
            break
        *whole, rest = (rest + data).split(delimiter)
        if len(rest) > MESSAGE_BYTES_MAX:
            raise Failure(f"a line is longer than {MESSAGE_BYTES_MAX // MIB} MiB; is --delimiter right?")
        lines += whole
        size += len(data)
    if rest:
        lines.append(rest)
    if lines:
        yield lines
