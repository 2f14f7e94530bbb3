"""What is tested on which versions of Kubernetes."""

from dataclasses import dataclass
from pathlib import Path

from versions import modules

TESTS = Path(__file__).parents[2] / "tests"
AREAS: dict[str, tuple[str, ...]] = {
    "definitions": (
        "contract/test_api.py",
        "contract/test_events.py",
        "deploy/test_manifests.py",
        "integration/test_crd.py",
        "integration/test_hypervisor_crd.py",
    ),
    "rights": (
        "deploy/test_flowcontrol.py",
        "deploy/test_observe_only.py",
        "deploy/test_rights.py",
        "integration/test_enroll.py",
    ),
    "agent": (
        "integration/test_audit_trail.py",
        "integration/test_changes_of_spec.py",
        "integration/test_hypervisor_object.py",
        "integration/test_lease.py",
        "integration/test_node_lease.py",
        "integration/test_unwanted_stops.py",
        "integration/test_watch.py",
    ),
    "manager": (
        "integration/test_manager.py",
        "integration/test_monitor.py",
        "integration/test_sweep.py",
    ),
    "commands": (
        "integration/test_check.py",
        "integration/test_documented_commands.py",
        "integration/test_kubectl_virtsync.py",
        "integration/test_kubectl_virtsync_writes.py",
    ),
}
"""The files of each column of the table, below tests/."""
AREAS_OF_KUBECTL = ("definitions", "commands")
"""What depends on the version of kubectl too: the rest only sets up its objects with it."""


@dataclass(frozen=True, order=True)
class Pair:
    """A kube-apiserver and a kubectl, by their minor versions, such as `1.35`."""

    server: str
    kubectl: str

    @property
    def areas(self) -> tuple[str, ...]:
        """The areas whose tests run on this pair."""
        return tuple(AREAS) if self.server == self.kubectl else AREAS_OF_KUBECTL


def pairs() -> list[Pair]:
    """Each server with the kubectl of its version, then the oldest and the newest with the kubectl of the other."""
    versions = list(modules.known())
    oldest, newest = versions[0], versions[-1]
    return [*(Pair(version, version) for version in versions), Pair(oldest, newest), Pair(newest, oldest)]
