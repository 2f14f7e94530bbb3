"""The address of the API server, the user, and the TLS settings. Both HTTP clients are configured from these values.

The kubernetes client (urllib3) sends requests, and kopf (aiohttp) watches. If only one of the two clients applied a
setting, the watch might run as another user, or fail.
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
"""If the peer disappears, its connections fail after 25 s, whether or not they are idle. Keepalives every 10 s prevent
load balancers from dropping idle connections. The kernel sends them, so no process wakes up."""
SOCKET_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), *KEEPALIVE)


@dataclass(frozen=True, kw_only=True)
class Access:
    """All settings of a connection to an API server, including the credentials."""

    server: str
    """The URL of the API server, without a trailing slash. The URL can have a path."""
    ca: bytes | None = None
    """The trusted CA certificates, as PEM. If None, the certificates that this machine trusts are used."""
    insecure: bool = False
    """Whether to accept any server certificate."""
    server_name: str | None = None
    """The name that the server's certificate must have. If None, the host of the URL."""
    proxy: str | None = None
    """The http:// URL of the proxy, without user and password. None if there is no proxy."""
    proxy_login: tuple[str, str] | None = field(default=None, repr=False)
    """The user and the password for the proxy."""
    proxy_is_configured: bool = False
    """Whether the proxy is from the kubeconfig. Otherwise it is from the environment of this machine."""
    authorization: str | None = field(default=None, repr=False)
    """The value of the Authorization header."""
    certificate: bytes | None = field(default=None, repr=False)
    """The client certificate of the user, as PEM."""
    key: bytes | None = field(default=None, repr=False)
    """The private key of `certificate`, as PEM."""
    impersonation: tuple[tuple[str, str], ...] = ()
    """The headers that ask the API server to treat the user as another one. A name can be there more than once."""
    program: str = AGENT
    """The name of this HTTP client (User-Agent)."""

    @cached_property
    def headers(self) -> dict[str, str]:
        """The headers that each request has."""
        always = {"User-Agent": f"{self.program}/{__version__}", "Accept-Encoding": "identity"}
        return always | ({"Authorization": self.authorization} if self.authorization else {})

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """The TLS settings of all connections. Raises Rejected if a certificate, a key or the name cannot be used."""
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
        if self.server_name:
            try:
                context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())  # sends nothing; otherwise each request would raise
            except (TypeError, ValueError) as error:
                raise Rejected(f"its tls-server-name {self.server_name!r} is not the name of a host") from error
        return context


def basic(username: str, password: str) -> str:
    """Return the value of an Authorization header for HTTP Basic authentication."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


class _FixedNameContext(ssl.SSLContext):
    """A TLS context. If `name` is set, the server's certificate must have this name instead of the host of the URL."""

    name: str | None = None

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """Start TLS. urllib3 calls this method."""
        return super().wrap_socket(*args, **kwargs | self._expected())

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Start TLS. asyncio calls this method."""
        return super().wrap_bio(*args, **kwargs | self._expected())

    def _expected(self) -> dict[str, str]:
        return {"server_hostname": self.name} if self.name else {}


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Yield the path of a file with this content, because OpenSSL reads only files.

    The file is in memory, so no secret is written to a disk, and the root file system can be read-only.
    """
    descriptor = os.memfd_create("pem")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
