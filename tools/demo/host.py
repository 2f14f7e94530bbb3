"""The steps on one host: web-1 and db-1 are kept on, legacy-1 is only observed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.narration import Stage, git, parts_until_the_end, progress
from demo.witnesses import Witnesses
from lab import LabError
from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.guest import Guest
from lab.libvirtd import Libvirtd

EXAMPLES = Path(__file__).parents[2] / "examples" / "git"
NODE = "node-a"

# By default the agent waits 10 s before it corrects a change, and 15 min after a pause; the demo needs less.
SETTLE_TIMES = {"settle-power": "2s", "settle-pause": "2s"}


def first_sight(stage: Stage) -> None:
    """Three manifests meet three domains: one is off, two run already."""
    stage.step("First sight: Git wants web-1 and db-1 on. web-1 is off; of legacy-1 the status is told, no more.")
    stage.kubectl("apply", "-f", ".")
    stage.until("db-1", "Running", "InSync")
    stage.until("legacy-1", "Running", "Observed")
    stage.until("web-1", "Running", "InSync")
    stage.table()


def vm_dies(stage: Stage, web: Guest) -> None:
    """A crash is told with its cause, and answered at once."""
    stage.step("A VM dies, as by the kernel's OOM killer, and comes back.")
    stage.do("kill -9 $(pgrep -f guest=web-1)", web.kill)
    stage.until("web-1", "Crashed", "Starting", cause="Crash")
    stage.until("web-1", "Running", "InSync")
    stage.table()


def behind_its_back(stage: Stage) -> None:
    """What somebody does on the host is told at once, and put right when they seem to be done."""
    stage.step("Somebody is at work on the host. The status follows at once; virtsync acts when they seem to be done.")
    stage.virsh("destroy", "db-1")
    stage.until("db-1", "Stopped", "Settling", cause="External")
    stage.table()
    stage.until("db-1", "Running", "InSync")
    stage.virsh("suspend", "web-1")
    stage.until("web-1", "Paused", "Settling")
    stage.table()
    stage.until("web-1", "Running", "InSync")


def commits(stage: Stage, web: Guest) -> None:
    """Git switches a VM off, and on again."""
    stage.step("A commit shuts web-1 down, by its power button. The revert of the commit starts it again.")
    web.wait_until_booted()
    manifest = stage.git_folder / "web-1.yaml"
    manifest.write_text(manifest.read_text().replace("powerState: Running", "powerState: Stopped"))
    stage.commit("web-1: off for the night")
    stage.until("web-1", "Stopped", "InSync", cause="Agent")
    stage.table()
    manifest.write_text(manifest.read_text().replace("powerState: Stopped", "powerState: Running"))
    stage.commit('Revert "web-1: off for the night"')
    stage.until("web-1", "Running", "InSync")


def hold(stage: Stage) -> None:
    """While a VM is held, it is only told of."""
    stage.step("Ann holds db-1 for a backup: virtsync tells what happens to it, and does nothing until she lets go.")
    stage.kubectl("annotate", "kvm", "db-1", "hold.virtsync.dev/ann=backup")
    stage.virsh("suspend", "db-1")
    stage.until("db-1", "Paused", "Held")
    stage.table()
    stage.kubectl("annotate", "kvm", "db-1", "hold.virtsync.dev/ann-")
    stage.until("db-1", "Paused", "Settling")
    stage.until("db-1", "Running", "InSync")


def observe_only(stage: Stage, legacy: Guest) -> None:
    """Without powerState a VM is only told of."""
    stage.step("legacy-1 has no powerState: it goes off, and that is its own business.")
    legacy.wait_until_booted()
    stage.do("poweroff   # inside legacy-1", legacy.poweroff)
    stage.until("legacy-1", "Stopped", "Observed", cause="Guest")
    stage.table()


def play(stage: Stage, guests: dict[str, Guest]) -> None:
    """Play all steps, and check that the VM that must not be touched was not."""
    first_sight(stage)
    vm_dies(stage, guests["web-1"])
    behind_its_back(stage)
    commits(stage, guests["web-1"])
    observe_only(stage, guests["legacy-1"])
    hold(stage)
    if any(event.vm == "legacy-1" and event.name == "STARTED" for event in stage.witnesses.events):
        raise LabError("legacy-1 has no powerState, and yet somebody started it.")


@contextmanager
def set_up(folder: Path) -> Iterator[tuple[Stage, dict[str, Guest]]]:
    """Start everything, with two of the three guests running, and stop it at the end."""
    with parts_until_the_end() as parts:
        with progress("an API server that knows VirtualMachines"):
            controlplane = parts.enter_context(ControlPlane(folder / "controlplane"))
            controlplane.install_crds()
        with progress("a libvirtd with three QEMU guests"):
            # A short name, because the paths of sockets must be short.
            libvirtd = parts.enter_context(Libvirtd(folder / "kvm"))
            guests = {name: libvirtd.define(name) for name in ("web-1", "db-1", "legacy-1")}
            guests["db-1"].start()
            guests["legacy-1"].start()
        with progress("a Git repository with three manifests"):
            shutil.copytree(EXAMPLES, folder / "git")
            git(folder / "git", "init")
            git(folder / "git", "add", ".")
            git(folder / "git", "commit", "--message", "Three VMs")
        with progress(f"the agent of {NODE}, its settle times cut down to {SETTLE_TIMES['settle-power']}"):
            agent = Agent(controlplane, libvirtd.uri, NODE, log=folder / "agent.log", settings=SETTLE_TIMES)
            parts.callback(agent.stop)
            agent.start()
        witnesses = parts.enter_context(Witnesses(controlplane, libvirtd))
        yield Stage(folder, controlplane, libvirtd, agent, witnesses), guests
