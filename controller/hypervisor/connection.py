"""Opens the connections to libvirt, keeps them alive, registers for events, and closes the connections in order.

Four kinds of threads run this code. The event-loop thread of libvirt only records what happened and calls `changed`.
The keeper connects and disconnects. One thread runs for each connection that is opened on demand. Other threads take
connections for their calls. Each connection belongs to a generation, so that a late callback of an old connection has
no effect.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from uuid import UUID

import libvirt
import structlog

from controller.hypervisor.event_loop import EventLoop
from controller.hypervisor.events import Changed, Evidences, Listener
from controller.hypervisor.host_facts import HostFacts, read_host_facts
from controller.hypervisor.host_uuid import HostUuid, read_host_uuid
from controller.hypervisor.pool import OPEN_WITHIN_S, ConnectionPool, ConnectionSet, Opener, close
from controller.hypervisor.text import error_text
from controller.runtime.errors import Transient
from controller.runtime.retry import Backoff

RETRY_FIRST_S, RETRY_MAX_S = 0.1, 5.0
ABSENT_RETRY_MAX_S = 0.5
"""The longest wait while no libvirtd accepts connections. It is short, so that the agent connects soon after libvirtd
has started; an attempt costs nothing."""
STABLE_S = 10.0
"""A connection that is lost within this time does not reset the exponential backoff."""
QUERIES_AT_ONCE, ACTIONS_AT_ONCE = 8, 8
"""The maximum numbers of connections for queries and for actions. Together with the connection for lists, they can make
17 of the 20 calls that libvirtd serves at a time. One connection of each kind is opened at first, and more on demand.
"""
FIRST_CONNECTIONS = 4
"""The number of first connections: one each for events, lists, queries and actions."""
IDLE_S = 10.0
"""A connection that was opened on demand is closed when it has been idle for this time."""
HANGS_OR_FULL = "either libvirtd hangs, or it has as many clients as max_clients in its configuration allows"


log = structlog.get_logger()


class LibvirtConnection:
    """The libvirt of this node. Reconnects whenever the connection is lost. Thread-safe."""

    def __init__(
        self,
        uri: str,
        *,
        changed: Changed,
        on_connected: Callable[[], None],
        on_lost: Callable[[], None],
        count: Callable[[str], None] = lambda _event: None,
    ) -> None:
        """`changed` and `count` run on the event-loop thread and must not block.

        `on_connected` and `on_lost` run on the keeper's thread.
        """
        self.uri = uri
        self.evidences = Evidences()
        self._opener = Opener(uri)
        self._host_uuid = HostUuid()
        self.host_facts: HostFacts | None = None
        """The facts about the host, read once for each connection, after `on_connected`. None: not read yet."""
        self._event_failures: deque[BaseException] = deque(maxlen=10)
        """Exceptions that event callbacks raised. The keeper logs them, because a callback must not log."""
        self._on_redefined: list[Callable[[UUID], None]] = []
        self._on_connected, self._on_lost = on_connected, on_lost
        self._loop = EventLoop()
        self._listener = Listener(
            self.evidences, changed=changed, redefined=self._redefined, count=count, failed=self._event_failed
        )
        self._connections: ConnectionSet | None = None
        self._generation = 0
        self._lost_generation = 0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep_connected, name="libvirt-keeper", daemon=True)

    def start(self) -> None:
        """Start the event loop and the keeper."""
        self._loop.start()
        self._keeper.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """Tell the keeper to close the connections, then end the event loop.

        Waits at most `timeout_s` seconds for each of these two threads.
        """
        self._closing.set()
        self._wake.set()
        if self._keeper.is_alive():
            self._keeper.join(timeout_s)
        self._loop.stop(timeout_s)

    @property
    def connected(self) -> bool:
        """Whether the agent is connected and registered for events, as far as libvirt has reported."""
        connections = self._connections
        return connections is not None and connections.generation > self._lost_generation

    def alive(self, max_age_s: float = 20.0) -> bool:
        """Whether the event loop and the keeper run. This does not depend on libvirtd."""
        return self._loop.alive(max_age_s) and self._keeper.is_alive()

    @property
    def host_uuid(self) -> UUID | None:
        """libvirt's UUID of this machine, read before `on_connected` is first called. None if none is permanent.

        Source: `<host><uuid>` of virConnectGetCapabilities, read once for each connection.
        """
        return self._host_uuid.value

    def forget_host_uuid(self) -> None:
        """Stop using the UUID, because a status that was written in this boot of the machine has another UUID."""
        self._host_uuid.forget()

    def when_redefined(self, redefined: Callable[[UUID], None]) -> None:
        """Add a callback, which runs on the event-loop thread for each domain whose definition changes."""
        self._on_redefined.append(redefined)

    def query(self) -> AbstractContextManager[libvirt.virConnect]:
        """Take a connection to read one domain. Raises Transient."""
        return self._current().queries.take()

    def bulk(self) -> AbstractContextManager[libvirt.virConnect]:
        """Take the connection for lists. A list can take seconds. Raises Transient."""
        return self._current().bulk.take()

    def action(self) -> AbstractContextManager[libvirt.virConnect]:
        """Take a connection for one action. Raises Transient."""
        return self._current().actions.take()

    def _current(self) -> ConnectionSet:
        connections = self._connections
        if connections is None or connections.generation <= self._lost_generation:
            raise Transient("not connected")
        return connections

    # --- the event-loop thread

    def _closed(self, _connection: object, _reason: int, generation: int) -> None:
        # A late callback of an old connection must not mark the new one as lost.
        self._lost_generation = max(self._lost_generation, generation)
        self._wake.set()

    def _redefined(self, uuid: UUID) -> None:
        for redefined in self._on_redefined:
            redefined(uuid)

    def _event_failed(self, error: BaseException) -> None:
        self._event_failures.append(error)
        self._wake.set()

    # --- the keeper

    def _keep_connected(self) -> None:
        backoff, absent = Backoff(RETRY_FIRST_S, RETRY_MAX_S), Backoff(RETRY_FIRST_S, ABSENT_RETRY_MAX_S)
        while not self._closing.is_set():
            try:
                self._connect()
            except (libvirt.libvirtError, TimeoutError, RuntimeError) as error:
                log.warning("libvirt does not answer", libvirt_uri=self.uri, error=_reason(error))
                wait_s = (absent if _is_absent(error) else backoff).wait_s()
            else:
                if self._wait_until_lost() > STABLE_S:
                    backoff.reset()
                absent.reset()
                self._disconnect()
                wait_s = backoff.wait_s()
            self._closing.wait(wait_s)

    def _wait_until_lost(self) -> float:
        """Call `on_connected`, and wait until the connection is lost or `close` is called.

        Returns how many seconds the connection lasted.
        """
        since_s = time.monotonic()
        self._on_connected()
        if self._connections:
            with suppress(libvirt.libvirtError, Transient):
                read_host_uuid(self._connections, self._host_uuid)
                self.host_facts = read_host_facts(self._connections)
        while self.connected and not self._closing.is_set():
            self._wake.wait(IDLE_S)
            self._wake.clear()
            while self._event_failures:
                error = self._event_failures.popleft()
                log.error("internal error while handling a libvirt event", exc_info=error)
                del error  # its traceback refers to the event's domain, which keeps the connection open
            if self._connections:
                self._connections.close_idle(IDLE_S)
        return time.monotonic() - since_s

    def _connect(self) -> None:
        """Register for events and open the first connections.

        The first list comes later, so a change in between is observed twice and not missed. Raises libvirtError,
        TimeoutError, RuntimeError (no thread could be started). If one connection fails, closes the others, so that
        other clients can connect to libvirtd.
        """
        self._generation += 1
        until_s = time.monotonic() + OPEN_WITHIN_S
        events = self._open(self._generation, until_s)
        connections = ConnectionSet(
            self._generation,
            events,
            ConnectionPool(1),
            ConnectionPool(QUERIES_AT_ONCE, self._grow),
            ConnectionPool(ACTIONS_AT_ONCE, self._grow),
        )
        try:
            self.evidences.connected()
            connections.callback_ids = self._listener.register(events)
            for pool in connections.pools:
                pool.add(self._open(self._generation, until_s))
            if not self._host_uuid.read:
                read_host_uuid(connections, self._host_uuid)
        except TimeoutError:
            count = connections.count
            connections.close()
            raise TimeoutError(_too_few(f"{count} of the first {FIRST_CONNECTIONS}")) from None
        except (libvirt.libvirtError, RuntimeError):
            connections.close()
            raise
        self._connections = connections
        log.info("connected to libvirt", libvirt_uri=self.uri)

    def _disconnect(self) -> None:
        connections, self._connections = self._connections, None
        if connections is None:
            return
        if not self._closing.is_set():
            log.warning("lost the connection to libvirt; no action until it is back", libvirt_uri=self.uri)
            self._on_lost()
        connections.close()

    def _open(self, generation: int, until_s: float) -> libvirt.virConnect:
        connection = self._opener.open(max(0.0, until_s - time.monotonic()))
        try:
            connection.registerCloseCallback(self._closed, generation)
        except libvirt.libvirtError:
            close(connection)
            raise
        return connection

    # --- a thread for each connection that is opened on demand

    def _grow(self, pool: ConnectionPool) -> None:
        try:
            threading.Thread(target=self._open_more, args=(pool,), name="libvirt-growth", daemon=True).start()
        except RuntimeError as error:
            self._refuse(pool, str(error))

    def _open_more(self, pool: ConnectionPool) -> None:
        connections = self._connections
        if connections is None or pool not in connections.pools:
            pool.refuse()  # the pool is of an old generation
            return
        try:
            pool.add(self._open(connections.generation, time.monotonic() + OPEN_WITHIN_S))
        except TimeoutError:
            self._refuse(pool, _too_few(str(connections.count)))
            connections.close_idle(0.0)  # so that other clients can connect
        except (libvirt.libvirtError, RuntimeError) as error:
            self._refuse(pool, f"the agent has {connections.count} connections, and the next failed: {_reason(error)}")

    def _refuse(self, pool: ConnectionPool, why: str) -> None:
        pool.refuse()
        log.warning("could not open another connection to libvirt", libvirt_uri=self.uri, error=why)


def _too_few(count: str) -> str:
    return f"libvirt accepted {count} connections, and no further one within {OPEN_WITHIN_S:g} s; {HANGS_OR_FULL}"


def _reason(error: Exception) -> str:
    if isinstance(error, libvirt.libvirtError):
        return error_text(error)
    return str(error) or f"it has not accepted a connection within {OPEN_WITHIN_S:g} s; {HANGS_OR_FULL}"


def _is_absent(error: Exception) -> bool:
    """Whether the socket does not exist, or no libvirtd accepts a connection."""
    if not isinstance(error, libvirt.libvirtError):
        return isinstance(error, TimeoutError)
    return (error.get_error_domain(), error.get_error_code()) == (libvirt.VIR_FROM_RPC, libvirt.VIR_ERR_SYSTEM_ERROR)
