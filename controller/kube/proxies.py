"""Which proxy the environment names for a server, by the rules of client-go and so of kubectl.

Source: golang.org/x/net/http/httpproxy. Python's own rules know no networks in NO_PROXY, where a cluster's are found.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

PORTS = {"http": 80, "https": 443}


def proxy_of(server: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The variable that names a proxy for this URL, and what it says; None: the server is reached directly."""
    url = urlsplit(server)
    host, port = url.hostname or "", url.port or PORTS.get(url.scheme, 0)
    found = _variable(environ, f"{url.scheme}_proxy")
    if not found or _is_loopback(host):
        return None
    exceptions = _variable(environ, "no_proxy")
    if exceptions and any(_matches(host, port, word.strip().lower()) for word in exceptions[1].split(",")):
        return None
    name, proxy = found
    return name, proxy if "://" in proxy else f"http://{proxy}"


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str] | None:
    return next(((one, environ[one]) for one in (name.upper(), name) if environ.get(one)), None)


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address else host == "localhost"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _matches(host: str, port: int, word: str) -> bool:
    """Whether this word of NO_PROXY means the server."""
    name, colon, its_port = word.rpartition(":")
    if colon and its_port.isdecimal() and not _address(word):
        return int(its_port) == port and _means(host, name)
    return _means(host, word)


def _means(host: str, word: str) -> bool:
    if word in {"", "*"}:
        return word == "*"
    if address := _address(host):
        with suppress(ValueError):
            return address in ipaddress.ip_network(word.strip("[]"), strict=False)
    suffix = word.removeprefix("*")
    return host == suffix or host.endswith(suffix if suffix.startswith(".") else f".{suffix}")
