"""The checks after the chaos, made from outside the agents."""

import os
import signal
import time
from collections import Counter
from contextlib import suppress

import libvirt

from chaos.audit import Json, condition
from chaos.orders import CONFIRMED_OFF
from chaos.stage import DRIVERS, Footprint, Stage, Vm
from lab.processes import last_lines

QUIET_LIMIT_S = 60.0
"""How long after the last fault everything must be correct; the agents relist the API every 30 s."""
COUNTED_LIMIT_S = 120.0
"""How long after that the Hypervisors may show old counts: a report of a host, and the manager's list after it."""
POLL_S = 1.0
LEAK = Footprint(threads=4, descriptors=24, rss_mib=16.0)
"""How much an agent's resources may grow from its first quiet phase to its last: pools fill, and caches too.

Connections to libvirt are opened on demand, up to 14 more than at first, and closed after idle time.
"""

SHOWN = {
    libvirt.VIR_DOMAIN_RUNNING: "Running",
    libvirt.VIR_DOMAIN_BLOCKED: "Running",
    libvirt.VIR_DOMAIN_PAUSED: "Paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "ShuttingDown",
    libvirt.VIR_DOMAIN_SHUTOFF: "Stopped",
    libvirt.VIR_DOMAIN_CRASHED: "Crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "Suspended",
}
# Final reasons, by the desired power state: the checks do not wait for a change.
LASTING = {"Completed", "Failed", "Held", "SuspendedByGuest", "CrashedPreserved", "ShutdownTimedOut"}
# Reasons for which a VM is started nowhere until somebody says where.
NOWHERE = {"HandoverUnconfirmed", "SavedElsewhere", "MigratedAway", "RunsElsewhere"}
LEFT_BEHIND_LOOKS = 3
"""libvirt has lost a QEMU if it runs and libvirt reports its domain as off, in this many observations."""
MEANS = {"Running": {"Running"}, "Paused": {"Paused"}, "Stopped": {"Stopped", "Saved", "Crashed"}}


class NotRightError(Exception):
    """A check failed."""


def heal(stage: Stage) -> None:
    """Repair what the faults have left and what agents cannot correct."""
    for vm in stage.vms:
        for guest in vm.guests.values():
            if guest.has_disk:
                guest.free_disk()
    for node in DRIVERS:
        if "maintenance" in stage.hypervisor(node).get(
            "spec", {}
        ):  # the API server did not answer when it was to be ended
            stage.declare(node, None)
    objects = stage.objects()
    for vm in stage.vms:
        if vm.name not in objects:  # its deletion succeeded, its creation did not
            stage.create(vm, {"nodeName": vm.node, "powerState": "Running"})
        elif objects[vm.name]["spec"].get("nodeName") != vm.node:
            stage.patch(vm, {"spec": {"nodeName": vm.node}})


class Host:
    """The administrator of the hosts in the quiet phase, who knows where every VM runs."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._lost: Counter[int] = Counter()

    def look_after(self, objects: dict[str, Json], domains: dict[tuple[str, str], tuple[int, int, bool]]) -> None:
        """Bind each VM to the node where it runs, or where it ran last, and end duplicate QEMUs."""
        names = {str(vm.uuid): vm.name for vm in self._stage.vms}
        for run in self._stage.runs.alive():
            known = domains.get((run.node, names[run.uuid]))
            off = known is not None and known[0] == libvirt.VIR_DOMAIN_SHUTOFF
            self._lost[run.pid] = self._lost[run.pid] + 1 if off else 0
            if self._lost[run.pid] >= LEFT_BEHIND_LOOKS:
                _kill(run.pid)
        for vm in self._stage.vms:
            if vm.moves:
                self._look_after(vm, objects[vm.name], domains)

    def _look_after(self, vm: Vm, known: Json, domains: dict[tuple[str, str], tuple[int, int, bool]]) -> None:
        runs = self._stage.runs.of(vm.uuid)
        if len(runs) > 1:
            for run in sorted(runs, key=lambda run: (run.node == vm.node, -run.begin_s))[:-1]:
                _kill(run.pid)
        elif runs and runs[0].node != vm.node:
            self._bind(vm, runs[0].node)
        elif not runs and (reason := condition(known).get("reason")) in NOWHERE:
            self._resolve(vm, str(reason), known["status"].get("nodeName", ""), domains)

    def _resolve(
        self, vm: Vm, reason: str, reporter: str, domains: dict[tuple[str, str], tuple[int, int, bool]]
    ) -> None:
        """Confirm where the VM may be started, because it is off on both nodes."""
        if reason == "RunsElsewhere":
            if entry := self._stage.runs_elsewhere(vm, vm.node):
                confirmed = f"{entry['nodeName']} {entry['since']}"
                self._stage.patch(vm, {"metadata": {"annotations": {CONFIRMED_OFF: confirmed}}})
            return
        saved = [node for node in vm.guests if domains.get((node, vm.name), (0, 0, False))[2]]
        if reason == "SavedElsewhere" and vm.node in saved:
            with self._stage.domain(vm, vm.node) as domain:
                domain.managedSaveRemove()
        elif reason == "SavedElsewhere" and saved:
            self._bind(vm, saved[0])
        elif reporter in vm.guests and reporter != vm.node:
            self._bind(vm, reporter)
        elif reason == "SavedElsewhere":  # whoever removes a save does not thereby say that it may be started
            by_hand = self._stage.own_call("virDomainCreateWithFlags", vm, vm.node)
            with self._stage.domain(vm, vm.node) as domain, by_hand:
                domain.createWithFlags(0)

    def _bind(self, vm: Vm, node: str) -> None:
        if node != vm.node:
            vm.node = node
            self._stage.patch(vm, {"spec": {"nodeName": node}})


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def until_right(stage: Stage) -> float:
    """Wait until everything is correct and nothing is written any more; returns the seconds. Raises NotRightError."""
    for name, program in stage.programs.items():
        if failed := stage.errors(name):
            raise NotRightError(f"{program.name} has failed, {len(failed)} times; first: {failed[0]}")
        if not program.running:
            raise NotRightError(
                f"{program.name} has ended by itself; the end of {program.log}:\n{last_lines(program.log)}"
            )
    host = Host(stage)
    begin_s = time.monotonic()
    before: dict[str, str] = {}
    right_s: float | None = None
    while True:
        objects, domains = stage.objects(), stage.domains()
        wrong = {vm.name: why for vm in stage.vms if (why := _wrong(vm, objects[vm.name], domains))}
        wrong |= {node: why for node in DRIVERS if (why := what_is_wrong_with_host(stage.hypervisor(node)))}
        versions = {name: vm["metadata"]["resourceVersion"] for name, vm in objects.items()}
        now_s = time.monotonic() - begin_s
        right_s = None if wrong else right_s if right_s is not None else now_s
        if right_s is not None and versions == before:
            return right_s
        if now_s > QUIET_LIMIT_S:
            told = "\n".join(f"  {name}: {why}" for name, why in sorted(wrong.items()))
            raise NotRightError(f"after {QUIET_LIMIT_S:g} s of quiet:\n{told or '  something is still written'}")
        before = versions
        host.look_after(objects, domains)
        time.sleep(POLL_S)


def _wrong(vm: Vm, known: Json, domains: dict[tuple[str, str], tuple[int, int, bool]]) -> str | None:
    if known["spec"].get("nodeName") != vm.node:
        return f"it is bound to {known['spec'].get('nodeName')}, and not to {vm.node}"
    if vm.moves and domains[vm.other_node, vm.name][0] != libvirt.VIR_DOMAIN_SHUTOFF:
        return f"it runs on {vm.other_node}, and is bound to {vm.node}"
    return what_is_wrong(known, domains.get((vm.node, vm.name)))


def what_is_wrong(vm: Json, domain: tuple[int, int, bool] | None) -> str | None:
    """What is wrong with an object's status; None if it is true and no action is due."""
    if domain is None:
        return "its domain is not defined"
    status, ready, shown = vm.get("status", {}), condition(vm), _shown(*domain)
    if not ready:
        return f"libvirt says {shown}, and there is no status yet"
    told = f"{status['powerState']}, {ready.get('reason')}: {ready.get('message')}"
    if status["powerState"] != shown:
        return f"libvirt says {shown}, the status {told}"
    if not status["observedGeneration"] == ready["observedGeneration"] == vm["metadata"]["generation"]:
        return f"generation {vm['metadata']['generation']}, but told is {status['observedGeneration']}: {told}"
    wanted = vm["spec"].get("powerState")
    return None if _is_rest(wanted, ready["reason"], shown) else f"{wanted} is wanted: {told}"


def until_counted(stage: Stage) -> None:
    """Wait until the Hypervisors show what each host has, and no VM as running elsewhere. Raises NotRightError.

    An agent writes its counts at most every 30 s, so this is checked once, after the last round.
    """
    deadline_s = time.monotonic() + COUNTED_LIMIT_S
    while wrong := _wrong_counts(stage):
        if time.monotonic() > deadline_s:
            raise NotRightError(f"the Hypervisors are wrong: {wrong}")
        time.sleep(POLL_S)


def _wrong_counts(stage: Stage) -> dict[str, str]:
    """What is wrong with the counts, by node."""
    domains, wrong = stage.domains(), {}
    for node in DRIVERS:
        bound = {vm.name for vm in stage.vms if vm.node == node}
        others = [state for (there, name), (state, _, _) in domains.items() if there == node and name not in bound]
        running = sum(state != libvirt.VIR_DOMAIN_SHUTOFF for state in others)
        if why := wrong_counts_of_host(
            stage.hypervisor(node)["status"], vms=len(bound), others=len(others), running=running
        ):
            wrong[node] = why
    return wrong


def wrong_counts_of_host(status: Json, *, vms: int, others: int, running: int) -> str | None:
    """What is wrong with the counts of a host that has domains of `vms` objects, and `others`; None: nothing."""
    unmanaged = status["unmanaged"]
    shown = status["domains"]["total"], status["virtualMachines"]["total"], unmanaged["total"], unmanaged["running"]
    true = vms + others, vms, others, running
    if shown != true:
        return f"domains, VirtualMachines, unmanaged and running unmanaged are {true}, and the status shows {shown}"
    return f"runsElsewhere is {status['runsElsewhere']}" if status.get("runsElsewhere") else None


def what_is_wrong_with_host(hypervisor: Json) -> str | None:
    """What is wrong with a Hypervisor after a maintenance or a silence; None: nothing.

    Its counts are not checked, because the agent writes them at most every 30 s.
    """
    status, ready = hypervisor.get("status", {}), condition(hypervisor)
    if status.get("observedGeneration") != hypervisor["metadata"]["generation"]:
        return f"generation {hypervisor['metadata']['generation']}, but told is {status.get('observedGeneration')}"
    if ready.get("reason") != "Active":
        return f"{ready.get('reason')}: {ready.get('message')}"
    if "maintenance" in status or condition(hypervisor, "Quiesced"):
        return "the maintenance has ended, and the status still shows it"
    return None


def _shown(state: int, reason: int, saved: bool) -> str:  # noqa: FBT001 - it is one of three that libvirt tells
    """The power state that the status must report for this state of a domain."""
    if (state, reason) in {
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED),
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED),
    }:
        return "Crashed"
    return "Saved" if saved and state == libvirt.VIR_DOMAIN_SHUTOFF else SHOWN[state]


def _is_rest(wanted: str | None, reason: str, shown: str) -> bool:
    """Whether this is final: no further action follows."""
    if wanted is None:
        return reason == "Observed"
    return (reason == "InSync" and shown in MEANS[wanted]) or reason in LASTING


def leaks(footprints: dict[int, list[tuple[float, Footprint]]]) -> list[str]:
    """The resources that grew in processes (by process id) that were measured at least three times."""
    found = []
    for pid, prints in footprints.items():
        first, last = prints[0][1], prints[-1][1]
        grown = Footprint(
            last.threads - first.threads, last.descriptors - first.descriptors, last.rss_mib - first.rss_mib
        )
        too_much = grown.threads > LEAK.threads or grown.descriptors > LEAK.descriptors or grown.rss_mib > LEAK.rss_mib
        if len(prints) >= 3 and too_much:
            found.append(f"process {pid} in {len(prints)} rounds: {first} -> {last}")
    return found
