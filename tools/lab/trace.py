"""The events that libvirt reports about a domain, recorded by a real event loop."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import libvirt

from lab import LabError
from lab.guest import Guest

HANG_LIMIT_S = 60
LIFECYCLE = ("DEFINED", "UNDEFINED", "STARTED", "SUSPENDED", "RESUMED", "STOPPED", "SHUTDOWN", "PMSUSPENDED", "CRASHED")
STATES = ("NOSTATE", "RUNNING", "BLOCKED", "PAUSED", "SHUTDOWN", "SHUTOFF", "CRASHED", "PMSUSPENDED")


class Trace:
    """The events of one domain from now on, in order, with libvirt's names; needs a running `event_loop`."""

    def __init__(self, connection: Any, guest: Guest) -> None:
        self._events: queue.Queue[str] = queue.Queue()
        self._domain = connection.lookupByUUID(guest.uuid.bytes)
        callbacks = {
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE: self._lifecycle,
            libvirt.VIR_DOMAIN_EVENT_ID_REBOOT: self._reboot,
        }
        self._connection = connection
        self._ids = [connection.domainEventRegisterAny(self._domain, *one, None) for one in callbacks.items()]

    def stop(self) -> None:
        """Stop recording."""
        for callback in self._ids:
            self._connection.domainEventDeregisterAny(callback)

    def until(self, last: str) -> list[str]:
        """Wait for an event; returns it, and the events before it that were not returned yet."""
        seen: list[str] = []
        while last not in seen:
            try:
                seen.append(self._events.get(timeout=HANG_LIMIT_S))
            except queue.Empty:
                raise LabError(f"{last} did not come after {seen}.") from None
        return seen

    @property
    def state(self) -> str:
        """The state of the domain now, with its reason."""
        state, reason = self._domain.state()
        return f"{STATES[state]}/{word(f'VIR_DOMAIN_{STATES[state]}_', reason)}"

    def _lifecycle(self, _connection: Any, _domain: Any, event: int, detail: int, _opaque: Any) -> None:
        self._events.put(f"{LIFECYCLE[event]}/{word(f'VIR_DOMAIN_EVENT_{LIFECYCLE[event]}_', detail)}")

    def _reboot(self, _connection: Any, _domain: Any, _opaque: Any) -> None:
        self._events.put("REBOOT")


def word(prefix: str, number: int) -> str:
    """libvirt's name for a number of one of its enums."""
    words = (name for name in dir(libvirt) if name.startswith(prefix) and getattr(libvirt, name) == number)
    # The shortest name, because the prefix of PMSUSPENDED_UNKNOWN also fits PMSUSPENDED_DISK_UNKNOWN.
    return min(words, key=len).removeprefix(prefix)


@contextmanager
def event_loop() -> Iterator[None]:
    """Run libvirt's event loop in a thread."""
    libvirt.virEventRegisterDefaultImpl()
    stopping = threading.Event()

    def run() -> None:
        while not stopping.is_set():
            libvirt.virEventRunDefaultImpl()

    thread = threading.Thread(target=run, name="libvirt-events")
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        # The loop wakes only for an event, so a timer that is due wakes it.
        libvirt.virEventAddTimeout(0, lambda timer, _: libvirt.virEventRemoveTimeout(timer), None)
        thread.join()
