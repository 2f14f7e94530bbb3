"""Connection pools for libvirt, one for each kind of call. Connections are opened on demand and closed when idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import libvirt

from controller.hypervisor import handles
from controller.runtime.errors import Transient

KEEPALIVE_S, KEEPALIVE_COUNT = 5, 3
"""If libvirtd hangs, its connections are closed after about 19 s (measured). Without keepalive, they stay open."""
OPEN_WITHIN_S = 10.0
"""The timeout for opening a connection. libvirtd accepts a connection within milliseconds, unless it already has
`max_clients` clients: then the next client waits."""
FREE_WITHIN_S = 2.0
"""How long a call waits for a free connection. Most calls take a millisecond. Opening a connection takes a
millisecond too (measured)."""
GROW_AGAIN_S = 30.0
"""How long a pool does not grow after another connection could not be opened."""


class Opener:
    """Opens connections to one libvirt, one at a time. Thread-safe.

    `libvirt.open` has no timeout and cannot be interrupted, so it runs on its own thread.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._opening = threading.Lock()
        """Locked until `libvirt.open` returns. A second call would only wait for the first."""

    def open(self, timeout_s: float) -> libvirt.virConnect:
        """Open a connection within `timeout_s` seconds. A connection that opens later is closed.

        Raises libvirtError, TimeoutError, and RuntimeError (no thread could be started).
        """
        until_s = time.monotonic() + timeout_s
        if not self._opening.acquire(timeout=timeout_s):
            raise TimeoutError
        opened: Future[libvirt.virConnect] = Future()
        try:
            threading.Thread(target=self._open, args=(opened,), name="libvirt-opener", daemon=True).start()
        except RuntimeError:
            self._opening.release()
            raise
        try:
            return opened.result(max(0.0, until_s - time.monotonic()))
        except TimeoutError:
            if opened.cancel():
                raise
            return opened.result()  # libvirt.open has returned just after the timeout

    def _open(self, opened: Future[libvirt.virConnect]) -> None:
        try:
            connection = libvirt.open(self._uri)
            with suppress(libvirt.libvirtError):  # a driver within this process has no socket to keep alive
                connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
        except libvirt.libvirtError as error:
            if opened.set_running_or_notify_cancel():
                opened.set_exception(error)
        else:
            if opened.set_running_or_notify_cancel():
                opened.set_result(connection)
            else:
                close(connection)
        finally:
            self._opening.release()


class ConnectionPool:
    """Connections for one kind of call. Each connection serves one call at a time. Thread-safe.

    Two threads must not use one connection at the same time: libvirt before 10.4 might then write to the stack of a
    thread that has already returned (CVE-2024-4418). With eight threads and a libvirtd that hung, the process crashed
    every time.
    """

    def __init__(self, max_count: int, grow: Callable[[ConnectionPool], None] = lambda _pool: None) -> None:
        """`grow` is called when the pool needs another connection.

        It must return at once, and later the pool's `add` or `refuse` must be called.
        """
        self._max_count, self._grow = max_count, grow
        self._changed = threading.Condition()
        self._free: list[tuple[libvirt.virConnect, float]] = []
        """The free connections, each with the monotonic seconds since when it is free. The one used last is at the end.
        """
        self._count = 0
        self._growing, self._grow_from_s = False, 0.0
        self._closed = False

    @property
    def count(self) -> int:
        """The number of connections, free or in use."""
        return self._count

    def add(self, connection: libvirt.virConnect) -> None:
        """Add a connection to the pool, or close the connection if the pool is closed."""
        with self._changed:
            self._growing = False
            if not self._closed:
                self._count += 1
                self._free.append((connection, time.monotonic()))
                self._changed.notify()
                return
        close(connection)

    def refuse(self) -> None:
        """Record that another connection could not be opened. The pool does not grow for `GROW_AGAIN_S`."""
        with self._changed:
            self._growing, self._grow_from_s = False, time.monotonic() + GROW_AGAIN_S

    @contextmanager
    def take(self) -> Iterator[libvirt.virConnect]:
        """Take a connection for one call.

        Raises Transient if no connection is free within `FREE_WITHIN_S`, or at once if the pool cannot grow any more.
        """
        connection = self._next_free()
        try:
            yield connection
        finally:
            self._give_back(connection)

    def _next_free(self) -> libvirt.virConnect:
        with self._changed:
            until_s = time.monotonic() + FREE_WITHIN_S
            while not self._free:
                now_s = time.monotonic()
                if self._closed:
                    raise Transient("not connected")
                if self._count >= self._max_count:
                    raise Transient("libvirt has not answered earlier calls")
                if now_s >= until_s:
                    raise Transient("libvirt has not answered earlier calls, and no further connection is open yet")
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

    def close_idle(self, idle_s: float) -> None:
        """Close connections that have been idle for `idle_s`, but keep one. libvirtd limits the number of clients."""
        with self._changed:
            before_s = time.monotonic() - idle_s
            idle = sum(since_s <= before_s for _, since_s in self._free)
            surplus = max(0, min(idle, self._count - 1))
            closing, self._free = self._free[:surplus], self._free[surplus:]
            self._count -= surplus
        for connection, _ in closing:
            close(connection)

    def close(self) -> None:
        """Close the free connections now, and each other connection when its call returns."""
        with self._changed:
            self._closed = True
            free, self._free = self._free, []
            self._changed.notify_all()
        for connection, _ in free:
            close(connection)


def close(connection: libvirt.virConnect) -> None:
    """Close a connection in any state. Never raises libvirtError."""
    handles.forget(connection)
    with suppress(libvirt.libvirtError):
        connection.unregisterCloseCallback()
    with suppress(libvirt.libvirtError):
        connection.close()


@dataclass(eq=False)
class ConnectionSet:
    """One generation of connections. Each kind of call has a pool, so a call that hangs does not delay other kinds."""

    generation: int
    events: libvirt.virConnect
    bulk: ConnectionPool
    queries: ConnectionPool
    actions: ConnectionPool
    callback_ids: list[int] = field(default_factory=list)

    @property
    def pools(self) -> tuple[ConnectionPool, ...]:
        """All pools. The connection for events is in no pool."""
        return self.bulk, self.queries, self.actions

    @property
    def count(self) -> int:
        """The number of connections of this generation."""
        return 1 + sum(pool.count for pool in self.pools)

    def close_idle(self, idle_s: float) -> None:
        """Close connections that have been idle for `idle_s`. Keep at least one in each pool."""
        for pool in self.pools:
            pool.close_idle(idle_s)

    def close(self) -> None:
        """Deregister the callbacks, then close the connections. In another order, a connection might remain open."""
        for callback_id in self.callback_ids:
            with suppress(libvirt.libvirtError):  # libvirtd might have been killed
                self.events.domainEventDeregisterAny(callback_id)
        close(self.events)
        for pool in self.pools:
            pool.close()
