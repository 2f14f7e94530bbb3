"""The health that Argo CD shows for live VirtualMachines and Hypervisors, compared with the tables of docs/api.md."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from gitops.application import Application, resource
from lab.guest import Guest
from lab.manager import Manager
from lab.world import World, runs
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
        return self.git.commit({"vm.yaml": self.world.manifest(self.guest, **spec)})

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
    for _ in range(2):
        case.guest.wait_until_booted()
        case.guest.panic()
        case.world.until_off(case.guest, "Crash")


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


def libvirt_unreachable(case: Case) -> None:
    agent = case.world.start_agent()
    case.until_it_runs()
    agent.restart(libvirt_uri="qemu+unix:///system?socket=/nonexistent")


def agent_unreachable(case: Case) -> None:
    agent = case.world.start_agent(lease_namespace=case.world.name, lease_duration="5s")
    case.until_it_runs()
    agent.kill()
    manager = Manager(case.world.controlplane, case.world.name, "m", log=case.world.folder / "manager.log")
    manager.settings |= {}
    manager.start()


REASONS: dict[str, Callable[[Case], None]] = {
    "InSync": in_sync,
    "Observed": observed,
    "Completed": completed,
    "SuspendedByGuest": suspended_by_guest,
    "Settling": settling,
    "ShuttingDown": shutting_down,
    "ShutdownTimedOut": shutdown_timed_out,
    "CrashLoopBackOff": crash_loop,
    "Failed": failed,
    "CrashedPreserved": crashed_preserved,
    "PausedByIOError": paused_by_io_error,
    "DomainNotFound": domain_not_found,
    "DomainConflict": domain_conflict,
    "Held": held,
    "ObserveOnly": observe_only,
}


@pytest.mark.parametrize("reason", REASONS)
def test_argo_cd_shows_a_live_reason_with_the_documented_health(reason: str, case: Case) -> None:
    REASONS[reason](case)
    case.until_shown(reason)
