"""The group `virtsync vm`, which is also the kubectl plugin `kubectl virtsync`. Each command has its own module."""

from __future__ import annotations

import click

from controller.cli.program import PeopleGroup
from controller.cli.vm import drift, history, holds, hosts, maintenance, page, power, status, top


@click.group(cls=PeopleGroup, short_help="Show and change VMs and hosts (also: kubectl virtsync).")
def vm() -> None:
    """Show VMs and hosts: why a VM is as it is, what happens next, and what is not as wanted. Switch and hold VMs.

    The commands use the kubeconfig as kubectl does. Exit code: 0: fine; 1: drift found, or not done; 2: wrong usage, or
    an error.
    """


vm.add_command(status.status)
vm.add_command(drift.drift)
vm.add_command(history.history)
vm.add_command(hosts.hosts)
vm.add_command(top.top)
vm.add_command(page.page)
for command in (power.start, power.stop, power.pause, power.restart, holds.hold, holds.release):
    vm.add_command(command)
vm.add_command(maintenance.maintenance)
