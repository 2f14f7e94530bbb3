"""The Hypervisor API, as kubectl and a real API server have it: what it refuses, fills in, stores and shows.

No agent runs here. Where a command needs one, the test writes the status that an agent would have written.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.api.hypervisor import LISTED_LIMIT
from controller.api.hypervisor_codec import hypervisor_status_patch, parse_hypervisor, parse_hypervisor_status
from lab.controlplane import ControlPlane
from tests.integration.test_crd import LONG_AGO, Json, condition, fields, wordings

ROOT = Path(__file__).parents[2]
CRD: dict[str, Any] = yaml.safe_load((ROOT / "deploy/crds/virtsync.dev_hypervisors.yaml").read_text())
SCHEMA: dict[str, Any] = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
UUIDS = [f"4dea22b3-1d52-48f3-8516-{number:012x}" for number in range(LISTED_LIMIT + 1)]


@dataclass(frozen=True)
class Host:
    """A Hypervisor of a test's own, and kubectl for it."""

    controlplane: ControlPlane
    name: str

    def kubectl(self, *args: str, body: Json | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        text = None if body is None else json.dumps(body)
        return self.controlplane.kubectl(*args, input=text, check=check)

    def create(self, spec: object, *args: str, check: bool = True) -> str:
        """Create the Hypervisor; returns what kubectl said of it if it was refused."""
        head = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "Hypervisor", "metadata": {"name": self.name}}
        return self.kubectl("create", "-f", "-", *args, body={**head, "spec": spec}, check=check).stderr

    def get(self) -> Json:
        hypervisor: Json = json.loads(self.kubectl("get", "kvmhost", self.name, "-o", "json").stdout)
        return hypervisor

    def patch(self, body: Json, *args: str, check: bool = True) -> str:
        patch = ("patch", "kvmhost", self.name, "--type=merge", "--patch-file=/dev/stdin", *args)
        return self.kubectl(*patch, body=body, check=check).stderr

    def report(self, status: Json, *, check: bool = True) -> str:
        """Write status as an agent does; returns what kubectl said if it was refused."""
        return self.patch({"status": status}, "--subresource=status", check=check)

    def table(self, *args: str) -> dict[str, str]:
        """The columns of `kubectl get kvmhost` with what they hold for this host, in the order shown."""
        header, row = self.kubectl("get", "kvmhost", self.name, *args).stdout.splitlines()
        starts = [match.start() for match in re.finditer(r"\S+( \S+)*", header)]
        ends = [*starts[1:], None]
        return {header[start:end].strip(): row[start:end].strip() for start, end in zip(starts, ends, strict=True)}


@pytest.fixture
def host(crd: ControlPlane, request: pytest.FixtureRequest) -> Iterator[Host]:
    # Hypervisors have no namespace: what a test leaves behind, all later tests would see.
    name = request.function.__name__.removeprefix("test_").replace("_", "-")[:60].strip("-")
    yield Host(crd, name)
    crd.kubectl("delete", "kvmhost", name, "--ignore-not-found", "--wait=true", "--timeout=60s")


def maintenance(mode: object = "Hold", reason: object = "new RAM") -> Json:
    return {"maintenance": {"mode": mode, "reason": reason}}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            maintenance("Freeze"),
            'spec.maintenance.mode: Unsupported value: "Freeze": supported values: "Hold", "Shutdown"',
        ),
        ({"maintenance": {"reason": "new RAM"}}, "spec.maintenance.mode: Required value"),
        ({"maintenance": {"mode": "Hold"}}, "spec.maintenance.reason: Required value"),
        ({"maintenance": {}}, "spec.maintenance.mode: Required value"),
        (maintenance(reason=""), "spec.maintenance.reason in body should be at least 1 chars long"),
        (maintenance(reason="r" * 257), "spec.maintenance.reason: Too long: may not be more than 256 bytes"),
        (maintenance(reason=7), "spec.maintenance.reason in body must be of type string"),
        ({"maintenance": "Hold"}, "spec.maintenance in body must be of type object"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_wrong_maintenance_is_refused_with_a_sentence(host: Host, spec: Json, message: str) -> None:
    said = host.create(spec, "--dry-run=server", check=False)
    assert f'The Hypervisor "{host.name}" is invalid' in said
    assert any(wording in said for wording in wordings(message)), said


@pytest.mark.parametrize(
    "spec",
    [{}, {"maintenance": None}, maintenance(), maintenance("Shutdown"), maintenance(reason="r" * 256)],
    ids=lambda value: str(value)[:60],
)
def test_its_neighbours_are_accepted(host: Host, spec: Json) -> None:
    assert host.create(spec, "--dry-run=server") == ""


def test_an_unknown_field_of_the_spec_is_an_error(host: Host) -> None:
    said = host.create({"fenced": {"bootID": "b"}}, check=False)
    assert 'strict decoding error: unknown field "spec.fenced"' in said


def test_a_declared_maintenance_can_be_changed_and_removed(host: Host) -> None:
    host.create({})
    host.patch({"spec": maintenance()})
    assert host.table()["MAINTENANCE"] == "Hold"
    host.patch({"spec": maintenance("Shutdown")})
    assert host.table()["MAINTENANCE"] == "Shutdown"
    host.patch({"spec": {"maintenance": None}})
    hypervisor = parse_hypervisor(host.get())
    assert (hypervisor.maintenance, hypervisor.misunderstood, hypervisor.generation) == (None, "", 4)


def test_a_new_object_says_that_no_agent_has_reported(host: Host) -> None:
    host.create({})
    fresh = host.get()
    [ready] = fresh["status"].pop("conditions")
    assert (fresh["spec"], fresh["status"]) == ({}, {"observedGeneration": -1})
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "Unknown", "Pending")
    row = host.table()
    assert (row["READY"], row["REASON"], row["VMS"]) == ("Unknown", "Pending", "")
    status = parse_hypervisor(host.get()).status
    assert (status.ready, status.reason, status.observed_generation) == (False, "Pending", -1)


def domains(count: int) -> list[Json]:
    whole = {"powerState": "Running", "reason": "BOOTED", "transient": False}
    return [{"uuid": uuid, "name": uuid, **whole} for uuid in UUIDS[:count]]


def elsewhere(count: int) -> list[Json]:
    return [{"uuid": uuid, "nodeName": "node-b", "since": LONG_AGO} for uuid in UUIDS[:count]]


STATUS: Json = {
    "observedGeneration": 1,
    "leaseNamespace": "virtsync",
    "nodeBootID": "0b5f1a0e",
    "agentVersion": "0.1.0",
    "libvirtVersion": "9.0.0",
    "qemuVersion": "7.2.0",
    "capacity": {"cpus": 64, "memoryMiB": 515_000},
    "domains": {"total": 15, "running": 13},
    "virtualMachines": {"total": 12, "running": 11, "notReady": 1},
    "unmanaged": {"total": 3, "running": 2, "truncated": True, "domains": domains(2)},
    "maintenance": {"startTime": LONG_AGO, "remaining": 2},
    "conditions": [
        condition(reason="Active", message="It observes and acts.", observedGeneration=1),
        condition("Quiesced", status="False", reason="DomainsRunning", message="Two run.", observedGeneration=1),
    ],
}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ({"observedGeneration": -2}, "observedGeneration in body should be greater than or equal to -1"),
        ({"leaseNamespace": "n" * 64}, "status.leaseNamespace: Too long: may not be more than 63 bytes"),
        ({"nodeBootID": "b" * 129}, "status.nodeBootID: Too long: may not be more than 128 bytes"),
        ({"agentVersion": "v" * 65}, "status.agentVersion: Too long: may not be more than 64 bytes"),
        ({"libvirtVersion": "v" * 65}, "status.libvirtVersion: Too long: may not be more than 64 bytes"),
        ({"qemuVersion": "v" * 65}, "status.qemuVersion: Too long: may not be more than 64 bytes"),
        ({"capacity": {"cpus": -1}}, "cpus in body should be greater than or equal to 0"),
        ({"capacity": {"memoryMiB": -1}}, "memoryMiB in body should be greater than or equal to 0"),
        ({"domains": {"total": 2**31}}, "total in body should be less than or equal to 2147483647"),
        ({"virtualMachines": {"notReady": -1}}, "notReady in body should be greater than or equal to 0"),
        ({"unmanaged": {"domains": domains(LISTED_LIMIT + 1)}}, "Too many: 513: must have at most 512"),
        ({"unmanaged": {"domains": [{"uuid": UUIDS[0]}]}}, "status.unmanaged.domains[0].name: Required value"),
        ({"unmanaged": {"domains": [{"name": "w"}]}}, "status.unmanaged.domains[0].uuid: Required value"),
        (
            {"unmanaged": {"domains": [{"uuid": UUIDS[0], "name": "n" * 1025}]}},
            "domains[0].name: Too long: may not be more than 1024 bytes",
        ),
        (
            {"unmanaged": {"domains": [{**domains(1)[0], "powerState": "not a word"}]}},
            "powerState in body should match",
        ),
        ({"maintenance": {"startTime": "just now"}}, "startTime in body must be of type date-time"),
        ({"maintenance": {"remaining": -1}}, "remaining in body should be greater than or equal to 0"),
        ({"runsElsewhere": elsewhere(LISTED_LIMIT + 1)}, "status.runsElsewhere: Too many: 513: must have at most 512"),
        ({"runsElsewhere": [{"uuid": UUIDS[0]}]}, "status.runsElsewhere[0].nodeName: Required value"),
        ({"runsElsewhere": [{"nodeName": "node-b"}]}, "status.runsElsewhere[0].uuid: Required value"),
        ({"conditions": [condition(), condition()]}, 'status.conditions[1]: Duplicate value: {"type":"Ready"}'),
        ({"conditions": [condition(status="Yes")]}, 'supported values: "True", "False", "Unknown"'),
        (
            {"conditions": [condition(f"C{i}") for i in range(17)]},
            "status.conditions: Too many: 17: must have at most 16",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_wrong_status_is_refused(host: Host, status: Json, message: str) -> None:
    host.create({})
    said = host.report(status, check=False)
    assert any(wording in said for wording in wordings(message)), said


@pytest.mark.parametrize(
    "status",
    [
        STATUS,
        {"unmanaged": {"domains": domains(LISTED_LIMIT)}, "runsElsewhere": elsewhere(LISTED_LIMIT)},
        {"unmanaged": {"domains": [{"uuid": UUIDS[0], "name": "n" * 1024, "powerState": "Levitating"}]}},
        {"capacity": {"cpus": 2**31 - 1, "memoryMiB": 2**63 - 1}},
        {"leaseNamespace": "", "conditions": []},
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_an_agent_may_have_to_say_is_accepted(host: Host, status: Json) -> None:
    host.create({})
    host.report(status)
    stored = host.get()["status"]
    assert {key: stored[key] for key in status} == status


def test_the_long_lists_are_owned_as_a_whole(host: Host) -> None:
    host.create({})
    host.report({"unmanaged": {"domains": domains(LISTED_LIMIT)}, "runsElsewhere": elsewhere(LISTED_LIMIT)})
    shown = host.kubectl("get", "kvmhost", host.name, "-o", "json", "--show-managed-fields").stdout
    owned = [entry["fieldsV1"] for entry in json.loads(shown)["metadata"]["managedFields"]]
    assert any(fields.get("f:status", {}).get("f:runsElsewhere") == {} for fields in owned)
    # An entry of each list has a key of its own if the list is a map or a set.
    assert len(json.dumps(owned)) < 2000


def test_the_patch_of_an_agent_stores_its_report_and_leaves_the_list_of_the_manager_alone(host: Host) -> None:
    host.create({})
    host.report({"runsElsewhere": elsewhere(1)})
    reported = parse_hypervisor_status(STATUS)
    host.report(hypervisor_status_patch(host.get()["status"], reported) or {})
    assert hypervisor_status_patch(host.get()["status"], reported) is None
    assert host.get()["status"] == STATUS | {"runsElsewhere": elsewhere(1)}
    ended = parse_hypervisor_status({key: STATUS[key] for key in STATUS if key not in {"maintenance", "unmanaged"}})
    host.report(hypervisor_status_patch(host.get()["status"], ended) or {})
    stored = host.get()["status"]
    assert "maintenance" not in stored
    assert "unmanaged" not in stored
    assert stored["runsElsewhere"] == elsewhere(1)


def test_columns_in_order(host: Host) -> None:
    host.create(maintenance("Shutdown"))
    host.report(STATUS)
    narrow, wide = host.table(), host.table("-o", "wide")
    assert re.fullmatch(r"\d+m?s", narrow["AGE"])
    expected = {
        "NAME": host.name,
        "READY": "True",
        "REASON": "Active",
        "VMS": "12",
        "RUNNING": "11",
        "NOTREADY": "1",
        "UNMANAGED": "3",
        "MAINTENANCE": "Shutdown",
        "LIBVIRT": "9.0.0",
        "AGE": narrow["AGE"],
    }
    assert list(narrow.items()) == list(expected.items())
    expected |= {
        "AGE": wide["AGE"],
        "QEMU": "7.2.0",
        "CPUS": "64",
        "MEMORY": "515000",
        "BOOT": "0b5f1a0e",
        "VERSION": "0.1.0",
        "MESSAGE": "It observes and acts.",
    }
    assert list(wide.items()) == list(expected.items())


OBJECTS = ["", *(path for path, field in fields(SCHEMA) if "properties" in field.get("items", field))]


@pytest.mark.parametrize("path", OBJECTS)
def test_kubectl_explains_every_field(crd: ControlPlane, path: str) -> None:
    explained = crd.kubectl("explain", f"kvmhost{path}").stdout
    assert "<no description>" not in explained
    shown = set(re.findall(r"^  (\w+)\t<", explained, re.MULTILINE))
    below = {child.rpartition(".")[2] for child, _ in fields(SCHEMA) if child.rpartition(".")[0] == path}
    assert shown == below | (set() if path else {"apiVersion", "kind", "metadata"})


REFERENCE = (ROOT / "docs/api.md").read_text().partition("\n# The Hypervisor object\n")[2]
OPERATIONS = (ROOT / "docs/operations.md").read_text().partition("\n### Service a host\n")[2].partition("\n### ")[0]
DECLARE, WAIT, REMOVE = re.findall(r"^\$ (.*?)(?: +#.*)?$", OPERATIONS, re.MULTILINE)
"""The commands of the documentation, without the prompt and the comment."""


def test_kubectl_explain_teaches_how_to_service_a_host(crd: ControlPlane) -> None:
    explained, reference = (
        " ".join(text.split()) for text in (crd.kubectl("explain", "kvmhost.spec.maintenance").stdout, REFERENCE)
    )
    for command in (WAIT, REMOVE):
        assert command.replace("node-b", "NAME") in explained
    for fact in (
        "in force once the agent has acknowledged it",
        "until you remove it. A restart of the host, the agent or the API server does not end it.",
        "settle time",
        "The spec of no VirtualMachine changes.",
        "Cordoning or draining the Node has no effect on VMs.",
        "takes no action on any VM of this host, as if each VM were held.",
    ):
        assert fact in explained
        assert fact in reference
    assert "enum: Hold, Shutdown" in explained


def test_the_documented_commands_work_as_typed(host: Host, tmp_path: Path) -> None:
    terminal = os.environ | {
        "KUBECONFIG": str(host.controlplane.kubeconfig),
        "KUBECACHEDIR": str(tmp_path),
        "PATH": f"{host.controlplane.assets}:{os.environ['PATH']}",
    }
    host.create({})
    for line, mode in ((DECLARE, "Shutdown"), (WAIT, "Shutdown"), (REMOVE, "")):
        typed = line.replace("node-b", host.name)
        done = subprocess.run(["bash", "-c", typed], env=terminal, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert host.table()["MAINTENANCE"] == mode
        quiet = condition("Quiesced", reason="Quiet", observedGeneration=2)
        host.report({"observedGeneration": 2, "conditions": [condition(reason="Active"), quiet]})


def test_delete_all_leaves_hypervisors_alone(host: Host) -> None:
    host.create({})
    host.kubectl("delete", "all", "--all", "--namespace=default", "--wait=false")
    assert f"hypervisor.virtsync.dev/{host.name}" in host.kubectl("get", "virtsync", "-o", "name").stdout.splitlines()
