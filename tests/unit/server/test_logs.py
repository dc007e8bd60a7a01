"""The log: one line per event, nothing of a peer's bytes unescaped, no peer that fills it."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from tests.fakes.clock import ManualClock

from penstock_broker.server import logs
from penstock_broker.server.logs import LINES_MAX, WINDOW_MS, PeerLog


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    handlers, level = logging.root.handlers[:], logging.root.level
    logging.root.handlers.clear()  # those of pytest would be closed by force=True
    yield io.StringIO()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


def lines_of(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_is_one_json_object_when_not_on_a_terminal(stream: io.StringIO) -> None:
    logs.configure(stream, "auto", "info")
    structlog.get_logger().info("ready", tcp="127.0.0.1:7420")
    (line,) = lines_of(stream)
    assert (line["event"], line["level"], line["tcp"]) == ("ready", "info", "127.0.0.1:7420")


def test_lines_below_the_level_are_left_out(stream: io.StringIO) -> None:
    logs.configure(stream, "json", "warning")
    structlog.get_logger().info("chatter")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("form", ["json", "console"])
def test_control_characters_are_visible_escapes(stream: io.StringIO, form: str) -> None:
    logs.configure(stream, form, "info")
    structlog.get_logger().info("peer", said="\x1b[2J\nforged=line\x00")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b[2J" not in stream.getvalue()
    assert "\\x1b[2J" in stream.getvalue()


def test_traceback_is_part_of_its_one_event(stream: io.StringIO) -> None:
    logs.configure(stream, "json", "info")
    try:
        raise AssertionError("credit is negative")
    except AssertionError as error:
        structlog.get_logger().critical("assert_failed", exc_info=error)
    (line,) = lines_of(stream)
    assert "Traceback" in str(line["exception"])
    assert "credit is negative" in str(line["exception"])


def test_lines_of_libraries_come_out_the_same_way(stream: io.StringIO) -> None:
    logs.configure(stream, "json", "info")
    logging.getLogger("aiohttp.server").error("Error handling %s", "request")
    (line,) = lines_of(stream)
    assert (line["event"], line["logger"], line["message"]) == (
        "library",
        "aiohttp.server",
        "Error handling request",
    )


def test_peer_says_the_same_thing_once_per_window_and_the_rest_is_counted() -> None:
    clock = ManualClock()
    log = PeerLog(clock)
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            log.warning("connection_dropped", "192.0.2.1", reason="bad_frame")
        log.warning("connection_dropped", "192.0.2.2", reason="bad_frame")
        clock.advance(WINDOW_MS)
        log.warning("connection_dropped", "192.0.2.1", reason="bad_frame")
    assert [(line["event"], line.get("host"), line.get("lines")) for line in lines] == [
        ("connection_dropped", "192.0.2.1", None),
        ("connection_dropped", "192.0.2.2", None),
        ("peer_lines_left_out", None, 4),
        ("connection_dropped", "192.0.2.1", None),
    ]


def test_many_addresses_together_do_not_fill_the_log() -> None:
    log = PeerLog(ManualClock())
    with structlog.testing.capture_logs() as lines:
        for number in range(10_000):
            log.warning("connection_dropped", f"2001:db8::{number:x}")
    assert len(lines) == LINES_MAX
