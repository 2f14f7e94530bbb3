"""What is in the token of an enrolled host: the ServiceAccount, the host, and how long the token is valid.

A host that is not a node has a ServiceAccount of its own, `virtsync-agent.HOST` (docs/adr/031). Nobody here checks the
signature, which is for the API server to do.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime

from controller.api.names import HOST_ACCOUNT_PREFIX
from controller.kube.access import Access
from controller.policy.renewal import Lifetime

BEARER = "Bearer "


@dataclass(frozen=True, slots=True)
class HostToken:
    """A token of the ServiceAccount of a host."""

    namespace: str
    """The namespace of the ServiceAccount."""
    host: str
    lifetime: Lifetime


def host_of(user: str) -> tuple[str, str]:
    """Return the namespace and the host of the ServiceAccount with this user name; empty: it is not a host's."""
    parts = user.split(":")
    if len(parts) == 4 and parts[:2] == ["system", "serviceaccount"] and parts[3].startswith(HOST_ACCOUNT_PREFIX):
        return parts[2], parts[3].removeprefix(HOST_ACCOUNT_PREFIX)
    return "", ""


def host_token(access: Access) -> HostToken | None:
    """Return what is in the token of this access; None: it has no token of an enrolled host."""
    authorization = access.authorization or ""
    return read_token(authorization.removeprefix(BEARER)) if authorization.startswith(BEARER) else None


def read_token(token: str) -> HostToken | None:
    """Return what is in this token; None: it is not a token of an enrolled host."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        namespace, host = host_of(claims["sub"])
        issued, expires = (datetime.fromtimestamp(claims[field], UTC) for field in ("iat", "exp"))
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError, binascii.Error):
        return None
    return HostToken(namespace, host, Lifetime(issued, expires)) if host else None
