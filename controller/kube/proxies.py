"""Finds the proxy for a server in the environment variables, by the rules of client-go. kubectl has the same rules.

Source: golang.org/x/net/http/httpproxy. NO_PROXY usually contains the networks of the cluster, but Python's standard
library does not support networks there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

PORTS = {"http": 80, "https": 443}


def proxy_of(server: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return (name of the variable, URL of the proxy) for this server, or None to connect without a proxy."""
    url = urlsplit(server)
    host, port = url.hostname or "", url.port or PORTS.get(url.scheme, 0)
    found = _variable(environ, f"{url.scheme}_proxy")
    if not found or is_loopback(host):
        return None
    exceptions = _variable(environ, "no_proxy")
    if exceptions and any(_matches(host, port, entry.strip().lower()) for entry in exceptions[1].split(",")):
        return None
    name, proxy = found
    return name, proxy if "://" in proxy else f"http://{proxy}"


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str] | None:
    return next(((one, environ[one]) for one in (name.upper(), name) if environ.get(one)), None)


def is_loopback(host: str) -> bool:
    """Whether this name or address is that of each machine for itself."""
    address = _address(host)
    return address.is_loopback if address else host == "localhost"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _matches(host: str, port: int, entry: str) -> bool:
    """Whether this entry of NO_PROXY matches the server."""
    name, colon, entry_port = entry.rpartition(":")
    if colon and entry_port.isdecimal() and not _address(entry):
        return int(entry_port) == port and _matches_host(host, name)
    return _matches_host(host, entry)


def _matches_host(host: str, entry: str) -> bool:
    if entry in {"", "*"}:
        return entry == "*"
    if address := _address(host):
        with suppress(ValueError):
            return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
    suffix = entry.removeprefix("*")
    return host == suffix or host.endswith(suffix if suffix.startswith(".") else f".{suffix}")
