"""A control plane with VMs and hosts, and a manager that serves the page about them."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from browser.objects import Host, Vm, create
from controller.kube.client import load
from lab.controlplane import ControlPlane
from lab.manager import Manager

NAMESPACE = "virtsync-system"


@contextmanager
def stage(folder: Path, vms: Collection[Vm], hosts: Collection[Host]) -> Iterator[Manager]:
    """Run both in this folder, with these objects."""
    with ControlPlane(folder / "controlplane") as controlplane:
        controlplane.install_crds()
        controlplane.kubectl("create", "namespace", NAMESPACE)
        create(controlplane, load(controlplane.kubeconfig), vms, hosts)
        manager = Manager(controlplane, NAMESPACE, "virtsync-manager-7d9c", log=folder / "manager.log")
        try:
            manager.start()
            yield manager
        finally:
            manager.stop()
