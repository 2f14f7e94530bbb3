"""The status of one VM in detail, and of many VMs in one line each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

import click

from controller.api.clock import api_time, duration
from controller.api.hypervisor import Hypervisor
from controller.api.names import GROUP, ConditionType, HypervisorConditionType
from controller.api.virtualmachine import Reason, VirtualMachine
from controller.cli.vm.views.prospect import prospect
from controller.cli.vm.views.words import colored, table
from controller.presentation.vms import OLD_SPEC, ONLY_OBSERVED, is_as_wanted, is_outdated, reason_since
from controller.presentation.words import ago, at, plain, since

REASON_PAGE = f"https://{GROUP}/reasons/{{}}/"
"""The page of a reason: docs/reasons, as the site serves it."""
HEADINGS = ("NAME", "POWER", "DESIRED", "REASON", "FOR", "NODE", "HOLDS")


def in_detail(vm: VirtualMachine, host: Hypervisor | str, now: datetime) -> list[str]:
    """Return the lines. `host`: the Hypervisor of its node, or why it is not known."""
    known = host if isinstance(host, Hypervisor) else None
    rows = (
        ("Power", _power(vm, now)),
        ("Desired", _desired(vm)),
        ("Reason", _reason(vm)),
        ("For", _for(reason_since(vm), now) or "-"),
        ("Message", _message(vm)),
        ("Next", prospect(vm, known, now)),
        ("Node", _node(vm, host, now)),
        ("Last stop", _last_stop(vm, now)),
        ("Restarts", str(vm.status.restart_count)),
        ("Holds", _holds(vm, known)),
        ("Domain", _domain(vm)),
        *_more(vm),
    )
    return [click.style(str(vm.key), bold=True), *(f"  {name:<9}  {text}" for name, text in rows)]


def in_a_table(vms: Iterable[VirtualMachine], now: datetime, *, namespaces: bool) -> list[str]:
    """Return one line for each VM. `namespaces`: with a column of the namespaces."""
    return table([headings(namespaces=namespaces), *(vm_row(vm, now, namespaces=namespaces) for vm in vms)])


def headings(*, namespaces: bool) -> tuple[str, ...]:
    """Return the headings of `vm_row`."""
    return ("NAMESPACE", *HEADINGS) if namespaces else HEADINGS


def vm_row(vm: VirtualMachine, now: datetime, *, namespaces: bool) -> tuple[str, ...]:
    """Return the cells of a VM."""
    begun = reason_since(vm)
    row = (
        vm.key.name,
        str(vm.status.power_state),
        str(vm.desired or "-"),
        _reason(vm),
        duration((now - begun).total_seconds()) if begun else "-",
        plain(vm.node_name) or "-",
        ", ".join(plain(hold.holder) for hold in vm.holds) or "-",
    )
    return (vm.key.namespace, *row) if namespaces else row


def summary(vms: Iterable[VirtualMachine]) -> str:
    """Return how many VMs are as wanted."""
    every = list(vms)
    good = sum(map(is_as_wanted, every))
    return f"{good} of {len(every)} VMs are as wanted."


def _desired(vm: VirtualMachine) -> str:
    if vm.misunderstood:
        return f"{vm.desired or '?'} (not understood: {plain(vm.misunderstood)})"
    if vm.desired is None:
        return ONLY_OBSERVED
    return f"{vm.desired} (restartPolicy {vm.restart_policy}, shutdown {vm.shutdown.mode} in {vm.shutdown.grace_s} s)"


def _power(vm: VirtualMachine, now: datetime) -> str:
    status = vm.status
    words = ", ".join(plain(word) for word in (status.libvirt_state, status.libvirt_reason) if word)
    libvirt = f" (libvirt: {words})" if words else ""
    if not status.power_state_transition_time:
        return f"{status.power_state}{libvirt}"
    return f"{status.power_state}{libvirt} since {at(status.power_state_transition_time, now)}"


def _reason(vm: VirtualMachine) -> str:
    return colored(vm.status.reason) + (f" ({OLD_SPEC})" if is_outdated(vm) else "")


def _for(begun: datetime | None, now: datetime) -> str:
    """Return how long a condition has had its reason, with the time: `12m (2026-11-27T10:00:00Z)`; empty: unknown."""
    return f"{duration((now - begun).total_seconds())} ({api_time(begun)})" if begun else ""


def _message(vm: VirtualMachine) -> str:
    ready = vm.status.condition(ConditionType.READY)
    return plain(ready.message) if ready and ready.message else "no agent has reported yet"


def _last_stop(vm: VirtualMachine, now: datetime) -> str:
    stop = vm.status.last_stop
    return f"{stop.cause}, {ago(stop.time, now)}: {plain(stop.message)}" if stop else "none observed"


def _holds(vm: VirtualMachine, host: Hypervisor | None) -> str:
    holds = [plain(str(hold)) for hold in vm.holds]
    if host and host.maintenance:
        holds.append(f"maintenance {host.maintenance.mode} of {host.name} ({plain(host.maintenance.reason)})")
    return ", ".join(holds) or "none"


def _domain(vm: VirtualMachine) -> str:
    found = vm.status.domain
    if not found or not found.name:
        return f"{plain(vm.bound_by)} (not found yet)"
    return f"{plain(found.name)} {found.uuid or ''}".rstrip()


def _node(vm: VirtualMachine, host: Hypervisor | str, now: datetime) -> str:
    if not vm.node_name:
        return "none: spec.nodeName is empty"
    node, reporter = plain(vm.node_name), vm.status.node_name
    moved = "" if reporter in {"", vm.node_name} else f" (the status is from {plain(reporter)})"
    if isinstance(host, str):
        return f"{node}{moved}, {host}"
    lasting = _for(since(host.status.condition(HypervisorConditionType.READY)), now)
    lasting = f" for {lasting}" if lasting else ""
    version = f", virtsync {plain(host.status.agent_version)}" if host.status.agent_version else ""
    return f"{node}{moved}, agent {reason_word(host)}{lasting}{version}"


def _more(vm: VirtualMachine) -> Iterator[tuple[str, str]]:
    """Return where the reason is explained; nothing if the VM is as wanted, or the reason is of a newer version."""
    if not is_as_wanted(vm) and vm.status.reason in set(Reason):
        yield "More", REASON_PAGE.format(vm.status.reason)


def reason_word(host: Hypervisor) -> str:
    """Return the reason of Ready of a host, in a color."""
    return click.style(host.status.reason, fg="green" if host.status.ready else "red")
