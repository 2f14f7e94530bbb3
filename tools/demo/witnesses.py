"""The witnesses: libvirt's events and the API server's watch, independent of the agent."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import libvirt

from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.trace import LIFECYCLE

# libvirt's event for each lasting power state; a start also sends RESUMED, before STARTED. ShuttingDown is not timed:
# while libvirt ends a QEMU, for up to 200 ms, it does not answer queries about the domain.
BROUGHT_ABOUT_BY = {
    "Running": "RESUMED",
    "Paused": "SUSPENDED",
    "Stopped": "STOPPED",
    "Crashed": "STOPPED",
}


@dataclass(frozen=True, slots=True)
class HostEvent:
    """An event of libvirt about a domain, and its time."""

    vm: str
    name: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """An object version of a VM from the watch, and its time."""

    vm: str
    status: dict[str, Any]
    at_s: float

    @property
    def power(self) -> str:
        """`status.powerState`."""
        return str(self.status["powerState"])

    @property
    def reason(self) -> str:
        """The reason of the condition Ready."""
        return str(self._ready["reason"])

    @property
    def message(self) -> str:
        """The message of the condition Ready."""
        return str(self._ready["message"])

    @property
    def cause(self) -> str:
        """Why the VM went off, while it is off."""
        off = self.power in {"Stopped", "Crashed"}
        return str(self.status["lastStop"]["cause"]) if off and "lastStop" in self.status else ""

    @property
    def words(self) -> tuple[str, str, str, str]:
        """Everything that the demo prints about it."""
        return self.power, self.cause, self.reason, self.message

    @property
    def _ready(self) -> dict[str, Any]:
        return next(one for one in self.status["conditions"] if one["type"] == "Ready")


class Witnesses:
    """Records libvirt's events and the API server's watch, with their times.

    Use it as a context manager while `event_loop` runs.
    """

    def __init__(self, controlplane: ControlPlane, libvirtd: Libvirtd) -> None:
        self.events: list[HostEvent] = []
        self.reports: list[Report] = []
        self._news = threading.Condition()
        self._host = libvirt.open(libvirtd.uri)
        self._callback = self._host.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_event, None
        )
        self._api = http.client.HTTPSConnection(
            controlplane.url.removeprefix("https://"), context=ssl.create_default_context(cafile=controlplane.ca)
        )
        self._api.request(
            "GET",
            "/apis/virtsync.dev/v1alpha1/namespaces/default/virtualmachines?watch=true",
            headers={"Authorization": f"Bearer {controlplane.token}"},
        )
        # The API server answers a watch with its first line, so do not wait for the answer here.
        self._watching = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._watching.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # The end of the connection ends the thread that reads from it, and the API server can stop immediately.
        self._api.sock.shutdown(socket.SHUT_RDWR)
        self._watching.join()
        self._host.domainEventDeregisterAny(self._callback)
        self._host.close()

    def wait_for_news(self, known: int, timeout_s: float) -> None:
        """Return when there are more reports than this number, or after a timeout."""
        with self._news:
            self._news.wait_for(lambda: len(self.reports) > known, timeout_s)

    def delay_ms(self, report: Report) -> float | None:
        """How long after libvirt's event a new power state was reported; None if no event caused it."""
        name = BROUGHT_ABOUT_BY.get(report.power)
        times = [e.at_s for e in self.events if (e.vm, e.name) == (report.vm, name) and e.at_s < report.at_s]
        return (report.at_s - times[-1]) * 1000 if times else None

    def _on_event(self, _connection: Any, domain: Any, event: int, _detail: int, _opaque: Any) -> None:
        self.events.append(HostEvent(domain.name(), LIFECYCLE[event], time.monotonic()))

    def _watch(self) -> None:
        # If the watch ends too early, the step that waits for it reports that.
        with suppress(OSError, http.client.HTTPException):
            for line in self._api.getresponse():
                at_s = time.monotonic()
                changed = json.loads(line)["object"]
                with self._news:
                    self.reports.append(Report(changed["metadata"]["name"], changed["status"], at_s))
                    self._news.notify_all()
