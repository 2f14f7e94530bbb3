"""The VirtualMachine API, as kubectl and a real API server have it: what it refuses, fills in, stores and shows.

No agent runs here. Where a command needs one, the test writes the status that an agent would have written.
"""

import itertools
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

from lab.controlplane import ControlPlane

ROOT = Path(__file__).parents[2]
CRD: dict[str, Any] = yaml.safe_load((ROOT / "deploy/crds/virtsync.dev_virtualmachines.yaml").read_text())
SCHEMA: dict[str, Any] = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
LONG_AGO = "2020-01-01T00:00:00Z"
# What kubectl does takes a tenth of a second; longer than this it hangs.
HANG_LIMIT = "--timeout=60s"

Json = dict[str, Any]


@dataclass(frozen=True)
class Namespace:
    """A namespace of a test's own, and kubectl in it."""

    controlplane: ControlPlane
    name: str

    def kubectl(self, *args: str, manifest: Json | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        body = None if manifest is None else json.dumps(manifest)
        return self.controlplane.kubectl(f"--namespace={self.name}", *args, input=body, check=check)

    def create(self, name: str, spec: Json | None = None, *args: str, check: bool = True) -> str:
        """Create a VirtualMachine; returns what kubectl said of it if it was refused."""
        return self.kubectl("create", "-f", "-", *args, manifest=manifest(name, spec), check=check).stderr

    def get(self, name: str) -> Json:
        vm: Json = json.loads(self.kubectl("get", "kvm", name, "-o", "json").stdout)
        return vm

    def patch(self, name: str, body: Json, *args: str, check: bool = True) -> str:
        patched = self.kubectl(
            "patch", "kvm", name, "--type=merge", "--patch-file=/dev/stdin", *args, manifest=body, check=check
        )
        return patched.stderr

    def report(self, name: str, status: Json, *args: str, check: bool = True) -> str:
        """Write status as an agent does; returns what kubectl said if it was refused."""
        return self.patch(name, {"status": status}, "--subresource=status", *args, check=check)

    def names(self, selector: str) -> list[str]:
        listed = self.kubectl("get", "kvm", f"--field-selector={selector}", "-o", "name").stdout
        return [line.rpartition("/")[2] for line in listed.splitlines()]

    def table(self, *args: str) -> dict[str, str]:
        """The columns of `kubectl get kvm` with what they hold in the only row, in the order shown."""
        header, row = self.kubectl("get", "kvm", *args).stdout.splitlines()
        starts = [match.start() for match in re.finditer(r"\S+( \S+)*", header)]
        ends = [*starts[1:], None]
        return {header[start:end].strip(): row[start:end].strip() for start, end in zip(starts, ends, strict=True)}


def manifest(name: str, spec: Json | None = None) -> Json:
    head = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": name}}
    return head if spec is None else head | {"spec": spec}


def condition(type_: str = "Ready", **changes: object) -> Json:
    whole = {"type": type_, "status": "True", "reason": "InSync", "message": "It runs.", "lastTransitionTime": LONG_AGO}
    return whole | changes


def fields(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every field below a schema with its path as `kubectl explain` takes it."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field.get("items", field), f"{path}.{name}")


def wordings(message: str) -> tuple[str, str, str]:
    """A refusal, and the same in the words of other versions.

    Kubernetes 1.32 has the type of a value for the value, and maps as in Go. 1.36 says int64 of a number that is too
    large for it.
    """
    older = re.sub(r'Invalid value: "[^"]*": must', 'Invalid value: "string": must', message)
    older = older.replace("Duplicate value: {", "Duplicate value: map[string]interface {}{")
    return message, older, message.replace("must be of type integer", "must be of type int64")


serial = itertools.count()


@pytest.fixture
def vms(crd: ControlPlane, request: pytest.FixtureRequest) -> Namespace:
    name = f"{request.function.__name__.replace('_', '-')[:50]}-{next(serial)}"
    crd.kubectl("create", "namespace", name)
    return Namespace(crd, name)


# The whole line that kubectl prints, after the name of the object.
REFUSED_SPECS = [
    (
        {"nodeName": "Node_A"},
        (
            'spec.nodeName: Invalid value: "Node_A": must be the name of a node: '
            "lower case letters, digits, '-' and '.', beginning and ending with a letter or a digit"
        ),
    ),
    ({"nodeName": "node-"}, 'spec.nodeName: Invalid value: "node-": must be the name of a node'),
    ({"nodeName": "n" * 254}, "spec.nodeName: Too long: may not be more than 253 bytes"),
    (
        {"domain": {"name": "web", "uuid": "4dea22b3-1d52-48f3-8516-782e98ab3fa0"}},
        "spec.domain.uuid: Forbidden: must not be set together with name: each of them identifies the domain",
    ),
    (
        {"domain": {"uuid": "4dea22b31d5248f38516782e98ab3fa0"}},
        (
            'spec.domain.uuid: Invalid value: "4dea22b31d5248f38516782e98ab3fa0": '
            "must be a UUID such as 4dea22b3-1d52-48f3-8516-782e98ab3fa0"
        ),
    ),
    ({"domain": {"uuid": "4dea22b3-1d52-48f3-8516-782e98ab3fag"}}, "must be a UUID such as"),
    ({"domain": {"uuid": ""}}, "must be a UUID such as"),
    ({"domain": {"name": ""}}, "spec.domain.name in body should be at least 1 chars long"),
    ({"domain": {"name": "n" * 256}}, "spec.domain.name: Too long: may not be more than 255 bytes"),
    (
        {"powerState": "On"},
        'spec.powerState: Unsupported value: "On": supported values: "Running", "Stopped", "Paused"',
    ),
    (
        {"restartPolicy": "Sometimes"},
        'spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"',
    ),
    (
        {"shutdown": {"mode": "Kindly"}},
        'spec.shutdown.mode: Unsupported value: "Kindly": supported values: "GracefulThenForce", "Graceful", "Force"',
    ),
    (
        {"shutdown": {"gracePeriodSeconds": 0}},
        "spec.shutdown.gracePeriodSeconds in body should be greater than or equal to 1",
    ),
    (
        {"shutdown": {"gracePeriodSeconds": 86401}},
        "spec.shutdown.gracePeriodSeconds in body should be less than or equal to 86400",
    ),
    ({"shutdown": {"gracePeriodSeconds": "3m"}}, "spec.shutdown.gracePeriodSeconds in body must be of type integer"),
    (
        {"restartRequestTime": "tomorrow"},
        (
            'spec.restartRequestTime: Invalid value: "tomorrow": must be a time with a UTC offset, '
            "such as 2026-03-01T02:00:00Z or 2026-03-01T04:00:00+02:00"
        ),
    ),
    ({"restartRequestTime": ""}, "must be a time with a UTC offset"),
    ({"restartRequestTime": "2026-03-01"}, "must be a time with a UTC offset"),
    ({"restartRequestTime": "2026-03-01T02:00:00"}, "must be a time with a UTC offset"),
    ({"restartRequestTime": "2026-02-30T02:00:00Z"}, "must be a time with a UTC offset"),
    # These have the format date-time, and yet no client can read them all.
    ({"restartRequestTime": "2026-03-01t02:00:00z"}, "must be a time with a UTC offset"),
    ({"restartRequestTime": "2026-03-01T02:00:00+24:00"}, "must be a time with a UTC offset"),
    ({"restartRequestTime": "2026-03-01T02:00:00x5Z"}, "must be a time with a UTC offset"),
    ({"restartRequestTime": "0000-03-01T02:00:00Z"}, "must be a time with a UTC offset"),
]

ACCEPTED_SPECS: list[Json] = [
    {},
    {"nodeName": ""},
    {"nodeName": "n"},
    {"nodeName": "node-1.rack-2.example.com"},
    {"nodeName": "n" * 253},
    {"domain": {}},
    {"domain": {"name": "Web Server (old) ä"}},
    {"domain": {"name": "n" * 255}},
    {"domain": {"uuid": "4dea22b3-1d52-48f3-8516-782e98ab3fa0"}},
    {"domain": {"uuid": "4DEA22B3-1D52-48F3-8516-782E98AB3FA0"}},
    *({"powerState": state} for state in ("Running", "Stopped", "Paused")),
    *({"restartPolicy": policy} for policy in ("Always", "OnFailure", "Never")),
    *({"shutdown": {"mode": mode}} for mode in ("GracefulThenForce", "Graceful", "Force")),
    {"shutdown": {"gracePeriodSeconds": 1}},
    {"shutdown": {"gracePeriodSeconds": 86400}},
    {"restartRequestTime": "2026-03-01T02:00:00Z"},
    {"restartRequestTime": "2026-03-01T02:00:00.123456789+14:00"},
    # Ignored rather than refused, or stopping such a VM with a patch would be refused too.
    {"powerState": "Stopped", "restartRequestTime": "2026-03-01T02:00:00Z"},
]


@pytest.mark.parametrize(("spec", "message"), REFUSED_SPECS, ids=str)
def test_a_wrong_spec_is_refused_with_a_sentence(crd: ControlPlane, spec: Json, message: str) -> None:
    said = Namespace(crd, "default").create("refused", spec, "--dry-run=server", check=False)
    assert 'The VirtualMachine "refused" is invalid' in said
    assert any(wording in said for wording in wordings(message)), said


@pytest.mark.parametrize("spec", ACCEPTED_SPECS, ids=str)
def test_its_neighbours_are_accepted(crd: ControlPlane, spec: Json) -> None:
    assert Namespace(crd, "default").create("accepted", spec, "--dry-run=server") == ""


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ({"nodeName": "node-a"}, {"nodeName": "node-b"}),
        ({"nodeName": "node-a"}, {"nodeName": None}),
        ({"powerState": "Running"}, {"powerState": None}),
        ({"restartRequestTime": "2026-03-01T02:00:00Z"}, {"restartRequestTime": "2025-03-01T02:00:00Z"}),
        ({"restartRequestTime": "2026-03-01T02:00:00Z"}, {"restartRequestTime": None}),
        (
            {"powerState": "Running", "restartRequestTime": "2026-03-01T02:00:00Z"},
            {"powerState": "Stopped"},
        ),
        (
            {"domain": {"name": "web"}},
            {"domain": {"name": None, "uuid": "4dea22b3-1d52-48f3-8516-782e98ab3fa0"}},
        ),
        ({"domain": {"name": "web"}}, {"domain": None}),
    ],
    ids=str,
)
def test_whatever_was_wanted_may_be_taken_back(vms: Namespace, before: Json, change: Json) -> None:
    vms.create("web-1", before)
    vms.patch("web-1", {"spec": change})
    assert vms.get("web-1")["metadata"]["generation"] == 2


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ({"observedGeneration": -2}, "observedGeneration in body should be greater than or equal to -1"),
        ({"observedGeneration": 2**63}, "observedGeneration in body must be of type integer"),
        ({"powerState": ""}, "powerState in body should match"),
        ({"powerState": "not a word"}, "powerState in body should match"),
        ({"powerState": "S" * 65}, "status.powerState: Too long: may not be more than 64 bytes"),
        ({"powerStateTransitionTime": "just now"}, "powerStateTransitionTime in body must be of type date-time"),
        ({"restartCount": -1}, "restartCount in body should be greater than or equal to 0"),
        ({"restartCount": 2**31}, "restartCount in body should be less than or equal to 2147483647"),
        ({"lastStop": {"time": LONG_AGO}}, "status.lastStop.cause: Required value"),
        ({"operation": {"startTime": LONG_AGO}}, "status.operation.type: Required value"),
        ({"conditions": [{"type": "Ready"}]}, "status.conditions[0].lastTransitionTime: Required value"),
        ({"conditions": [condition(), condition()]}, 'status.conditions[1]: Duplicate value: {"type":"Ready"}'),
        ({"conditions": [condition(status="Yes")]}, 'supported values: "True", "False", "Unknown"'),
        ({"conditions": [condition(reason="in sync")]}, "reason in body should match"),
        ({"conditions": [condition(reason="")]}, "should be at least 1 chars long"),
        ({"conditions": [condition(message="m" * 32769)]}, "Too long: may not be more than 32768 bytes"),
        (
            {"conditions": [condition(f"C{i}") for i in range(17)]},
            "status.conditions: Too many: 17: must have at most 16",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_wrong_status_is_refused(vms: Namespace, status: Json, message: str) -> None:
    vms.create("web-1")
    said = vms.report("web-1", status, check=False)
    assert any(wording in said for wording in wordings(message)), said


def test_the_wordings_of_other_servers_are_known() -> None:
    assert wordings('spec.nodeName: Invalid value: "Node_A": must be the name of a node')[1] == (
        'spec.nodeName: Invalid value: "string": must be the name of a node'
    )
    assert wordings('status.conditions[1]: Duplicate value: {"type":"Ready"}')[1] == (
        'status.conditions[1]: Duplicate value: map[string]interface {}{"type":"Ready"}'
    )
    assert wordings("spec.nodeName: Too long")[1] == "spec.nodeName: Too long"
    assert wordings("a in body must be of type integer")[2] == "a in body must be of type int64"


@pytest.mark.parametrize(
    "status",
    [
        {"observedGeneration": -1},
        {"observedGeneration": 2**63 - 1},
        # A word of a newer agent, which an older schema must let through.
        {"powerState": "Levitating", "lastStop": {"cause": "Gremlins"}, "operation": {"type": "Clone"}},
        {"desiredPowerState": ""},
        {"restartCount": 2**31 - 1},
        {"conditions": []},
        {"conditions": [condition(f"C{i}", message="m" * 32768, observedGeneration=7) for i in range(16)]},
        {"conditions": [condition("example.com/Backed-Up")]},
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_an_agent_may_have_to_say_is_accepted(vms: Namespace, status: Json) -> None:
    vms.create("web-1")
    vms.report("web-1", status)
    stored = vms.get("web-1")["status"]
    assert {key: stored[key] for key in status} == status


def test_an_unknown_field_is_an_error_or_is_dropped(vms: Namespace) -> None:
    spec = {"powerState": "Running", "cpus": 4}
    assert 'strict decoding error: unknown field "spec.cpus"' in vms.create("web-1", spec, check=False)
    vms.create("web-1", spec, "--validate=false")
    assert "cpus" not in vms.get("web-1")["spec"]


@pytest.mark.parametrize(
    ("spec", "stored"),
    [
        (None, {}),
        ({}, {}),
        ({"shutdown": {}}, {}),
        ({"shutdown": {"mode": "Force"}}, {"shutdown": {"mode": "Force", "gracePeriodSeconds": 180}}),
        (
            {"shutdown": {"gracePeriodSeconds": 5}},
            {"shutdown": {"mode": "GracefulThenForce", "gracePeriodSeconds": 5}},
        ),
        ({"restartPolicy": "Never"}, {"restartPolicy": "Never"}),
        # Nothing but a user may ever ask for a power state, or name a node.
        ({"domain": {}}, {"domain": {}}),
    ],
    ids=str,
)
def test_defaults_as_stored(vms: Namespace, spec: Json | None, stored: Json) -> None:
    vms.create("web-1", spec)
    defaults = {
        "restartPolicy": "Always",
        "shutdown": {"mode": "GracefulThenForce", "gracePeriodSeconds": 180},
    }
    assert vms.get("web-1")["spec"] == defaults | stored


def test_a_new_object_never_looks_healthy(vms: Namespace) -> None:
    vms.create("web-1", {"nodeName": "node-a", "powerState": "Running"})
    fresh = vms.get("web-1")
    [ready] = fresh["status"].pop("conditions")
    # kstatus (Flux, `kpt`) takes an observedGeneration other than the object's for InProgress.
    assert fresh["status"] == {"observedGeneration": -1, "powerState": "Unknown"}
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "Unknown", "Pending")
    # A constant cannot know which of the two it is.
    assert "If spec.nodeName is empty, no node is responsible" in ready["message"]
    assert "If it is set, virtsync does not run on a node of that name" in ready["message"]
    row = vms.table()
    assert (row["POWER"], row["READY"], row["REASON"]) == ("Unknown", "Unknown", "Pending")
    assert vms.kubectl("wait", "kvm/web-1", "--for=condition=Ready", "--timeout=0", check=False).returncode != 0


def test_a_status_in_a_new_manifest_is_ignored(vms: Namespace) -> None:
    vms.kubectl("create", "-f", "-", manifest=manifest("web-1") | {"status": {"powerState": "Running"}})
    assert vms.get("web-1")["status"]["powerState"] == "Unknown"


STATUS = {
    "observedGeneration": 1,
    "powerState": "Stopped",
    "powerStateTransitionTime": LONG_AGO,
    "domain": {"name": "web-one", "uuid": "4dea22b3-1d52-48f3-8516-782e98ab3fa0"},
    "lastStop": {"cause": "Guest"},
    "restartCount": 3,
    "conditions": [condition(reason="Completed", message="It powered itself off.", observedGeneration=1)],
}


def test_columns_in_order(vms: Namespace) -> None:
    vms.create("web-1", {"nodeName": "node-a", "powerState": "Running"})
    vms.report("web-1", STATUS)
    narrow, wide = vms.table(), vms.table("-o", "wide")
    ages = {column: (narrow[column], wide[column]) for column in ("SINCE", "AGE")}
    assert re.fullmatch(r"\d+y(\d+d)?", ages["SINCE"][0])
    assert re.fullmatch(r"\d+m?s", ages["AGE"][0])
    expected = {
        "NAME": "web-1",
        "POWER": "Stopped",
        "DESIRED": "Running",
        "READY": "True",
        "REASON": "Completed",
        "NODE": "node-a",
        "SINCE": ages["SINCE"][0],
        "AGE": ages["AGE"][0],
    }
    assert list(narrow.items()) == list(expected.items())
    expected |= {
        "AGE": ages["AGE"][1],
        "DOMAIN": "web-one",
        "UUID": "4dea22b3-1d52-48f3-8516-782e98ab3fa0",
        "LAST STOP": "Guest",
        "RESTARTS": "3",
        "MESSAGE": "It powered itself off.",
    }
    assert list(wide.items()) == list(expected.items())


OBJECTS = ["", *(path for path, field in fields(SCHEMA) if "properties" in field.get("items", field))]


@pytest.mark.parametrize("path", OBJECTS)
def test_kubectl_explains_every_field(crd: ControlPlane, path: str) -> None:
    explained = crd.kubectl("explain", f"kvm{path}").stdout
    assert "<no description>" not in explained
    shown = set(re.findall(r"^  (\w+)\t<", explained, re.MULTILINE))
    below = {child.rpartition(".")[2] for child, _ in fields(SCHEMA) if child.rpartition(".")[0] == path}
    assert shown == below | (set() if path else {"apiVersion", "kind", "metadata"})


def test_fields_that_lists_can_be_filtered_by(vms: Namespace) -> None:
    vms.create("unbound")
    vms.create("here", {"nodeName": "node-a", "powerState": "Running"})
    vms.create("there", {"nodeName": "node-b", "powerState": "Stopped"})
    vms.report("here", {"powerState": "Crashed"})
    assert vms.names("spec.nodeName=node-a") == ["here"]
    assert vms.names("spec.nodeName=") == ["unbound"]
    assert vms.names("spec.powerState=Stopped") == ["there"]
    assert vms.names("status.powerState=Crashed") == ["here"]
    assert vms.names("status.powerState=Unknown") == ["there", "unbound"]
    uuid = "4dea22b3-1d52-48f3-8516-782e98ab3fa0"
    vms.report("there", {"domain": {"name": "web", "uuid": uuid}})
    assert vms.names(f"status.domain.uuid={uuid}") == ["there"]
    assert vms.names("status.domain.uuid=") == ["here", "unbound"]


def test_delete_all_leaves_virtual_machines_alone(vms: Namespace) -> None:
    vms.create("web-1")
    vms.kubectl("create", "service", "clusterip", "web", "--tcp=80")
    deleted = vms.kubectl("delete", "all", "--all", HANG_LIMIT).stdout
    assert 'service "web" deleted' in deleted
    assert "virtualmachine.virtsync.dev/web-1" in vms.kubectl("get", "virtsync", "-o", "name").stdout.split()


def test_a_deleted_object_is_gone_at_once(vms: Namespace) -> None:
    vms.create("web-1")
    assert "finalizers" not in vms.get("web-1")["metadata"]
    vms.kubectl("delete", "kvm", "web-1", HANG_LIMIT)
    assert vms.names("metadata.name=web-1") == []


def test_a_merge_patch_of_status_removes_only_what_is_null(vms: Namespace) -> None:
    vms.create("web-1")
    vms.report("web-1", STATUS | {"operation": {"type": "Stop", "startTime": LONG_AGO}})
    vms.report("web-1", {"operation": None, "restartCount": 4, "lastStop": {"message": "It powered itself off."}})
    stored = vms.get("web-1")["status"]
    assert "operation" not in stored
    assert stored == STATUS | {
        "restartCount": 4,
        "lastStop": {"cause": "Guest", "message": "It powered itself off."},
    }


def test_a_merge_patch_replaces_all_conditions(vms: Namespace) -> None:
    vms.create("web-1")
    vms.report("web-1", {"conditions": [condition(), condition("Reconciling")]})
    vms.report("web-1", {"conditions": [condition("Stalled")]})
    assert vms.get("web-1")["status"]["conditions"] == [condition("Stalled")]


def test_removing_the_status_brings_back_its_default(vms: Namespace) -> None:
    vms.create("web-1")
    fresh = vms.get("web-1")["status"]
    vms.report("web-1", STATUS)
    vms.patch("web-1", {"status": None}, "--subresource=status")
    assert vms.get("web-1")["status"] == fresh


def test_two_writers_keep_their_own_conditions_with_server_side_apply(vms: Namespace) -> None:
    vms.create("web-1")
    for writer, type_ in (("agent", "Ready"), ("backup", "example.com/BackedUp")):
        applied = manifest("web-1") | {"status": {"conditions": [condition(type_)]}}
        flags = ("--server-side", "--subresource=status", f"--field-manager={writer}")
        vms.kubectl("apply", "-f", "-", *flags, manifest=applied)
    types = [stored["type"] for stored in vms.get("web-1")["status"]["conditions"]]
    assert sorted(types) == ["Ready", "example.com/BackedUp"]


def test_spec_and_status_are_written_apart(vms: Namespace) -> None:
    vms.create("web-1", {"powerState": "Running"})
    both = {"spec": {"powerState": "Stopped"}, "status": {"powerState": "Crashed"}}
    vms.patch("web-1", both, "--subresource=status")
    vm = vms.get("web-1")
    assert (vm["spec"]["powerState"], vm["status"]["powerState"]) == ("Running", "Crashed")
    assert vm["metadata"]["generation"] == 1
    vms.patch("web-1", {"spec": {"powerState": "Stopped"}, "status": {"powerState": "Paused"}})
    vm = vms.get("web-1")
    assert (vm["spec"]["powerState"], vm["status"]["powerState"]) == ("Stopped", "Crashed")
    assert vm["metadata"]["generation"] == 2


def test_a_status_computed_from_an_older_object_is_a_conflict(vms: Namespace) -> None:
    vms.create("web-1")
    read = vms.get("web-1")["metadata"]["resourceVersion"]
    vms.patch("web-1", {"spec": {"powerState": "Stopped"}})
    stale = {"metadata": {"resourceVersion": read}, "status": {"powerState": "Running"}}
    said = vms.patch("web-1", stale, "--subresource=status", check=False)
    assert "Error from server (Conflict)" in said
    assert vms.get("web-1")["status"]["powerState"] == "Unknown"


# The commands of docs/api.md in their order: what the agent has reported before, and what the object then shows.
READY = {"observedGeneration": 3, "conditions": [condition(observedGeneration=3)]}
COMMANDS: list[tuple[Json, str, str]] = [
    (
        {},
        "kubectl annotate --overwrite kvm web-1 virtsync.dev/confirmed-off='node-a 2026-11-26T08:20:13Z'",
        r"{.metadata.annotations.virtsync\.dev/confirmed-off}=node-a 2026-11-26T08:20:13Z",
    ),
    (
        {"powerState": "Crashed"},
        "kubectl get kvm -A --field-selector status.powerState=Crashed",
        "{.status.powerState}=Crashed",
    ),
    ({}, "kubectl get kvm -A --field-selector spec.nodeName=node-a", "{.spec.nodeName}=node-a"),
    (
        {},
        """kubectl patch kvm web-1 --type merge -p '{"spec":{"powerState":"Stopped"}}'""",
        "{.spec.powerState}=Stopped",
    ),
    (
        {"powerState": "Stopped"},
        "kubectl wait kvm/web-1 --for=jsonpath='{.status.powerState}'=Stopped --timeout=5m",
        "{.status.powerState}=Stopped",
    ),
    (
        {},
        """kubectl patch kvm web-1 --type merge -p '{"spec":{"powerState":"Running"}}'""",
        "{.spec.powerState}=Running",
    ),
    (READY, "kubectl wait kvm/web-1 --for=condition=Ready --timeout=5m", "{.status.observedGeneration}=3"),
    (
        {},
        (
            "kubectl patch kvm web-1 --type merge -p "
            r'''"{\"spec\":{\"restartRequestTime\":\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\"}}"'''
        ),
        "{.metadata.generation}=4",
    ),
    (
        {},
        "kubectl annotate kvm web-1 hold.virtsync.dev/me=backup",
        r"{.metadata.annotations.hold\.virtsync\.dev/me}=backup",
    ),
    ({}, "kubectl annotate kvm web-1 hold.virtsync.dev/me-", r"{.metadata.annotations.hold\.virtsync\.dev/me}="),
]


def test_the_commands_of_the_reference_work_as_typed(vms: Namespace, tmp_path: Path) -> None:
    about_vms = (ROOT / "docs/api.md").read_text().partition("\n# The Hypervisor object\n")[0]
    blocks = re.findall(r"```console\n(.*?)```", about_vms, re.DOTALL)
    assert [line for block in blocks for line in block.splitlines()] == [line for _, line, _ in COMMANDS]
    kubeconfig = json.loads(vms.controlplane.kubeconfig.read_text())
    kubeconfig["contexts"][0]["context"]["namespace"] = vms.name
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    terminal = os.environ | {
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "KUBECACHEDIR": str(tmp_path / "cache"),
        "PATH": f"{vms.controlplane.assets}:{os.environ['PATH']}",
    }
    vms.create("web-1", {"nodeName": "node-a"})
    for status, line, shown in COMMANDS:
        vms.report("web-1", status)
        done = subprocess.run(["bash", "-c", line], env=terminal, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert "web-1" in done.stdout
        path, _, value = shown.partition("=")
        assert vms.kubectl("get", "kvm", "web-1", "-o", f"jsonpath={path}").stdout == value


@pytest.mark.parametrize("condition_", ["condition=Ready", "jsonpath={.status.powerState}=Stopped"])
def test_kubectl_wait_waits_for_the_agents_answer_to_the_last_change(vms: Namespace, condition_: str) -> None:
    vms.create("web-1", {"powerState": "Running"})
    vms.report(
        "web-1", {"powerState": "Running", "observedGeneration": 1, "conditions": [condition(observedGeneration=1)]}
    )
    vms.patch("web-1", {"spec": {"powerState": "Stopped"}})
    waiting = ("wait", "kvm/web-1", f"--for={condition_}")
    assert "condition not met" in vms.kubectl(*waiting, "--timeout=0", check=False).stderr
    vms.report(
        "web-1", {"powerState": "Stopped", "observedGeneration": 2, "conditions": [condition(observedGeneration=2)]}
    )
    vms.kubectl(*waiting, HANG_LIMIT)
