"""The health that Argo CD shows for live VirtualMachines and Hypervisors, compared with the tables of docs/api.md."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from gitops.application import Application, resource
from gitops.ledger import Row
from lab.guest import Guest
from lab.world import World, is_off, runs
from tests.deploy.reasons import table
from tests.gitops.conftest import Git

Json = dict[str, Any]


@dataclass
class Case:
    """A test's VM, in Git and in Argo CD."""

    world: World
    git: Git
    app: Application
    guest: Guest

    def commit(self, **spec: Any) -> str:
        return self.git.vm(self.guest, **spec)

    def until_it_runs(self, **spec: Any) -> None:
        self.commit(powerState="Running", **spec)
        self.app.create()
        self.world.until(self.guest, runs, "running")

    def until_shown(self, reason: str) -> None:
        """Wait until Argo CD shows the reason with the health that is documented for it."""
        health, words = table()[reason], f"{reason}: "

        def shown(app: Json) -> bool:
            found = resource(app, self.guest.name).get("health", {})
            return found.get("status") == health and str(found.get("message", "")).startswith(words)

        self.app.until(shown, f"{health} with {reason}")


@pytest.fixture
def case(world: World, git: Git, app: Application) -> Case:
    return Case(world, git, app, world.define())


def observed(case: Case) -> None:
    case.world.start_agent()
    case.commit()
    case.app.create()


def in_sync(case: Case) -> None:
    case.world.start_agent()
    case.until_it_runs()


def completed(case: Case) -> None:
    case.world.start_agent()
    case.until_it_runs(restartPolicy="OnFailure")
    case.guest.wait_until_booted()
    case.guest.poweroff()


def suspended_by_guest(case: Case) -> None:
    case.world.start_agent()
    case.until_it_runs(restartPolicy="Never")
    case.guest.wait_until_booted()
    case.guest.suspend_to_ram()


def settling(case: Case) -> None:
    case.world.start_agent(settle_power="60s")
    case.until_it_runs()
    case.world.virsh("destroy", case.guest.name)


def shutting_down(case: Case) -> None:
    case.world.start_agent()
    case.until_it_runs()
    case.guest.wait_until_booted()
    case.guest.ignore_power_button()
    case.commit(powerState="Stopped")


def shutdown_timed_out(case: Case) -> None:
    case.world.start_agent(acpi_resend="1s")
    case.until_it_runs()
    case.guest.wait_until_booted()
    case.guest.ignore_power_button()
    case.commit(powerState="Stopped", shutdown={"mode": "Graceful", "gracePeriodSeconds": 1})


def crash_loop(case: Case) -> None:
    case.world.start_agent(backoff_first="60s")
    case.until_it_runs()
    case.guest.kill()
    case.world.until_off(case.guest, "Crash")
    case.world.until(case.guest, runs, "restarted")
    case.guest.kill()


def start_failed(case: Case) -> None:
    case.guest = case.world.define("disk", disk=True)
    case.world.libvirtd.run_inside("rm", f"{case.guest._disk_folder}/disk.img")
    case.world.start_agent(backoff_first="60s")
    case.commit(powerState="Running")
    case.app.create()


def failed(case: Case) -> None:
    case.world.start_agent()
    case.until_it_runs(restartPolicy="Never")
    case.guest.wait_until_booted()
    case.guest.panic()


def crashed_preserved(case: Case) -> None:
    case.guest = case.world.define("preserved", on_crash="preserve")
    failed(case)


def paused_by_io_error(case: Case) -> None:
    case.guest = case.world.define("disk", disk=True)
    case.world.start_agent(backoff_first="60s")
    case.until_it_runs()
    case.guest.wait_until_booted()
    case.guest.fill_disk()


def domain_not_found(case: Case) -> None:
    case.world.start_agent()
    case.commit(domain={"name": "nowhere"}, powerState="Running")
    case.app.create()


def domain_conflict(case: Case) -> None:
    case.world.start_agent()
    older = case.world.manifest(case.guest) | {"metadata": {"name": "older"}}
    older["spec"]["domain"] = {"name": case.guest.name}
    case.world.kubectl("create", "-f", "-", manifest=older)
    case.world.kubectl("wait", "kvm/older", "--for=condition=Ready", "--timeout=60s")
    # The API server counts the age in whole seconds.
    case.world.outlast_settling()
    case.commit(powerState="Running")
    case.app.create()


def held(case: Case) -> None:
    case.world.start_agent()
    case.until_it_runs()
    case.world.kubectl("annotate", "kvm", case.guest.name, "hold.virtsync.dev/ann=backup")
    case.world.virsh("destroy", case.guest.name)


def observe_only(case: Case) -> None:
    case.world.start_agent(observe_only="")
    case.commit(powerState="Running")
    case.app.create()


def domain_replaced(case: Case) -> None:
    case.world.start_agent()
    case.commit(powerState="Stopped")
    case.app.create()
    case.world.until(case.guest, is_off, "off")
    case.guest.remove()
    case.world.until_ready(case.guest, "DomainNotFound")
    case.guest = case.world.define()


def saved_elsewhere(case: Case) -> None:
    case.world.start_agent()
    case.until_it_runs()
    case.world.virsh("save", case.guest.name, str(case.world.libvirtd.guests_inside / f"{case.guest.name}.save"))


def pending(case: Case) -> None:
    case.world.start_agent()
    case.commit(nodeName="nowhere", powerState="Running")
    case.app.create()


def libvirt_unreachable(case: Case) -> None:
    agent = case.world.start_agent()
    case.until_it_runs()
    agent.kill()
    agent.launch(libvirt_uri=f"qemu+unix:///system?socket={case.world.folder}/nothing")


REASONS: dict[str, Callable[[Case], None]] = {
    "InSync": in_sync,
    "Observed": observed,
    "Completed": completed,
    "SuspendedByGuest": suspended_by_guest,
    "Settling": settling,
    "ShuttingDown": shutting_down,
    "Pending": pending,
    "StartFailed": start_failed,
    "CrashLoopBackOff": crash_loop,
    "PausedByIOError": paused_by_io_error,
    "Failed": failed,
    "DomainNotFound": domain_not_found,
    "DomainReplaced": domain_replaced,
    "DomainConflict": domain_conflict,
    "ShutdownTimedOut": shutdown_timed_out,
    "CrashedPreserved": crashed_preserved,
    "SavedElsewhere": saved_elsewhere,
    "LibvirtUnreachable": libvirt_unreachable,
    "Held": held,
    "ObserveOnly": observe_only,
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_live_reason_has_the_health_that_is_documented(reason: str, case: Case) -> None:
    REASONS[reason](case)
    case.until_shown(reason)


def test_a_vm_whose_agent_is_gone_is_degraded_until_the_agent_is_back(case: Case) -> None:
    world = case.world
    agent = world.start_agent(lease_namespace=world.name, lease_duration="20s")
    case.until_it_runs()
    case.until_shown("InSync")
    world.start_manager()
    agent.kill()
    case.until_shown("AgentUnreachable")
    agent.start()
    case.until_shown("InSync")


class Host:
    """The Hypervisor of a test, in Git and in Argo CD."""

    def __init__(self, world: World, git: Git, app: Application) -> None:
        self.world = world
        self.git = git
        self.app = app

    def commit(self, **spec: Any) -> str:
        meta = {"name": self.world.node}
        manifest = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "Hypervisor", "metadata": meta, "spec": spec}
        return self.git.commit({"host.yaml": manifest})

    def until_shown(self, health: str) -> str:
        return self.app.until_health_of(self.world.node, health, kind="Hypervisor")


def test_a_maintenance_in_git_is_suspended_once_the_host_is_quiet(
    world: World, git: Git, app: Application, row: Callable[[str], Row]
) -> None:
    host = Host(world, git, app)
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until(guest, runs, "running")
    host.commit()
    app.create()
    assert host.until_shown("Healthy").startswith("Active: ")
    host.commit(maintenance={"mode": "Hold", "reason": "new RAM"})
    told = row("a commit: maintenance, mode Hold, of a Hypervisor")
    assert host.until_shown("Suspended").startswith("Maintenance: ")
    told.engine_did("Suspended")
    world.virsh("destroy", guest.name)
    world.until_ready(guest, "Held")
    host.commit()
    told = row("a commit without the maintenance")
    assert host.until_shown("Healthy").startswith("Active: ")
    told.engine_did("Healthy")
    world.until(guest, runs, "running")
    told.vm_did("runs again")


def test_a_host_that_only_observes_is_healthy(world: World, git: Git, app: Application) -> None:
    host = Host(world, git, app)
    world.start_agent(observe_only="")
    host.commit()
    app.create()
    assert host.until_shown("Healthy").startswith("ObserveOnly: ")


def test_a_host_without_libvirt_is_degraded(world: World, git: Git, app: Application) -> None:
    host = Host(world, git, app)
    world.new_agent(uri=f"qemu+unix:///system?socket={world.folder}/nothing").launch()
    host.commit()
    app.create()
    assert host.until_shown("Degraded").startswith("LibvirtUnreachable: ")


def test_a_host_without_an_agent_is_progressing(world: World, git: Git, app: Application) -> None:
    host = Host(world, git, app)
    host.commit()
    app.create()
    host.until_shown("Progressing")
    world.controlplane.kubectl("delete", "kvmhost", world.node)
