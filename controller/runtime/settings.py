"""The settings that every process of virtsync has, and the checks of values that several settings share."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from controller.api.names import MANAGER
from controller.api.setting import Choice, Section, Text, Whole, setting

LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
"""A DNS label, as in the name of a namespace."""
NODE_NAME = re.compile(rf"{LABEL}(\.{LABEL})*")


def namespace(text: str) -> str:
    """Return the name of a namespace after checking it. Raises ValueError with a message."""
    if len(text) > 63 or not re.fullmatch(LABEL, text):
        raise ValueError(
            f"{text!r} cannot be the name of a namespace (lower case letters, digits and '-', at most 63)."
        )
    return text


def node_name(text: str) -> str:
    """Return the name of a Kubernetes Node after checking it. Raises ValueError with a message."""
    if len(text) > 253 or not NODE_NAME.fullmatch(text):
        allowed = "lower case letters, digits, '-' and '.', at most 253"
        raise ValueError(f"{text!r} cannot be the name of a Node ({allowed}).")
    if text == MANAGER:
        raise ValueError(f"{text!r} cannot be the name of a Node: the Lease of the manager's leader has this name.")
    return text


def address(text: str) -> str:
    """Return an IP address in its normal form, or `*` for all addresses. Raises ValueError with a message."""
    try:
        return text if text == "*" else str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address. To use all addresses, set *.") from None


def token(text: str) -> str:
    """Return an identifier after checking that the API accepts it, as in `holderIdentity` or `status.nodeBootID`.

    Raises ValueError with a message.
    """
    if not re.fullmatch(r"[!-~]{1,128}", text):
        raise ValueError(f"{text!r} must be 1 to 128 printable ASCII characters without spaces.")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSettings:
    """The settings of the log, and of the server for health and metrics. Immutable."""

    log_format: str = setting(
        "--log-format",
        Section.OUTPUT,
        Choice(("text", "json")),
        "Log lines of text, or JSON objects for a log backend.",
        default="text",
    )
    log_level: str = setting(
        "--log-level",
        Section.OUTPUT,
        Choice(("debug", "info", "warning", "error")),
        "Minimum level to log.",
        default="info",
    )
    http_address: str = setting(
        "--http-address",
        Section.OUTPUT,
        Text("ADDRESS", address),
        "Address on which to serve /livez, /readyz and /metrics; *: all addresses, IPv4 and IPv6.",
        default="*",
    )
    http_port: int = setting(
        "--http-port",
        Section.OUTPUT,
        Whole(0, 65535, "PORT"),
        "Port for health and metrics; 0 picks a free port, which is logged at start.",
        default="8080",
    )
