"""Connections to libvirt by use: opened when they are needed, each for one call at a time, given back when idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import libvirt

from controller.runtime.errors import Transient

KEEPALIVE_S, KEEPALIVE_COUNT = 5, 3
"""A hung libvirtd is given up after about 19 s (measured); without keepalive never."""


OPEN_WITHIN_S = 10.0
"""libvirtd opens a connection within milliseconds. One that serves as many clients as it may lets the next one wait."""


FREE_WITHIN_S = 2.0
"""How long a call waits for a connection: to open one takes a millisecond (measured), most calls no longer."""


GROW_AGAIN_S = 30.0
"""The pause after libvirtd has not given another connection."""


class Opener:
    """Opens connections to one libvirt, one at a time. Any thread may use it.

    `libvirt.open` has no deadline and nothing can end it, so it runs on a thread of its own.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._under_way = threading.Lock()
        """Held by the one open() that has not returned: a second one would only wait behind it."""

    def open(self, timeout_s: float) -> libvirt.virConnect:
        """A new connection. Raises libvirtError, and TimeoutError if none came in time; a later one is closed."""
        until_s = time.monotonic() + timeout_s
        if not self._under_way.acquire(timeout=timeout_s):
            raise TimeoutError
        wanted: Future[libvirt.virConnect] = Future()
        try:
            threading.Thread(target=self._open, args=(wanted,), name="libvirt-opener", daemon=True).start()
        except RuntimeError:
            self._under_way.release()
            raise
        try:
            return wanted.result(max(0.0, until_s - time.monotonic()))
        except TimeoutError:
            if wanted.cancel():
                raise
            return wanted.result()  # it came at this very moment

    def _open(self, wanted: Future[libvirt.virConnect]) -> None:
        try:
            connection = libvirt.open(self._uri)
            with suppress(libvirt.libvirtError):  # a driver within this process has no wire to keep alive
                connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
        except libvirt.libvirtError as error:
            if wanted.set_running_or_notify_cancel():
                wanted.set_exception(error)
        else:
            if wanted.set_running_or_notify_cancel():
                wanted.set_result(connection)
            else:
                close(connection)
        finally:
            self._under_way.release()


class ConnectionPool:
    """Connections for one use, each for one call at a time. Any thread may use it.

    Threads that meet on a connection are a danger: before 10.4 libvirt then writes to the stack of one that has gone on
    (CVE-2024-4418; with eight threads and a libvirtd that hung, the process died every time).
    """

    def __init__(self, at_most: int, grow: Callable[[ConnectionPool], None] = lambda _lanes: None) -> None:
        """`grow` must return at once, and answer later by `add` or by `refuse`."""
        self._at_most, self._grow = at_most, grow
        self._changed = threading.Condition()
        self._free: list[tuple[libvirt.virConnect, float]] = []
        """With the monotonic seconds since when each is free; the one that was used last is the last."""
        self._count = 0
        self._growing, self._grow_from_s = False, 0.0
        self._closed = False

    @property
    def count(self) -> int:
        """How many connections there are, free or in use."""
        return self._count

    def add(self, connection: libvirt.virConnect) -> None:
        """One more."""
        with self._changed:
            self._growing = False
            if not self._closed:
                self._count += 1
                self._free.append((connection, time.monotonic()))
                self._changed.notify()
                return
        close(connection)

    def refuse(self) -> None:
        """No other connection is to be had for now: calls wait for those that there are."""
        with self._changed:
            self._growing, self._grow_from_s = False, time.monotonic() + GROW_AGAIN_S

    @contextmanager
    def take(self) -> Iterator[libvirt.virConnect]:
        """A connection for one call. Raises Transient if none is free in time, at once where there may be no more."""
        connection = self._taken()
        try:
            yield connection
        finally:
            self._give_back(connection)

    def _taken(self) -> libvirt.virConnect:
        with self._changed:
            until_s = time.monotonic() + FREE_WITHIN_S
            while not self._free:
                now_s = time.monotonic()
                if self._closed or self._count >= self._at_most or now_s >= until_s:
                    raise Transient("libvirt has not answered what was asked before")
                if not self._growing and now_s >= self._grow_from_s:
                    self._growing = True
                    self._grow(self)
                self._changed.wait(until_s - now_s)
            return self._free.pop()[0]

    def _give_back(self, connection: libvirt.virConnect) -> None:
        with self._changed:
            if not self._closed:
                self._free.append((connection, time.monotonic()))
                self._changed.notify()
                return
        close(connection)

    def tidy(self, idle_s: float) -> None:
        """Close those but one that nobody has used for so long: libvirtd serves only so many clients."""
        with self._changed:
            before_s = time.monotonic() - idle_s
            idle = sum(since_s <= before_s for _, since_s in self._free)
            surplus = max(0, min(idle, self._count - 1))
            gone, self._free = self._free[:surplus], self._free[surplus:]
            self._count -= surplus
        for connection, _ in gone:
            close(connection)

    def close(self) -> None:
        """Close those that are free now, and each of the others when its call has returned."""
        with self._changed:
            self._closed = True
            free, self._free = self._free, []
            self._changed.notify_all()
        for connection, _ in free:
            close(connection)


def close(connection: libvirt.virConnect) -> None:
    """Give a connection back, whatever state it is in."""
    with suppress(libvirt.libvirtError):
        connection.unregisterCloseCallback()
    with suppress(libvirt.libvirtError):
        connection.close()


@dataclass(eq=False)
class ConnectionSet:
    """One generation of connections, by use: a call that hangs must not hold up others."""

    generation: int
    events: libvirt.virConnect
    bulk: ConnectionPool
    queries: ConnectionPool
    actions: ConnectionPool
    callback_ids: list[int] = field(default_factory=list)

    @property
    def lanes(self) -> tuple[ConnectionPool, ...]:
        """All but that of the events."""
        return self.bulk, self.queries, self.actions

    @property
    def count(self) -> int:
        """How many connections it has."""
        return 1 + sum(lanes.count for lanes in self.lanes)

    def tidy(self, idle_s: float) -> None:
        """Close what was opened on demand and has not been used for so long."""
        for lanes in self.lanes:
            lanes.tidy(idle_s)

    def close(self) -> None:
        """Give everything back in the order that leaves nothing behind: callbacks, then connections."""
        for callback_id in self.callback_ids:
            with suppress(libvirt.libvirtError):  # after a kill there is nobody to deregister from
                self.events.domainEventDeregisterAny(callback_id)
        close(self.events)
        for lanes in self.lanes:
            lanes.close()
