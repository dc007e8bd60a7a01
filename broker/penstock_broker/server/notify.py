"""Tells the service manager how the node is (systemd's sd_notify: datagrams to NOTIFY_SOCKET)."""

import socket

import structlog

log = structlog.get_logger()


class Notifier:
    """`address`: path of the manager's socket, `@` first for an abstract one; None: nobody listens."""

    def __init__(self, address: str | None) -> None:
        self._address = "\0" + address[1:] if address and address[0] == "@" else address

    def send(self, state: str) -> None:
        """Say `state` (`READY=1`, …). A manager that cannot be told is logged, never waited for."""
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(state.encode(), socket.MSG_DONTWAIT, self._address)
        except OSError as error:
            log.warning("notify_failed", state=state, error=str(error))
