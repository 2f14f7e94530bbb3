"""The VMs that are not as wanted, grouped by reason. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from controller.api.clock import duration
from controller.api.conditions import Readiness
from controller.api.virtualmachine import VirtualMachine
from controller.cli.vm.views.words import colored, table
from controller.presentation.vms import NOT_WANTED, OLD_SPEC, TROUBLE, is_outdated, readiness, reason_since
from controller.presentation.words import plain

HEADINGS = ("NAME", "POWER", "DESIRED", "FOR", "NODE", "")


def grouped(vms: Iterable[VirtualMachine]) -> list[tuple[str, list[VirtualMachine]]]:
    """Return VMs by the reason of Ready. The groups that need a person come first, then the larger ones."""
    groups: dict[str, list[VirtualMachine]] = {}
    for vm in vms:
        groups.setdefault(vm.status.reason, []).append(vm)
    for group in groups.values():
        group.sort(key=lambda vm: vm.key)
    return sorted(groups.items(), key=lambda item: (TROUBLE[readiness(item[0])], -len(item[1]), item[0]))


def drift_lines(drifting: Sequence[VirtualMachine], total: int, now: datetime) -> list[str]:
    """Return a table for each reason, and the number of VMs. `total`: how many VMs were looked at."""
    if not drifting:
        return [f"All {total} VMs are as wanted." if total != 1 else "The VM is as wanted."]
    lines: list[str] = []
    for reason, vms in grouped(drifting):
        lines.append(f"{colored(reason)} ({len(vms)}): {NOT_WANTED[readiness(reason)]}")
        lines += [f"  {line}" for line in table([HEADINGS, *(_row(vm, now) for vm in vms)])]
        lines.append("")
    return [*lines, f"{len(drifting)} of {total} VMs {'is' if len(drifting) == 1 else 'are'} not as wanted."]


def _row(vm: VirtualMachine, now: datetime) -> tuple[str, ...]:
    since = reason_since(vm)
    return (
        str(vm.key),
        str(vm.status.power_state),
        str(vm.desired or "-"),
        duration((now - since).total_seconds()) if since else "-",
        plain(vm.node_name) or "-",
        f"({OLD_SPEC})" if is_outdated(vm) and readiness(vm.status.reason) is not Readiness.READY else "",
    )
