"""How the API server is reached, and as whom: plain values that both HTTP stacks are made from.

The kubernetes client (urllib3) sends requests and kopf (aiohttp) watches. What one of them were told and the other not
would be a watch of another user, or none at all.
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
"""A connection whose other end is gone is given up after 25 s, idle or not; a load balancer that forgets idle ones sees
traffic every 10 s. The kernel sends it: no process wakes up."""
SOCKET_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), *KEEPALIVE)


@dataclass(frozen=True, kw_only=True)
class Access:
    """One way to one API server as one user. Two that are equal make the same connections."""

    server: str
    """A URL, with a path where the API server is behind one; without a slash at the end."""
    ca: bytes | None = None
    """The PEM certificates that may have signed that of the server; None: those that this machine trusts."""
    insecure: bool = False
    """Any certificate will do."""
    server_name: str | None = None
    """The name that the certificate must have; None: that of the URL."""
    proxy: str | None = None
    """The http:// URL of a proxy, without user and password."""
    proxy_login: tuple[str, str] | None = field(default=None, repr=False)
    """The user and the password of the proxy."""
    authorization: str | None = field(default=None, repr=False)
    """The header that logs in."""
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    """Those of the user, as PEM."""

    @cached_property
    def headers(self) -> dict[str, str]:
        """What each request carries."""
        always = {"User-Agent": f"{AGENT}/{__version__}", "Accept-Encoding": "identity"}
        return always | ({"Authorization": self.authorization} if self.authorization else {})

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """What is checked and shown on TLS connections. Raises Rejected where that is no certificate or no key."""
        context = _Named(ssl.PROTOCOL_TLS_CLIENT)
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
                    # Else OpenSSL asks at the terminal for the password of a key that has one.
                    context.load_cert_chain(certificate, key, password=str)
            except (ssl.SSLError, ValueError) as error:
                raise Rejected(
                    "its client-certificate and client-key are not a certificate and its key without a password"
                ) from error
        return context


def basic(username: str, password: str) -> str:
    """The header of a user with a password."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


class _Named(ssl.SSLContext):
    """Expects one name of whoever is connected to, whatever the URL says. Each stack has its own way into TLS."""

    name: str | None = None

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """As urllib3 begins TLS."""
        return super().wrap_socket(*args, **kwargs | self._expected())

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """As asyncio begins TLS."""
        return super().wrap_bio(*args, **kwargs | self._expected())

    def _expected(self) -> dict[str, str]:
        return {"server_hostname": self.name} if self.name else {}


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path for OpenSSL, which reads files only; no secret gets onto a disk, and the root may be read-only."""
    descriptor = os.memfd_create("pem")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
