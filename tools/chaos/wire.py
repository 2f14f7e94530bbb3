"""A proxy between an agent and its libvirtd, which can lose the answer to an action and then cut the connection.

The messages have the format of libvirt's src/rpc/virnetprotocol.x and src/remote/remote_protocol.x: a length, then
program, version, procedure, type and serial, 4 bytes each.
"""

import select
import socket
import struct
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

CHUNK_BYTES = 65536
REMOTE_PROGRAM = 0x20008086
CALL, REPLY = 0, 1
HEADER = struct.Struct(">6I")
# virDomainCreate, Resume, Shutdown, Suspend, CreateWithFlags, DestroyFlags, ShutdownFlags and PMWakeup.
ACTS = frozenset({9, 28, 33, 34, 196, 234, 258, 267})


class Wire:
    """A socket beside libvirtd's socket that leads to it; use it as a context manager. Any thread may switch it."""

    def __init__(self, socket_path: Path) -> None:
        """`socket_path` is libvirtd's socket."""
        self._target = socket_path
        self.socket = socket_path.with_name(f"{socket_path.name}-by-wire")
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self.losing = False
        """Whether the answers to actions are lost."""
        self.lost = 0
        """How many answers were lost."""

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self) -> None:
        """Listen, unless it does already: libvirtd runs again."""
        if self._listener:
            return
        self.socket.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen(100)
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), name="wire", daemon=True)
        self._thread.start()

    def down(self) -> None:
        """Stop listening, as when libvirtd has died; the socket file remains."""
        if self._listener is None or self._thread is None:
            return
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # the thread waits in accept, which this ends
        self._thread.join()
        self._listener.close()
        self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # the end
                return
            threading.Thread(target=self._connect, args=(client,), name="wire-connection", daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with ExitStack() as ends:
            ends.enter_context(client)
            server = ends.enter_context(socket.socket(socket.AF_UNIX))
            with suppress(OSError):
                server.connect(str(self._target))
                self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        asked, answered = Messages(), Messages()
        acts: set[int] = set()
        """Serials of the actions whose answers will be lost."""
        while True:
            ready, _, _ = select.select([client, server], [], [])
            for source in ready:
                data = source.recv(CHUNK_BYTES)
                if not data:
                    return
                if source is client:
                    acts |= {
                        serial
                        for program, procedure, kind, serial in asked.headers(data)
                        if self.losing and (program, kind) == (REMOTE_PROGRAM, CALL) and procedure in ACTS
                    }
                    server.sendall(data)
                elif acts & {serial for _, _, kind, serial in answered.headers(data) if kind == REPLY}:
                    with self._lock:
                        self.lost += 1
                    return
                else:
                    client.sendall(data)


class Messages:
    """Finds the messages in a stream of bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def headers(self, data: bytes) -> list[tuple[int, int, int, int]]:
        """Program, procedure, type and serial of each message that is complete with these bytes."""
        self._rest += data
        found = []
        while len(self._rest) >= HEADER.size:
            length, program, _, procedure, kind, serial = HEADER.unpack_from(self._rest)
            if len(self._rest) < length:
                break
            found.append((program, procedure, kind, serial))
            self._rest = self._rest[length:]
        return found
