"""The commands that change VMs and hosts, on a real API server; those that wait, with a real agent and guests."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import CliRunner, Result

from controller.api import changes
from controller.api.changes import Change, Unchanged
from controller.api.clock import api_time
from controller.api.codec import parse
from controller.api.names import CLI
from controller.api.virtualmachine import DesiredPowerState, VmKey
from controller.cli import main
from controller.kube.client import load
from controller.kube.paths import virtual_machine
from controller.kube.writes import Writes
from lab.controlplane import ControlPlane
from lab.world import World, power_of

Json = dict[str, Any]
NAMESPACE = "vm-writes"
FLUX_LABELS = {"kustomize.toolkit.fluxcd.io/name": "vms", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
FLUX = "Flux (Kustomization flux-system/vms)"
ARGO = "Argo CD (Application shop)"
UNDONE = "comes from Git, and {} will undo this change"


class Shell:
    """Runs the commands as the administrator of an API server, in a namespace of the test's own."""

    def __init__(self, controlplane: ControlPlane, namespace: str) -> None:
        self.controlplane, self.namespace = controlplane, namespace

    def __call__(self, *words: str, color: bool = False) -> Result:
        """Run `virtsync vm` with these words; the namespace is added where there are VMs. `color`: as on a terminal."""
        where = [] if words[0] == "maintenance" or "-A" in words else ["--namespace", self.namespace]
        given = ["vm", *words, *where, "--kubeconfig", str(self.controlplane.kubeconfig)]
        return CliRunner().invoke(main, given, color=color)

    def ok(self, *words: str) -> str:
        result = self(*words)
        assert result.exit_code == 0, result.output
        return result.output

    def refused(self, *words: str) -> str:
        result = self(*words)
        assert result.exit_code == 2, result.output
        return result.output

    def not_done(self, *words: str) -> str:
        result = self(*words)
        assert result.exit_code == 1, result.output
        return result.output

    def apply(self, name: str, *options: str, meta: Json | None = None, **spec: Any) -> None:
        manifest = {
            "apiVersion": "virtsync.dev/v1alpha1",
            "kind": "VirtualMachine",
            "metadata": {"name": name, "namespace": self.namespace} | (meta or {}),
            "spec": {"nodeName": "node-a"} | spec,
        }
        self.controlplane.kubectl("apply", "-f", "-", *options, input=json.dumps(manifest))

    def by_flux(self, name: str, **spec: Any) -> None:
        annotations = {"hold.virtsync.dev/git": "from Git"}
        meta = {"labels": FLUX_LABELS, "annotations": annotations}
        self.apply(
            name, "--server-side", "--force-conflicts", "--field-manager=kustomize-controller", meta=meta, **spec
        )

    def by_argo(self, name: str, *options: str, **spec: Any) -> None:
        tracking = f"shop:virtsync.dev/VirtualMachine:{self.namespace}/{name}"
        meta = {"annotations": {"argocd.argoproj.io/tracking-id": tracking}}
        self.apply(name, *options, "--field-manager=argocd-controller", meta=meta, **spec)

    def get(self, name: str) -> Json:
        command = ("get", "kvm", name, "-n", self.namespace, "-o", "json", "--show-managed-fields")
        found: Json = json.loads(self.controlplane.kubectl(*command).stdout)
        return found

    def host(self, name: str) -> Json:
        found: Json = json.loads(self.controlplane.kubectl("get", "kvmhost", name, "-o", "json").stdout)
        return found


@pytest.fixture
def shell(crd: ControlPlane) -> Iterator[Shell]:
    crd.kubectl("create", "namespace", NAMESPACE, check=False)
    yield Shell(crd, NAMESPACE)
    crd.kubectl("delete", "--raw", f"/apis/virtsync.dev/v1alpha1/namespaces/{NAMESPACE}/virtualmachines")


@pytest.fixture
def host(crd: ControlPlane) -> Iterator[str]:
    name = "vm-writes-host"
    manifest = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "Hypervisor", "metadata": {"name": name}}
    crd.kubectl("apply", "-f", "-", input=json.dumps(manifest))
    yield name
    crd.kubectl("patch", "kvmhost", name, "--type=merge", "-p", '{"spec":{"maintenance":null}}')
    crd.kubectl("delete", "kvmhost", name)


def managers_of(raw: Json, field: str) -> set[str]:
    entries = raw["metadata"]["managedFields"]
    return {one["manager"] for one in entries if f"f:{field}" in one["fieldsV1"].get("f:spec", {})}


@pytest.mark.parametrize(("command", "state"), [("start", "Running"), ("stop", "Stopped"), ("pause", "Paused")])
def test_a_power_command_sets_power_state_under_a_manager_of_its_own(shell: Shell, command: str, state: str) -> None:
    shell.apply("web-1")
    shell.apply("web-2")
    assert shell.ok(command, "web-1", "web-2").splitlines() == [
        f"{NAMESPACE}/web-1: powerState is now {state}.",
        f"{NAMESPACE}/web-2: powerState is now {state}.",
    ]
    for name in ("web-1", "web-2"):
        assert shell.get(name)["spec"]["powerState"] == state
        assert managers_of(shell.get(name), "powerState") == {CLI}
    before = shell.get("web-1")["metadata"]["resourceVersion"]
    assert f"powerState is {state} already" in shell.ok(command, "web-1")
    assert shell.get("web-1")["metadata"]["resourceVersion"] == before


def test_one_missing_vm_does_not_keep_a_command_from_the_others(shell: Shell) -> None:
    shell.apply("web-2")
    said = shell.refused("start", "web-1", "web-2")
    assert f'{NAMESPACE}/web-1: virtualmachines.virtsync.dev "web-1" not found.' in said
    assert shell.get("web-2")["spec"]["powerState"] == "Running"


VMS = ("web-1", "web-2", "web-3")
LATIN = {"PYTHONIOENCODING": "latin-1"}


def as_process(shell: Shell, *words: str, stdout: int | IO[str] = subprocess.PIPE, env: Json | None = None) -> Any:
    """Run `virtsync vm` as a process of its own, because its output is that of the process."""
    where = ("--namespace", shell.namespace, "--kubeconfig", str(shell.controlplane.kubeconfig))
    command = [sys.executable, "-m", "controller", "vm", *words, *where]
    environ = os.environ | (env or {})
    return subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environ, check=False, timeout=60
    )


def holds(shell: Shell) -> list[bool]:
    return ["annotations" in shell.get(name)["metadata"] for name in VMS]


def test_an_output_that_cannot_be_written_keeps_no_vm_from_being_changed(shell: Shell) -> None:
    for name in VMS:
        shell.apply(name, "--server-side")
    with Path("/dev/full").open("w") as full:
        ended = as_process(shell, "hold", *VMS, "--as", "ann", "--because", "the disk", stdout=full)
    assert (ended.returncode, ended.stderr.strip()) == (
        2,
        "Error: the output cannot be written: No space left on device.",
    )
    assert holds(shell) == [True, True, True]
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as closed:
        assert as_process(shell, "release", *VMS, "--as", "ann", stdout=closed).returncode == 141
    assert holds(shell) == [False, False, False]


def test_a_text_that_the_encoding_does_not_have_is_written_as_an_escape_sequence(shell: Shell) -> None:
    for name in VMS:
        shell.apply(name, "--server-side")
    ended = as_process(shell, "hold", *VMS, "--as", "ann", "--because", "日本", env=LATIN)
    assert (ended.returncode, holds(shell)) == (0, [True, True, True])
    shown = as_process(shell, "status", "web-1", env=LATIN)
    assert "\\u65e5\\u672c" in shown.stdout
    assert "Traceback" not in shown.stderr
    printed = json.loads(as_process(shell, "status", "web-1", "-o", "json", env=LATIN).stdout)
    assert printed["metadata"]["annotations"]["hold.virtsync.dev/ann"] == "日本"


def test_a_selector_chooses_the_vms_that_are_changed(shell: Shell) -> None:
    shell.apply("web-1", meta={"labels": {"tier": "vm-writes"}})
    shell.apply("web-2")
    assert "No VirtualMachine has these labels" in shell.ok("stop", "-l", "tier=none")
    assert shell("stop", "-l", " ").exit_code == 2
    assert "powerState" not in shell.get("web-1")["spec"]
    result = shell("stop", "-A", "-l", "tier=vm-writes", "-o", "name")
    assert (result.exit_code, result.stdout) == (0, "virtualmachine.virtsync.dev/web-1\n")
    assert "powerState is now Stopped" in result.stderr
    assert shell.get("web-1")["spec"]["powerState"] == "Stopped"
    assert "powerState" not in shell.get("web-2")["spec"]


def test_the_changed_object_is_printed_for_programs(shell: Shell) -> None:
    shell.apply("web-1")
    printed = json.loads(shell("stop", "web-1", "-o", "json").stdout)
    assert printed["spec"]["powerState"] == "Stopped"
    assert printed["metadata"]["resourceVersion"] == shell.get("web-1")["metadata"]["resourceVersion"]


def test_a_change_of_another_writer_in_between_is_decided_again(shell: Shell) -> None:
    shell.apply("web-1")
    seen: list[Json] = []

    def decide(raw: Json) -> Change | Unchanged:
        seen.append(raw)
        if len(seen) == 1:
            shell.apply("web-1", powerState="Stopped")
        return changes.power(parse(raw), DesiredPowerState.STOPPED)

    writes = Writes(load(shell.controlplane.kubeconfig, program=CLI))
    path = virtual_machine(VmKey(NAMESPACE, "web-1"))
    _, decided = writes.change(path, decide)
    assert decided == Unchanged("powerState is Stopped already")
    assert len(seen) == 2


def test_what_flux_has_applied_is_changed_only_with_anyway(shell: Shell) -> None:
    shell.by_flux("web-1", powerState="Running")
    assert f"spec.powerState {UNDONE.format(FLUX)}" in shell.refused("stop", "web-1")
    assert shell.get("web-1")["spec"]["powerState"] == "Running"
    assert f"spec.powerState {UNDONE.format(FLUX)}" in shell.ok("stop", "web-1", "--anyway")
    assert shell.get("web-1")["spec"]["powerState"] == "Stopped"
    shell.by_flux("web-1", powerState="Running")
    assert shell.get("web-1")["spec"]["powerState"] == "Running"


def test_a_field_that_git_leaves_out_is_changed_with_a_warning_and_stays(shell: Shell) -> None:
    shell.by_flux("web-1")
    assert f"{FLUX} applies this object, and will undo this change if Git has" in shell.ok("stop", "web-1")
    shell.ok("hold", "web-1", "--as", "ann", "--because", "backup")
    shell.by_flux("web-1")
    after = shell.get("web-1")
    assert after["spec"]["powerState"] == "Stopped"
    assert after["metadata"]["annotations"]["hold.virtsync.dev/ann"] == "backup"


@pytest.mark.parametrize("options", [[], ["--server-side", "--force-conflicts"]])
def test_what_argo_cd_has_applied_is_changed_only_with_anyway(shell: Shell, options: list[str]) -> None:
    shell.by_argo("web-1", *options, powerState="Running")
    assert f"spec.powerState {UNDONE.format(ARGO)}" in shell.refused("stop", "web-1")
    assert shell.get("web-1")["spec"]["powerState"] == "Running"
    shell.ok("restart", "web-1")  # not in Git


def test_argo_cd_owns_a_field_also_after_somebody_has_changed_it(shell: Shell) -> None:
    shell.by_argo("web-1", powerState="Running")
    shell.ok("stop", "web-1", "--anyway")
    assert managers_of(shell.get("web-1"), "powerState") == {CLI}
    assert f"spec.powerState {UNDONE.format(ARGO)}" in shell.refused("pause", "web-1")


def test_a_hold_from_git_is_released_only_with_anyway(shell: Shell) -> None:
    shell.by_flux("web-1")
    said = shell.refused("release", "web-1", "--as", "git")
    assert f"the annotation hold.virtsync.dev/git {UNDONE.format(FLUX)}" in said
    shell.ok("release", "web-1", "--as", "git", "--anyway")
    assert "hold.virtsync.dev/git" not in shell.get("web-1")["metadata"].get("annotations", {})


def test_holds_of_two_people_do_not_end_each_other(shell: Shell) -> None:
    shell.apply("web-1")
    shell.ok("hold", "web-1", "--as", "ann", "--because", "backup")
    shell.ok("hold", "web-1", "--as", "bob", "--because", "new disk")
    assert "ann holds it already (backup)" in shell.refused("hold", "web-1", "--as", "ann", "--because", "restore")
    assert "it is still held by bob (new disk)" in shell.ok("release", "web-1", "--as", "ann")
    assert shell.get("web-1")["metadata"]["annotations"]["hold.virtsync.dev/bob"] == "new disk"
    assert "not held by ann, but by bob (new disk)" in shell.ok("release", "web-1", "--as", "ann")


def test_what_others_have_written_cannot_move_the_cursor(shell: Shell) -> None:
    shell.apply("web-1", meta={"annotations": {"hold.virtsync.dev/eve": "\x1b[2Jdisk\nx"}})
    said = shell("release", "web-1", "--as", "ann", color=True).output
    assert said == f"{NAMESPACE}/web-1: not held by ann, but by eve (disk x).\n"


def test_a_restart_is_scheduled_with_any_offset(shell: Shell) -> None:
    shell.apply("web-1", powerState="Running")
    assert "scheduled for 2090-12-01T22:00:00Z" in shell.ok("restart", "web-1", "--at", "2090-12-01T23:00:00+01:00")
    assert shell.get("web-1")["spec"]["restartRequestTime"] == "2090-12-01T22:00:00Z"
    assert "instead of 2090-12-01T22:00:00Z" in shell.ok("restart", "web-1")
    assert "would have no effect" in shell.refused("restart", "web-1", "--at", "2020-01-01T00:00:00Z")


def test_a_restart_of_a_vm_that_should_be_off_is_refused(shell: Shell) -> None:
    shell.apply("web-1", powerState="Stopped")
    assert "its powerState is Stopped" in shell.refused("restart", "web-1")
    assert "restartRequestTime" not in shell.get("web-1")["spec"]


def test_maintenance_is_declared_replaced_and_ended(shell: Shell, host: str) -> None:
    shell.ok("maintenance", "start", host, "--because", "ask sre")
    assert shell.host(host)["spec"]["maintenance"] == {"mode": "Hold", "reason": "ask sre"}
    more = ("maintenance", "start", host, "--mode", "shutdown", "--because", "new RAM")
    assert "in maintenance already (Hold: ask sre)" in shell.refused(*more)
    shell.ok(*more, "--replace")
    assert shell.host(host)["spec"]["maintenance"] == {"mode": "Shutdown", "reason": "new RAM"}
    assert "the maintenance is ended (Shutdown: new RAM)" in shell.ok("maintenance", "end", host)
    assert "maintenance" not in shell.host(host)["spec"]
    assert "not in maintenance" in shell.ok("maintenance", "end", host)


def test_a_maintenance_from_git_is_ended_only_with_anyway(shell: Shell, host: str) -> None:
    manifest = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "Hypervisor", "metadata": {"name": host}}
    manifest |= {"spec": {"maintenance": {"mode": "Hold", "reason": "in Git"}}}
    shell.controlplane.kubectl(
        "apply", "-f", "-", "--server-side", "--field-manager=kustomize-controller", input=json.dumps(manifest)
    )
    assert f"spec.maintenance {UNDONE.format('Flux')}" in shell.refused("maintenance", "end", host)
    shell.ok("maintenance", "end", host, "--anyway")
    assert "maintenance" not in shell.host(host)["spec"]


def test_a_wait_that_nobody_answers_ends_with_an_error(shell: Shell) -> None:
    shell.apply("web-1")
    said = shell.not_done("start", "web-1", "--wait", "--timeout", "1s")
    assert "the agent of node-a has not answered it" in said
    assert "not done within --timeout" in said
    assert shell.get("web-1")["spec"]["powerState"] == "Running"


def test_commands_wait_for_what_the_agent_does(world: World) -> None:
    shell = Shell(world.controlplane, world.name)
    guest = world.define()
    world.apply(guest)
    world.start_agent()
    world.until_ready(guest, "Observed")
    assert "InSync" in shell.ok("start", guest.name, "--wait", "--timeout", "60s")
    assert power_of(world.get(guest)) == "Running"
    run = world.run_id(guest)
    shell.ok("restart", guest.name, "--wait", "--timeout", "90s")
    assert world.run_id(guest) != run
    shell.ok("hold", guest.name, "--as", "ann", "--because", "backup")
    assert "Held" in shell.not_done("stop", guest.name, "--wait", "--timeout", "60s")
    assert power_of(world.get(guest)) == "Running"
    shell.ok("release", guest.name, "--as", "ann")
    shell.ok("stop", guest.name, "--wait", "--timeout", "90s")
    assert power_of(world.get(guest)) == "Stopped"


def test_a_maintenance_is_waited_for_until_the_host_is_quiet(world: World) -> None:
    shell = Shell(world.controlplane, world.name)
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until_ready(guest, "InSync")
    node = world.node
    assert "Quiet" in shell.ok("maintenance", "start", node, "--because", "ask sre", "--wait", "--timeout", "60s")
    assert shell.host(node)["status"]["maintenance"]
    shell.ok("maintenance", "end", node, "--wait", "--timeout", "60s")
    assert "maintenance" not in shell.host(node)["status"]


def test_the_second_of_two_restarts_in_a_second_is_a_restart_too(shell: Shell) -> None:
    shell.apply("web-1", powerState="Running")
    now = datetime.now(UTC).replace(microsecond=0)
    status = json.dumps({"status": {"lastRestartTime": api_time(now + timedelta(seconds=30))}})
    patch = ("patch", "kvm", "web-1", "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", status)
    shell.controlplane.kubectl(*patch)
    shell.ok("restart", "web-1")
    assert shell.get("web-1")["spec"]["restartRequestTime"] == api_time(now + timedelta(seconds=31))
