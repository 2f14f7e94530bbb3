"""The settings of the manager. Each field declares its flag, environment variable, default and help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from controller.api.setting import File, Section, Text, setting
from controller.runtime.settings import OutputSettings, namespace, token

NO_PAGE = "off"


def page_port(text: str) -> int | None:
    """Return a port; None for "off". Raises ValueError with a message."""
    if text == NO_PAGE:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise ValueError(f"{text!r} is not a port between 0 and 65535, and not {NO_PAGE}.")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(OutputSettings):
    """The settings of one manager. Immutable."""

    kubeconfig: Path | None = setting(
        "--kubeconfig",
        Section.CLUSTER,
        File(),
        "Kubeconfig file with the address of the API server and the credentials.",
        found=None,
        shown_default="the Pod's service account, otherwise ~/.kube/config",
        variable="KUBECONFIG",
    )
    namespace: str = setting(
        "--namespace",
        Section.CLUSTER,
        Text("NAMESPACE", namespace),
        "Namespace of the agents' Leases. The Lease by which the managers elect their leader is there too.",
        variable="POD_NAMESPACE",
    )
    identity: str | None = setting(
        "--identity",
        Section.CLUSTER,
        Text("IDENTITY", token),
        "The holderIdentity that this manager writes into the Lease of the leader. In a Pod, use the Pod's UID. No two"
        " managers may have the same identity.",
        found=None,
        shown_default="a random one",
        variable="POD_UID",
    )
    page_port: int | None = setting(
        "--page-port",
        Section.OUTPUT,
        Text("PORT", page_port),
        "Port of localhost on which to serve the page about hosts and VMs, for `kubectl virtsync page`; 0 picks a free"
        " port, which is logged at start; off: no page.",
        default="8081",
    )
