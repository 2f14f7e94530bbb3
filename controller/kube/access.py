"""How to reach the API server, and as which user: plain values from which both HTTP clients are configured.

The kubernetes client (urllib3) sends requests, and kopf (aiohttp) watches. A setting that only one of them applied
could mean a watch as another user, or no watch at all.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from controller import __version__
from controller.api.names import AGENT
from controller.runtime.errors import Rejected

KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000),
)
"""A connection whose peer is gone fails after 25 s, idle or not. A load balancer that drops idle connections sees
traffic every 10 s. The kernel sends the keepalives, so no process wakes up for them."""
SOCKET_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), *KEEPALIVE)


@dataclass(frozen=True, kw_only=True)
class Access:
    """An API server, and the user and settings to reach it with. Equal values make equal connections."""

    server: str
    """Its URL, without a trailing slash; includes a path if the API server is served under one."""
    ca: bytes | None = None
    """The trusted CA certificates, as PEM; None: those that this machine trusts."""
    insecure: bool = False
    """Accept any certificate of the server."""
    server_name: str | None = None
    """The name that the server's certificate must have; None: the host of the URL."""
    proxy: str | None = None
    """The http:// URL of a proxy, without user and password."""
    proxy_login: tuple[str, str] | None = field(default=None, repr=False)
    """The user and the password of the proxy."""
    authorization: str | None = field(default=None, repr=False)
    """The value of the Authorization header."""
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    """The client certificate and key of the user, as PEM."""

    @cached_property
    def headers(self) -> dict[str, str]:
        """The headers of each request."""
        always = {"User-Agent": f"{AGENT}/{__version__}", "Accept-Encoding": "identity"}
        return always | ({"Authorization": self.authorization} if self.authorization else {})

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """The TLS settings of all connections. Raises Rejected if a certificate or a key cannot be used."""
        context = _FixedNameContext(ssl.PROTOCOL_TLS_CLIENT)
        context.name = self.server_name
        context.set_alpn_protocols(["http/1.1"])
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            if self.ca is None:
                context.load_default_certs()
            else:
                with _as_file(self.ca) as path:
                    context.load_verify_locations(path)
        except ssl.SSLError as error:
            raise Rejected("its certificate-authority is not a certificate") from error
        if self.certificate and self.key:
            try:
                with _as_file(self.certificate) as certificate, _as_file(self.key) as key:
                    # Without `password`, OpenSSL asks for the password of an encrypted key at the terminal.
                    context.load_cert_chain(certificate, key, password=str)
            except (ssl.SSLError, ValueError) as error:
                raise Rejected(
                    "its client-certificate and client-key are not a certificate and its unencrypted key"
                ) from error
        return context


def basic(username: str, password: str) -> str:
    """The value of an HTTP Basic authentication header."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


class _FixedNameContext(ssl.SSLContext):
    """Expects `name` in the server's certificate, whatever the URL says; each HTTP client starts TLS its own way."""

    name: str | None = None

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """How urllib3 starts TLS."""
        return super().wrap_socket(*args, **kwargs | self._expected())

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """How asyncio starts TLS."""
        return super().wrap_bio(*args, **kwargs | self._expected())

    def _expected(self) -> dict[str, str]:
        return {"server_hostname": self.name} if self.name else {}


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path for OpenSSL, which reads only files. It is in memory: no secret reaches a disk, and the root file system
    may be read-only."""
    descriptor = os.memfd_create("pem")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
