"""How the manager marks VMs that have no node, while the API server refuses some of the marks."""

from types import SimpleNamespace
from typing import Any

from controller.api.virtualmachine import VirtualMachine
from controller.manager.metrics import Metrics
from controller.manager.sweep import Sweep
from controller.runtime.errors import Transient
from tests.fleet.hosts import in_sync, vm


def unbound(name: str) -> VirtualMachine:
    """A VM that the agent of node a has reported, and whose spec.nodeName was removed."""
    return in_sync(vm("", name=name, reporter="a"))


def test_a_vm_without_a_node_that_cannot_be_marked_does_not_keep_the_others_from_being_marked() -> None:
    marked: list[str] = []

    def patch_vm(of: VirtualMachine, _status: object) -> None:
        if of.key.name == "web-9":
            raise Transient("the API server answered 500: failed calling webhook")
        marked.append(of.key.name)

    requests: Any = SimpleNamespace(patch_vm=patch_vm)
    recorder: Any = SimpleNamespace(record=lambda *_: None)
    sweep = Sweep(requests, recorder, Metrics(), namespace="virtsync", leads=lambda: True)
    sweep._without_node = [unbound("web-1"), unbound("web-2"), unbound("web-9")]
    for _ in range(3):
        sweep._mark()
    assert sorted(marked) == ["web-1", "web-2"]
    assert [one.key.name for one in sweep._without_node] == ["web-9"], "the next look tries it again"
