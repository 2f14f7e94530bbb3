"""Passes connections from one network to another: it listens on a socket of the first and runs in the second.

It is a separate program. Its arguments are the address and port to connect to; its standard input is the socket.
"""

import socket
import sys
import threading
from contextlib import suppress

CHUNK_BYTES = 65536


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass on the data, and the end of the data."""
    with suppress(OSError):
        while chunk := source.recv(CHUNK_BYTES):
            sink.sendall(chunk)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def relay(client: socket.socket, target: tuple[str, int]) -> None:
    """Serve one connection until both sides have closed it."""
    with client, suppress(OSError), socket.create_connection(target) as server:
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=pump, args=(server, client), daemon=True)
        back.start()
        pump(client, server)
        back.join()


def main() -> None:
    """Accept until killed."""
    target = (sys.argv[1], int(sys.argv[2]))
    listener = socket.socket(fileno=0)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=relay, args=(client, target), daemon=True).start()


if __name__ == "__main__":
    main()
