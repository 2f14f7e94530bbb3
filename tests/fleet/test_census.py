"""Which nodes should have a Lease that this manager can see."""

from datetime import UTC, datetime

from controller.api.hypervisor import Hypervisor, HypervisorStatus, Maintenance, MaintenanceMode
from controller.fleet.census import census, vms_by_node


def host(
    name: str, lease_namespace: str, maintenance: MaintenanceMode | None = None, *, reported: bool = True
) -> Hypervisor:
    return Hypervisor(
        name=name,
        uid=f"uid-{name}",
        generation=1,
        resource_version="1",
        created=datetime(2026, 11, 27, tzinfo=UTC),
        maintenance=Maintenance(maintenance, "new RAM") if maintenance else None,
        status=HypervisorStatus(observed_generation=1 if reported else -1, lease_namespace=lease_namespace),
    )


def test_hosts_of_this_namespace_and_names_that_no_host_has_are_expected() -> None:
    hosts = [host("ours", "here"), host("theirs", "there"), host("without", ""), host("new", "", reported=False)]
    found = census(hosts, vms_by_node(["ours", "theirs", "without", "new", "mistyped", ""]), "here")
    assert found.expected == {"ours", "mistyped"}
    assert found.no_lease_here == {"theirs", "without"}


def test_vms_are_counted_by_node() -> None:
    found = census([host("a", "here")], vms_by_node(["a", "b", "a", ""]), "here")
    assert found.vms == {"a": 2, "b": 1}


def test_hosts_in_maintenance_are_told() -> None:
    hosts = [host("a", "here", MaintenanceMode.SHUTDOWN), host("b", "there", MaintenanceMode.HOLD), host("c", "here")]
    assert census(hosts, {}, "here").maintenance == {"a": "Shutdown", "b": "Hold"}
