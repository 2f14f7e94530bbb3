"""Tells systemd that the process works, so that systemd restarts it if it does not: what /livez is for the kubelet.

With `WatchdogSec=` in its unit, systemd kills a service that has not sent WATCHDOG=1 for this time. Elsewhere, as in a
Pod, systemd's variables are not set, and nothing is sent.

Source: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html and sd_watchdog_enabled.html
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

import structlog

from controller.runtime.periodic import PeriodicTask

ALIVE = b"WATCHDOG=1"
PER_PERIOD = 3
"""How often the process is heard in the time after which systemd kills it."""

log = structlog.get_logger()


class Watchdog:
    """Sends the datagrams on its own thread, as long as no part of the process is dead."""

    def __init__(self, dead: Callable[[], list[str]], environ: Mapping[str, str] = os.environ) -> None:
        """`dead` returns the names of the parts that have died. It must not block."""
        self._dead, self._socket = dead, environ.get("NOTIFY_SOCKET", "")
        self._named: list[str] = []
        period_s = _period_s(environ)
        self._task = PeriodicTask("watchdog", period_s / PER_PERIOD, self._send) if period_s and self._socket else None

    def start(self) -> None:
        """Start to send; the first datagram is sent at once. Call this when all parts have been started."""
        if self._task:
            self._task.start()

    def close(self) -> None:
        """Send no more."""
        if self._task:
            self._task.close()

    def _send(self) -> float | None:
        dead = self._dead()
        if dead and dead != self._named:
            log.error("essential parts no longer work: systemd will restart the service", parts=dead)
        self._named = dead
        if not dead:
            try:
                notify(self._socket, ALIVE)
            except OSError as error:
                log.warning("could not tell systemd that the service works", error=str(error))
        return None


def notify(address: str, message: bytes) -> None:
    """Send one datagram to this Unix socket; a name that begins with @ is an abstract one. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        sender.sendall(message)


def _period_s(environ: Mapping[str, str]) -> float:
    """Return the seconds after which systemd kills this process if it hears nothing; 0: systemd does not expect it."""
    period_us = environ.get("WATCHDOG_USEC", "")
    ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(period_us) / 1e6 if ours and period_us.isdecimal() else 0.0
