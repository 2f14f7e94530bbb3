"""What must hold when the chaos is over, seen from outside the agents."""

import time

import libvirt

from chaos.stage import Footprint, Json, Stage, condition
from lab.processes import last_lines

QUIET_LIMIT_S = 60.0
"""How long after the last fault all must be right; the agents' relist of the API comes every 30 s."""
POLL_S = 1.0
LEAK = Footprint(threads=4, descriptors=8, rss_mib=16.0)
"""What an agent may have more of at its last quiet than at its first: pools that fill, and caches."""

SHOWN = {
    libvirt.VIR_DOMAIN_RUNNING: "Running",
    libvirt.VIR_DOMAIN_BLOCKED: "Running",
    libvirt.VIR_DOMAIN_PAUSED: "Paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "ShuttingDown",
    libvirt.VIR_DOMAIN_SHUTOFF: "Stopped",
    libvirt.VIR_DOMAIN_CRASHED: "Crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "Suspended",
}
# Reasons that last, by what is wanted: there is nothing to wait for.
LASTING = {"Completed", "Failed", "Held", "SuspendedByGuest", "CrashedPreserved", "ShutdownTimedOut"}
MEANS = {"Running": {"Running"}, "Paused": {"Paused"}, "Stopped": {"Stopped", "Saved", "Crashed"}}


class NotRightError(Exception):
    """What must hold does not."""


def heal(stage: Stage) -> None:
    """What outlasts the faults and cannot become right by itself."""
    for vm in stage.vms:
        if vm.guest and vm.guest.has_disk:
            vm.guest.free_disk()
    objects = stage.objects()
    for vm in stage.vms:
        if vm.name not in objects:  # its deletion succeeded, its creation did not
            stage.create(vm, {"nodeName": vm.node, "powerState": "Running"})
        elif objects[vm.name]["spec"].get("nodeName") != vm.node:
            stage.patch(vm, {"spec": {"nodeName": vm.node}})


def until_right(stage: Stage) -> float:
    """Wait until all is right and nothing is written any more; after how many seconds. Raises NotRightError."""
    for node, agent in stage.agents.items():
        if failed := [
            line["event"]
            for line in agent.log_lines()
            if line["level"] == "error" and line["logger"].startswith("controller")
        ]:
            raise NotRightError(f"the agent of {node} has failed, {len(failed)} times; first: {failed[0]}")
        if not agent.running:
            raise NotRightError(
                f"the agent of {node} has ended by itself; the end of {agent.log}:\n{last_lines(agent.log)}"
            )
    begin_s = time.monotonic()
    before: dict[str, str] = {}
    right_s: float | None = None
    while True:
        objects, domains = stage.objects(), stage.domains()
        wrong = {vm.name: why for vm in stage.vms if (why := what_is_wrong(objects[vm.name], domains.get(vm.name)))}
        versions = {name: vm["metadata"]["resourceVersion"] for name, vm in objects.items()}
        now_s = time.monotonic() - begin_s
        right_s = None if wrong else right_s if right_s is not None else now_s
        if right_s is not None and versions == before:
            return right_s
        if now_s > QUIET_LIMIT_S:
            told = (
                "\n".join(f"  {name}: {why}" for name, why in sorted(wrong.items())) or "  something is still written"
            )
            raise NotRightError(f"after {QUIET_LIMIT_S:g} s of quiet:\n{told or '  something is still written'}")
        before = versions
        time.sleep(POLL_S)


def what_is_wrong(vm: Json, domain: tuple[int, int, bool] | None) -> str | None:
    """What is wrong with what an object tells; None when it is true and needs no more to be done."""
    if domain is None:
        return "its domain is not defined"
    state, reason, saved = domain
    shown = "Saved" if saved and state == libvirt.VIR_DOMAIN_SHUTOFF else SHOWN[state]
    if (state, reason) in {
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED),
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED),
    }:
        shown = "Crashed"
    status, ready, wanted = vm["status"], condition(vm), vm["spec"].get("powerState")
    told = f"{status['powerState']}, {ready.get('reason')}: {ready.get('message')}"
    if status["powerState"] != shown:
        return f"libvirt says {shown}, the status {told}"
    if not status["observedGeneration"] == ready["observedGeneration"] == vm["metadata"]["generation"]:
        return f"generation {vm['metadata']['generation']}, but told is {status['observedGeneration']}: {told}"
    if ready["reason"] == "Observed" and wanted is None:
        return None
    if ready["reason"] == "InSync" and shown in MEANS.get(str(wanted), set()):
        return None
    return None if wanted and ready["reason"] in LASTING else f"{wanted} is wanted: {told}"


def leaks(footprints: dict[int, list[Footprint]]) -> list[str]:
    """What has grown in agents (by process id) that have been seen at least three times."""
    found = []
    for pid, prints in footprints.items():
        first, last = prints[0], prints[-1]
        grown = Footprint(
            last.threads - first.threads, last.descriptors - first.descriptors, last.rss_mib - first.rss_mib
        )
        too_much = grown.threads > LEAK.threads or grown.descriptors > LEAK.descriptors or grown.rss_mib > LEAK.rss_mib
        if len(prints) >= 3 and too_much:
            found.append(f"agent {pid} in {len(prints)} rounds: {first} -> {last}")
    return found
