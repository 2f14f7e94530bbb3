"""The commands of docs/operations.md do what they say, as typed, on a real API server."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from lab.controlplane import ControlPlane
from tests.documented import OPERATIONS, commands

LONG_AGO = "2026-11-26T08:20:13Z"

Json = dict[str, Any]


class Terminal:
    """A shell in which kubectl is an administrator's; and VMs of two namespaces on a node of the test's own."""

    def __init__(self, controlplane: ControlPlane, folder: Path) -> None:
        self._controlplane = controlplane
        self._env = os.environ | {
            "KUBECONFIG": str(controlplane.kubeconfig),
            "KUBECACHEDIR": str(folder),
            "PATH": f"{controlplane.assets}:{os.environ['PATH']}",
        }
        self.node = f"documented-{uuid4().hex[:8]}"
        self.namespaces = [f"{self.node}-{letter}" for letter in "ab"]
        for namespace in self.namespaces:
            self.kubectl("create", "namespace", namespace)

    def kubectl(self, *args: str, manifest: Json | None = None) -> str:
        return self._controlplane.kubectl(*args, input=json.dumps(manifest) if manifest else None).stdout

    def type(self, command: str) -> None:
        """Run a command of the document, with this test's node and namespace in the place of those that it names."""
        command = re.sub("node-[ab]", self.node, command).replace(" kvm web-1 ", f" kvm -n {self.namespaces[0]} web-1 ")
        done = subprocess.run(["bash", "-ec", command], env=self._env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"

    def create(self, namespace: str, name: str, node: str, status: Json | None = None) -> None:
        vm = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": name}}
        self.kubectl("create", "-n", namespace, "-f", "-", manifest=vm | {"spec": {"nodeName": node}})
        if status:
            patch = ("patch", "kvm", name, "-n", namespace, "--type=merge", "--subresource=status")
            self.kubectl(*patch, "--patch-file=/dev/stdin", manifest={"status": status})

    def annotations(self) -> dict[str, Json]:
        """Those of each VM in the test's namespaces, by namespace and name."""
        found = {}
        for namespace in self.namespaces:
            for vm in json.loads(self.kubectl("get", "kvm", "-n", namespace, "-o", "json"))["items"]:
                found[f"{namespace[-1]}/{vm['metadata']['name']}"] = vm["metadata"].get("annotations", {})
        return found


@pytest.fixture
def terminal(crd: ControlPlane, tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(crd, tmp_path)
    yield terminal
    for namespace in terminal.namespaces:
        terminal.kubectl("delete", "kvm", "--all", "-n", namespace)
    terminal.kubectl("delete", "kvmhost", "--ignore-not-found", terminal.node)


def test_a_hold_of_one_vm_is_set_and_released(terminal: Terminal) -> None:
    terminal.create(terminal.namespaces[0], "web-1", terminal.node)
    hold, release = re.findall(r"`(kubectl annotate kvm web-1 [^`]*)`, and `([^`]*)` when done", OPERATIONS)[0]

    terminal.type(hold)
    assert terminal.annotations() == {"a/web-1": {"hold.virtsync.dev/me": "new disk"}}
    terminal.type(f"kubectl annotate kvm web-1 {release}")
    assert terminal.annotations() == {"a/web-1": {}}


@pytest.mark.parametrize(
    ("heading", "declared"),
    [
        ("Service a host", {"mode": "Shutdown", "reason": "new RAM"}),
        ("While a node has no agent", {"mode": "Hold", "reason": "check first"}),
    ],
)
def test_maintenance_of_a_host_is_declared_and_ended(terminal: Terminal, heading: str, declared: Json) -> None:
    kind = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "Hypervisor", "metadata": {"name": terminal.node}}
    terminal.kubectl("create", "-f", "-", manifest=kind)
    declare, end = (command for command in commands(heading) if command.startswith("kubectl patch kvmhost"))

    def spec() -> Json:
        found: dict[str, Json] = json.loads(terminal.kubectl("get", "kvmhost", terminal.node, "-o", "json"))
        return found.get("spec", {})

    terminal.type(declare)
    assert spec() == {"maintenance": declared}
    terminal.type(end)
    assert spec() == {}


def test_everything_is_stopped_and_only_that_goes_on_again(terminal: Terminal) -> None:
    section = OPERATIONS.partition("\n## Stop everything\n")[2].partition("\n## ")[0]
    stop, go_on = re.findall(r"^\$ (for host in .*)$", section, re.MULTILINE)
    kind = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "Hypervisor", "metadata": {"name": terminal.node}}
    others = {"name": f"{terminal.node}-ram"}
    for one in (kind, kind | {"metadata": others}):
        terminal.kubectl("create", "-f", "-", manifest=one)

    def maintenance(name: str) -> Json:
        found: dict[str, dict[str, Json]] = json.loads(terminal.kubectl("get", "kvmhost", name, "-o", "json"))
        return found.get("spec", {}).get("maintenance", {})

    terminal.type(stop)
    assert [maintenance(name) for name in (terminal.node, others["name"])] == [
        {"mode": "Hold", "reason": "stop everything"}
    ] * 2
    terminal.type(
        stop.replace("stop everything", "new RAM").replace("kvmhost -o name", f"kvmhost {others['name']} -o name")
    )
    terminal.type(go_on)
    assert maintenance(terminal.node) == {}
    assert maintenance(others["name"]) == {"mode": "Hold", "reason": "new RAM"}
    patch = json.dumps({"spec": {"maintenance": None}})
    terminal.kubectl("patch", "kvmhost", others["name"], "--type=merge", "-p", patch)
    terminal.kubectl("delete", "kvmhost", others["name"])


def reported(reason: str, node: str, **times: str) -> Json:
    states = {"Ready": "False", "Stalled": "True"}
    conditions = [
        {"type": type_, "status": status, "reason": reason, "message": "So it is.", "lastTransitionTime": LONG_AGO}
        for type_, status in states.items()
    ]
    return {"nodeName": node, "conditions": conditions, **times}


def test_one_command_vouches_for_all_vms_of_a_machine_and_for_no_other(terminal: Terminal) -> None:
    first, second = terminal.namespaces
    unconfirmed = reported("HandoverUnconfirmed", terminal.node, runTransitionTime="2026-11-26T08:00:01Z")
    terminal.create(first, "web-1", terminal.node, unconfirmed)
    terminal.create(second, "moved", "node-b", unconfirmed)
    # The report of an older version has no other time than this.
    older = reported("HandoverUnconfirmed", terminal.node, powerStateTransitionTime="2026-11-26T07:00:01Z")
    terminal.create(second, "older", terminal.node, older)
    terminal.create(
        second, "of-another", "node-b", reported("HandoverUnconfirmed", "node-c", runTransitionTime=LONG_AGO)
    )
    terminal.create(second, "saved", "node-b", reported("SavedElsewhere", terminal.node, runTransitionTime=LONG_AGO))
    terminal.create(second, "fresh", "node-b")
    one, every = commands("Vouch for a VM")

    terminal.type(every)
    vouched = {"virtsync.dev/confirmed-off": f"{terminal.node} 2026-11-26T08:00:01Z"}
    assert terminal.annotations() == {
        "a/web-1": vouched,
        "b/moved": vouched,
        "b/older": {"virtsync.dev/confirmed-off": f"{terminal.node} 2026-11-26T07:00:01Z"},
        "b/of-another": {},
        "b/saved": {},
        "b/fresh": {},
    }
    terminal.type(one)
    assert terminal.annotations()["a/web-1"] == {"virtsync.dev/confirmed-off": f"{terminal.node} {LONG_AGO}"}
