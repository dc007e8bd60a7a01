"""The log on stderr: one line per event, as JSON, or coloured for a person at a terminal.

What a peer sent can stand in a line only escaped, and a peer cannot fill the log: `PeerLog` is limited.
Message bodies, tokens and URLs are never logged.
"""

import asyncio
import logging
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from penstock_broker.clock import Clock

WINDOW_MS = 10_000
LINES_MAX = 50
"""Lines about peers in one window."""

log = structlog.get_logger()


def is_console(stream: TextIO, form: str) -> bool:
    """Whether `form` (auto, json, console) means lines for a person."""
    return form == "console" or (form == "auto" and stream.isatty())


def configure(stream: TextIO, form: str, level: str) -> None:
    """Send every line of the process, those of libraries included, to `stream`."""
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _escaped,
    ]
    if is_console(stream, form):
        processors.append(
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        )
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
    )
    logging.basicConfig(handlers=[_Library()], level=logging.WARNING, force=True)


def _escaped(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Control characters in any value become visible escapes."""
    return {
        key: value.encode("unicode_escape").decode("ascii")
        if isinstance(value, str) and not value.isprintable()
        else value
        for key, value in event.items()
    }


class _Library(logging.Handler):
    """Lines of libraries that use the standard `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        log.log(
            record.levelno,
            "library",
            logger=record.name,
            message=record.getMessage(),
            exc_info=record.exc_info,
        )


def unexpected(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exception handler of the event loop: what no callback dealt with."""
    log.error("unexpected", message=context.get("message"), exc_info=context.get("exception"))


class PeerLog:
    """Lines about peers: one per event and host in 10 s, and not more than 50; the rest is counted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock.now().mono
        self._said: set[tuple[str, str]] = set()
        self._left_out = 0

    def warning(self, event: str, host: str, **facts: object) -> None:
        """Say that `event` happened with a peer at `host`."""
        now = self._clock.now().mono
        if now - self._since >= WINDOW_MS:
            if self._left_out:
                log.warning("peer_lines_left_out", lines=self._left_out)
            self._since, self._left_out = now, 0
            self._said.clear()
        if (event, host) in self._said or len(self._said) >= LINES_MAX:
            self._left_out += 1
            return
        self._said.add((event, host))
        log.warning(event, host=host, **facts)
