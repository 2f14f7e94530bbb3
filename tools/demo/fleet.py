"""The steps on two hosts: what no single agent can report, and what an administrator does with a whole host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.host import SETTLE_TIMES
from demo.narration import HANG_LIMIT_S, Stage, parts_until_the_end, progress
from lab.agent import Agent
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.manager import Manager

NODE = "node-b"
VM = "app-1"
MANIFEST = f"{VM}.yaml"
NAMESPACE = "virtsync-system"

LEASE_DURATION = "20s"
"""The shortest grace of the manager; an agent's default of 40 s would double the longest step."""


def play(stage: Stage, agent: Agent, guest: Guest) -> None:
    """Play all steps; agent and guest are those of the second host."""
    adoption(stage)
    maintenance(stage, guest)
    agent_dies(stage, agent)


def adoption(stage: Stage) -> None:
    """A domain without an object gets one; then virtsync keeps its power state."""
    stage.step(f"The second host, {NODE}, has a VM that nobody has declared. `virtsync import` writes its manifest.")
    stage.table(f"kvmhost {NODE}")
    stage.virtsync("import", "--node", NODE, "--namespace", "default", into=MANIFEST)
    stage.kubectl("apply", "-f", MANIFEST)
    stage.until(VM, "Running", "Observed")
    stage.do(f"sed -i 's/# powerState/powerState/' {MANIFEST}", lambda: declare(stage.git_folder / MANIFEST))
    stage.kubectl("apply", "-f", MANIFEST)
    stage.until(VM, "Running", "InSync")


def declare(manifest: Path) -> None:
    """Declare the power state that import has written as a comment."""
    manifest.write_text(manifest.read_text().replace("# powerState", "powerState"))


def maintenance(stage: Stage, guest: Guest) -> None:
    """A host is declared in maintenance, becomes quiet, and returns to work."""
    stage.step(f"{NODE} gets new RAM: virtsync shuts its VM down, and starts it when the maintenance has ended.")
    declared = '{"spec":{"maintenance":{"mode":"Shutdown","reason":"new RAM"}}}'
    stage.kubectl("patch", "kvmhost", NODE, "--type=merge", "-p", declared)
    stage.until(VM, "Stopped", "Held", cause="Agent")
    stage.kubectl("wait", "kvmhost", NODE, "--for=condition=Quiesced", f"--timeout={HANG_LIMIT_S}s")
    stage.table(f"kvmhost {NODE}")
    stage.kubectl("patch", "kvmhost", NODE, "--type=merge", "-p", '{"spec":{"maintenance":null}}')
    stage.until(VM, "Running", "InSync")
    guest.wait_until_booted()


def agent_dies(stage: Stage, agent: Agent) -> None:
    """The manager marks what a dead agent has reported; the agent that returns corrects it."""
    stage.step(f"The agent of {NODE} dies, and the manager says so. The VM keeps running. Then the agent returns.")
    stage.running.remove(agent)
    stage.do(f"kill -9 $(pgrep -f 'node-name {NODE}')", agent.kill)
    stage.until(VM, "Running", "AgentUnreachable")
    stage.table("kvmhost", "kvm")
    stage.do(f"virtsync agent --node-name {NODE} --lease-duration {LEASE_DURATION} ... &", agent.launch)
    stage.running.append(agent)
    stage.until(VM, "Running", "InSync")
    stage.kubectl("wait", "kvmhost", NODE, "--for=condition=Ready", f"--timeout={HANG_LIMIT_S}s")
    stage.table("kvmhost")


@contextmanager
def set_up(stage: Stage) -> Iterator[tuple[Agent, Guest]]:
    """Start a second host, with one guest that runs, and a manager; yield the agent and the guest."""
    controlplane, folder = stage.controlplane, stage.folder
    with parts_until_the_end() as parts:
        with progress("a second libvirtd with one QEMU guest"):
            libvirtd = parts.enter_context(Libvirtd(folder / "kvm-b"))
            guest = libvirtd.define(VM)
            guest.start()
        with progress(f"the agent of {NODE}, which renews a Lease that is valid for {LEASE_DURATION} (default: 40 s)"):
            controlplane.kubectl("create", "namespace", NAMESPACE)
            settings = SETTLE_TIMES | {"lease-namespace": NAMESPACE, "lease-duration": LEASE_DURATION}
            agent = Agent(controlplane, libvirtd.uri, NODE, log=folder / "agent-b.log", settings=settings)
            parts.callback(agent.stop)
            agent.start()
            reported = "--for=jsonpath={.status.unmanaged.running}=1"
            controlplane.kubectl("wait", "kvmhost", NODE, reported, f"--timeout={HANG_LIMIT_S}s")
        with progress("the manager, which marks what silent agents have reported"):
            manager = Manager(controlplane, NAMESPACE, "manager-1", log=folder / "manager.log")
            parts.callback(manager.stop)
            manager.start()
        stage.running += [agent, manager]
        yield agent, guest
