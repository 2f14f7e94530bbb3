"""A TCP proxy in front of a server on this machine, which can cut or stall the traffic."""

import json
import select
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from enum import Enum
from pathlib import Path
from typing import Self

CHUNK_BYTES = 65536
CONNECT_TIMEOUT_S = 5.0
# Linger for 0 s: a close sends a reset, as when a firewall or a host disappears.
RESET = struct.pack("ii", 1, 0)


class Mode(Enum):
    """What the proxy does with connections."""

    OPEN = "open"
    STALL = "stall"
    CUT = "cut"
    HANG_UP = "hang up"


class Proxy:
    """Listens on a port of 127.0.0.1 and passes each connection on unchanged; use it as a context manager.

    Any thread may switch the mode. `accepted` counts all connections, in every mode.
    """

    def __init__(self, port: int) -> None:
        """`port` is the server's port on 127.0.0.1."""
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._changed = threading.Condition()
        self._mode = Mode.OPEN
        self._relays: set[_Relay] = set()
        self.accepted = 0
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # the thread waits in accept, which this ends
        self._thread.join()
        self._listener.close()
        self.cut()

    @property
    def port(self) -> int:
        """The proxy's port on 127.0.0.1."""
        port: int = self._listener.getsockname()[1]
        return port

    def kubeconfig(self, original: Path) -> Path:
        """A copy of a kubeconfig of the lab, in the same folder, that reaches the API server through the proxy."""
        config = json.loads(original.read_text())
        for cluster in config["clusters"]:
            cluster["cluster"]["server"] = f"https://127.0.0.1:{self.port}"
        copy = original.with_name(f"{original.name}-by-{self.port}")
        copy.touch(0o600)
        copy.write_text(json.dumps(config, indent=2))
        return copy

    def pass_on(self) -> None:
        """Pass everything on; stalled connections continue where they stopped."""
        self._become(Mode.OPEN)

    def stall(self) -> None:
        """Keep connections open and accept new ones, but pass nothing on, in either direction."""
        self._become(Mode.STALL)

    def cut(self) -> None:
        """Reset open connections, and every new one."""
        self._become(Mode.CUT)
        self.cut_once()

    def hang_up(self) -> None:
        """Reset open connections, and close each new one cleanly, like a load balancer without a backend."""
        self._become(Mode.HANG_UP)
        self.cut_once()

    def cut_once(self) -> None:
        """Reset open connections, and return when that is done."""
        with self._changed:
            relays = set(self._relays)
        for relay in relays:
            relay.reset()
        for relay in relays:
            relay.thread.join()

    def _become(self, mode: Mode) -> None:
        with self._changed:
            self._mode = mode
            relays = set(self._relays)
        for relay in relays:
            relay.stall(stalled=mode is Mode.STALL)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # the end
                return
            self.accepted += 1
            with self._changed:
                mode = self._mode
                if mode in {Mode.OPEN, Mode.STALL}:
                    self._relays.add(_Relay(client, self._target, self._relays.discard, stalled=mode is Mode.STALL))
                    continue
            if mode is Mode.CUT:
                _linger_no_more(client)
            client.close()


class _Relay:
    """A client's connection and the connection to the server; only this object's thread uses the two sockets."""

    def __init__(self, client: socket.socket, target: int, over: Callable[["_Relay"], None], *, stalled: bool) -> None:
        self._client, self._target, self._over = client, target, over
        self._word, self._mouth = socket.socketpair()
        self._stalled, self._reset = stalled, False
        self.thread = threading.Thread(target=self._run, name="proxy-connection", daemon=True)
        self.thread.start()

    def stall(self, *, stalled: bool) -> None:
        """Stall, or continue."""
        self._stalled = stalled
        self._wake()

    def reset(self) -> None:
        """Reset both connections immediately."""
        self._reset = True
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # it is over
            self._mouth.send(b"!")

    def _run(self) -> None:
        with ExitStack() as ends:
            ends.callback(self._over, self)
            for one in (self._word, self._mouth, self._client):
                ends.callback(one.close)
            try:
                server = socket.create_connection(("127.0.0.1", self._target), CONNECT_TIMEOUT_S)
            except OSError:
                _linger_no_more(self._client)
                return
            ends.callback(server.close)
            server.settimeout(None)
            with suppress(OSError):
                self._pass_on({self._client: server, server: self._client})
            if self._reset:
                _linger_no_more(self._client)
                _linger_no_more(server)

    def _pass_on(self, sinks: dict[socket.socket, socket.socket]) -> None:
        """Pass bytes on until one of the connections ends."""
        while not self._reset:
            ready, _, _ = select.select([self._word, *(() if self._stalled else sinks)], [], [])
            if self._word in ready:
                self._word.recv(CHUNK_BYTES)
                continue
            for source in ready:
                data = source.recv(CHUNK_BYTES)
                if not data:
                    return
                sinks[source].sendall(data)


def _linger_no_more(connection: socket.socket) -> None:
    """Make the socket's close a reset."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
