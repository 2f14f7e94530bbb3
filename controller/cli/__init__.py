"""The command `virtsync`. Each of its subcommands has its own module."""

from __future__ import annotations

import click

from controller import __version__
from controller.cli import agent, check, enroll, import_, manager, vm
from controller.cli.program import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="virtsync")
def main() -> None:
    """Keep libvirt VMs in the power state that their VirtualMachine objects in Kubernetes request.

    One agent runs on each node, and one or two managers run in the cluster. For their options, run:
    virtsync agent --help, virtsync manager --help. virtsync import writes manifests for domains that have no
    VirtualMachine yet. virtsync check shows what an agent needs on a host, and whether it is there. virtsync enroll
    creates the identity of the agent of a host that is not a node of the cluster.
    """


main.add_command(agent.agent)
main.add_command(check.check)
main.add_command(enroll.enroll)
main.add_command(import_.import_)
main.add_command(manager.manager)
main.add_command(vm.vm)
