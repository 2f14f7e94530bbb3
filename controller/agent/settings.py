"""The settings of an agent. Each field declares its flag, environment variable, default and help."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from controller.api.setting import Choice, Duration, File, Section, Switch, Text, Truth, Whole, setting
from controller.fleet.silence import GRACE_MOST_S
from controller.policy.waits import Waits
from controller.runtime.settings import OutputSettings, namespace, node_name, token

LIBVIRT_URI = re.compile(r"[a-z][a-z0-9]*(\+[a-z0-9]+)?:///[!-~]+")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def libvirt_uri(text: str) -> str:
    """Return the URI of a libvirt on this machine after checking it. Raises ValueError with a message."""
    if not LIBVIRT_URI.fullmatch(text):
        raise ValueError(f"{text!r} is not the URI of a libvirt on this machine like qemu:///system.")
    return text


def pattern(text: str) -> re.Pattern[str]:
    """Return a regular expression after checking it. Raises ValueError with a message."""
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(OutputSettings):
    """The settings of one agent. Immutable. The constructor raises ValueError with a message for wrong values."""

    node_name: str = setting(
        "--node-name",
        Section.NODE,
        Text("NAME", node_name),
        "Name of this Kubernetes Node, or the name with which this host was enrolled; the agent manages the"
        " VirtualMachines with this spec.nodeName.",
        variable="NODE_NAME",
    )
    libvirt_uri: str = setting(
        "--libvirt-uri",
        Section.NODE,
        Text("URI", libvirt_uri),
        "URI of this node's libvirt.",
        default="qemu:///system",
        variable="LIBVIRT_URI",
    )
    kubeconfig: Path | None = setting(
        "--kubeconfig",
        Section.NODE,
        File(),
        "Kubeconfig file with the address of the API server and the credentials.",
        found=None,
        shown_default="the Pod's service account, otherwise ~/.kube/config",
        variable="KUBECONFIG",
    )
    observe_only: bool = setting(
        "--observe-only", Section.NODE, Switch(), "Report the power state of this node's VMs and never change it."
    )
    lease_namespace: str | None = setting(
        "--lease-namespace",
        Section.OWNERSHIP,
        Text("NAMESPACE", namespace),
        "Namespace of this Node's Lease. Only the agent that holds the Lease acts (leader election). Without a Lease,"
        " only the lock on libvirt's socket directory decides which agent acts.",
        found=None,
        shown_default="no Lease",
        variable="POD_NAMESPACE",
    )
    identity: str | None = setting(
        "--identity",
        Section.OWNERSHIP,
        Text("IDENTITY", token),
        "The holderIdentity that this agent writes into the Lease. In a Pod, use the Pod's UID. No two agents"
        " may have the same identity.",
        found=None,
        shown_default="a random one",
        variable="POD_UID",
    )
    lease_duration_s: float = setting(
        "--lease-duration",
        Section.OWNERSHIP,
        Duration(least_s=2, most_s=GRACE_MOST_S),
        "How long the Lease stays valid without renewal (whole seconds). Its holder renews it four times in this time.",
        default="40s",
    )
    start_parallel: int = setting(
        "--start-parallel",
        Section.STARTS,
        Whole(1, 4),
        "How many VMs to start in parallel. For each start that hangs, one more may begin: at most twice this number in"
        " all, and never more than 4.",
        default="2",
    )
    start_interval_s: float = setting(
        "--start-interval",
        Section.STARTS,
        Duration(),
        "The shortest time between two starts (a rate limit, which matters after a power cut).",
        default="1s",
    )
    waits: Waits = field(default_factory=Waits)
    resync_libvirt_s: float = setting(
        "--resync-libvirt",
        Section.RESYNC,
        Duration(least_s=1),
        "How often to list all libvirt domains; events report changes sooner.",
        default="60s",
    )
    resync_api_s: float = setting(
        "--resync-api",
        Section.RESYNC,
        Duration(least_s=1),
        "How often to list all VirtualMachines of the node; the watch reports changes sooner.",
        default="3600s",
    )
    relist_spread_s: float = setting(
        "--relist-spread",
        Section.RESYNC,
        Duration(),
        "After an API server outage, each agent waits a random time up to this before it lists the VirtualMachines, so"
        " that not all agents list at once (jitter). Two such lists are at least 60s apart, and up to 15m while outages"
        " follow one another.",
        default="10s",
    )
    workers: int = setting(
        "--workers",
        Section.RESYNC,
        Whole(1, 8),
        "How many VMs to reconcile in parallel. A libvirt query that does not return blocks one worker.",
        default="8",
    )
    report_unmanaged: bool = setting(
        "--report-unmanaged",
        Section.HOST,
        Truth(),
        "Whether status.unmanaged of the Hypervisor has the names of the domains without a VirtualMachine; false: only"
        " their number.",
        default="true",
    )
    ignore_domains: re.Pattern[str] | None = setting(
        "--ignore-domains",
        Section.HOST,
        Text("REGEX", pattern),
        "Domains whose whole name matches this regular expression, such as instance-.* of OpenStack, are left out of"
        " status.unmanaged.",
        found=None,
        shown_default="none",
    )
    vm_metrics: str = setting(
        "--vm-metrics",
        Section.OUTPUT,
        Choice(("all", "drift", "off")),
        "Which metrics to serve for each VM: all (12 series), only drift and holds (2 series), or none.",
        default="all",
    )
    renew_after_s: float | None = setting(
        "--renew-after",
        Section.TESTS,
        Duration(),
        "Renew the token of a host that is not a node when the token is this old.",
        found=None,
        shown_default="50 to 60 % of its lifetime",
    )
    boot_id: str = setting(
        "--boot-id",
        Section.TESTS,
        Text("BOOT", token),
        "Identifier of this boot of the node.",
        found="",
        shown_default=str(BOOT_ID),
    )

    def __post_init__(self) -> None:
        """Check that the Lease duration is in whole seconds. Read the identifier of this boot if none is given.

        Raises ValueError with a message.
        """
        if self.lease_duration_s % 1:
            raise ValueError("--lease-duration must be whole seconds.")
        if not self.boot_id:
            object.__setattr__(self, "boot_id", _boot_id())


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError as error:
        raise ValueError(f"Cannot read {BOOT_ID} ({error.strerror}): set --boot-id.") from error
