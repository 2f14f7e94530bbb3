"""The Hypervisor of a node, which its agent keeps on a real API server: what it shows, and what it is told."""

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import libvirt
import pytest

from controller import __version__
from controller.agent.host_report import URGENT_EVERY_S
from lab import LabError
from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.world import Json, Watch, World, power_of, ready_of, until

ALL_WELL = {"total": 1, "running": 1, "notReady": 0}
TEST_DOMAIN = "<domain type='test'><name>{name}</name><memory>1024</memory><os><type>hvm</type></os></domain>"
HYPERVISORS = "/apis/virtsync.dev/v1alpha1/hypervisors"


class Host:
    """The Hypervisor of a world's node, with each of its versions."""

    def __init__(self, world: World, watch: Watch) -> None:
        self.world, self.name, self._watch = world, world.node, watch
        self._first = 0

    def until(self, holds: Callable[[Json], bool], what: str) -> Json:
        """The first version for which this holds, from where the last wait ended."""
        self._first, found = self._watch.until(self.name, holds, first=self._first)
        if found is None:
            told = "\n".join(json.dumps(version.get("status")) for version in self.versions()[-5:])
            raise LabError(f"{self.name}: not {what}; the last versions:\n{told}\n{self.world._told_by_agents()}")
        return found

    def until_ready(self, reason: str) -> Json:
        return self.until(lambda host: condition(host).get("reason") == reason, f"Ready with reason {reason}")

    def until_quiesced(self, status: str) -> Json:
        return self.until(
            lambda host: condition(host, "Quiesced").get("status") == status and acknowledged(host),
            f"Quiesced {status}",
        )

    def until_acknowledged(self) -> Json:
        return self.until(acknowledged, "acknowledged")

    def versions(self) -> list[Json]:
        return self._watch.versions(self.name)

    def get(self) -> Json:
        found: Json = json.loads(self.world.controlplane.kubectl("get", "kvmhost", self.name, "-o=json").stdout)
        return found

    def maintain(self, mode: str, reason: str = "new RAM") -> None:
        """Declare a maintenance, as docs/operations.md says."""
        self.patch({"maintenance": {"mode": mode, "reason": reason}})

    def may_maintain(self, mode: str) -> bool:
        """Declare it; whether the API server accepts it."""
        patch = json.dumps({"spec": {"maintenance": {"mode": mode, "reason": "any"}}})
        words = ("patch", "kvmhost", self.name, "--type=merge", "-p", patch)
        return self.world.controlplane.kubectl(*words, check=False).returncode == 0

    def patch_status(self, status: Json) -> None:
        """Write a part of the status, as the manager does."""
        patch = json.dumps({"status": status})
        words = ("patch", "kvmhost", self.name, "--subresource=status", "--type=merge", "-p", patch)
        self.world.controlplane.kubectl(*words)

    def end(self) -> None:
        """End the maintenance."""
        self.patch({"maintenance": None})

    def patch(self, spec: Json) -> None:
        words = ("patch", "kvmhost", self.name, "--type=merge", "-o=json", "-p", json.dumps({"spec": spec}))
        patched = json.loads(self.world.controlplane.kubectl(*words).stdout)["metadata"]["resourceVersion"]
        self.until(lambda host: bool(host["metadata"]["resourceVersion"] == patched), "patched")

    def until_event(self, reason: str) -> None:
        until(lambda: reason in self.events(), f"no Event {reason}, but {self.events()}")

    def events(self) -> list[str]:
        """The reasons of the Events about it."""
        listed = self.world.controlplane.kubectl("get", "events.events.k8s.io", "-n=default", "-o=json").stdout
        return [one["reason"] for one in json.loads(listed)["items"] if one["regarding"]["name"] == self.name]


def condition(host: Json, kind: str = "Ready") -> Json:
    found = host.get("status", {}).get("conditions", [])
    return next((one for one in found if one["type"] == kind), {})


def acknowledged(host: Json) -> bool:
    return bool(host["status"].get("observedGeneration") == host["metadata"]["generation"])


@contextmanager
def watched(world: World) -> Iterator[Host]:
    with Watch(world.controlplane, HYPERVISORS) as watch:
        yield Host(world, watch)


@pytest.fixture
def host(world: World) -> Iterator[Host]:
    with watched(world) as found:
        yield found


@pytest.fixture
def own() -> Iterator[Libvirtd]:
    """A libvirtd with no domains but those of the test."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder, Libvirtd(Path(folder)) as running:
        yield running


# --- what it shows


def test_an_agent_creates_its_hypervisor_and_says_what_its_host_has(world: World, host: Host) -> None:
    managed, unmanaged = world.start("managed"), world.start("unmanaged")
    world.apply(managed, powerState="Running")
    world.start_agent(lease_namespace=world.name)
    found = host.until(
        lambda one: bool(condition(one).get("reason") == "Active" and one["status"].get("libvirtVersion")), "ready"
    )
    assert found["spec"] == {}
    status = found["status"]
    assert status["observedGeneration"] == found["metadata"]["generation"]
    assert (status["leaseNamespace"], status["nodeBootID"], status["agentVersion"]) == (
        world.name,
        "first-boot",
        __version__,
    )
    assert re.fullmatch(r"\d+\.\d+\.\d+", status["qemuVersion"])
    assert status["capacity"]["cpus"] > 0
    found = host.until(
        lambda one: one["status"].get("virtualMachines") == {"total": 1, "running": 1, "notReady": 0}, "counted"
    )
    names = {one["name"]: one for one in found["status"]["unmanaged"]["domains"]}
    assert names[unmanaged.name]["powerState"] == "Running"
    assert names[unmanaged.name]["reason"] == "BOOTED"
    assert managed.name not in names


def test_a_domain_that_appears_or_comes_on_is_shown_though_nobody_lists(world: World, host: Host) -> None:
    """The agent lists libvirt only once an hour here, so it is the event that leads to the list."""
    world.start_agent()
    host.until_ready("Active")
    guest = world.define()
    host.until(lambda one: shown(one, guest.name) == "Stopped", "shown off")
    world.virsh("start", guest.name)
    host.until(lambda one: shown(one, guest.name) == "Running", "shown on")
    world.apply(guest)
    host.until(lambda one: not shown(one, guest.name), "adopted")


def test_names_can_be_left_out_and_domains_ignored(world: World, host: Host) -> None:
    world.define("instance-1"), world.define("other")
    agent = world.start_agent(ignore_domains=".*-instance-.*")
    found = host.until(lambda one: bool(shown(one, f"{world.name}-other")), "shown")
    assert not shown(found, f"{world.name}-instance-1")
    assert found["status"]["domains"]["total"] > found["status"]["unmanaged"]["total"]
    agent.stop()
    world.start_agent(report_unmanaged="false")
    found = host.until(lambda one: bool(one["status"]["unmanaged"].get("truncated")), "without names")
    assert not found["status"]["unmanaged"].get("domains")
    assert found["status"]["unmanaged"]["total"] >= 2


def test_an_agent_that_only_observes_reports_on_its_host_too(world: World, host: Host) -> None:
    world.start_agent(observe_only="")
    assert condition(host.until_ready("ObserveOnly"))["status"] == "True"


def test_a_libvirt_that_is_away_is_told_and_what_was_seen_stays(
    crd: ControlPlane, own: Libvirtd, tmp_path: Path
) -> None:
    with World(crd, own, "host-without-libvirt", tmp_path) as world, watched(world) as host:
        guest = world.define()
        world.start_agent()
        host.until(lambda one: shown(one, guest.name) == "Stopped", "shown")
        own.halt()
        found = host.until_ready("LibvirtUnreachable")
        assert condition(found)["status"] == "Unknown"
        assert shown(found, guest.name) == "Stopped"
        own.start()
        host.until_ready("Active")


def test_a_mark_of_the_manager_is_taken_back(world: World, host: Host) -> None:
    world.start_agent()
    found = host.until_ready("Active")
    mark = condition(found) | {"status": "Unknown", "reason": "AgentUnreachable", "message": "It is not heard."}
    host.patch_status({"conditions": [mark]})
    host.until_ready("AgentUnreachable")
    host.until_ready("Active")


def test_only_the_agent_that_holds_the_lease_reports(world: World, host: Host) -> None:
    """Two hosts of one name: their locks do not exclude each other."""
    world.start_agent(lease_namespace=world.name, identity="one")
    host.until_ready("Active")
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder, Libvirtd(Path(folder)) as other:
        second = world.new_agent(uri=other.uri, lease_namespace=world.name, identity="two", boot_id="other-boot")
        second.launch()
        until(lambda: "one holds it" in lacks(second), "it does not wait for the Lease")
        until(lambda: "hypervisor: " not in lacks(second), "it does not read the object")
        world.define()
        host.until(lambda one: bool(shown(one, f"{world.name}-vm")), "reported")
        second.stop()
    assert {one["status"].get("nodeBootID", "first-boot") for one in host.versions()} == {"first-boot"}


def test_thousands_of_events_are_few_writes_and_end_right(crd: ControlPlane, own: Libvirtd, tmp_path: Path) -> None:
    with World(crd, own, "host-report", tmp_path) as world, watched(world) as host:
        books = libvirt.open(own.test_uri)
        try:
            domains = [books.defineXML(TEST_DOMAIN.format(name=f"vm-{number:02}")) for number in range(50)]
            agent = world.new_agent(uri=own.test_uri)
            agent.start()
            host.until(lambda one: bool(one["status"].get("unmanaged", {}).get("total") == 51), "listed")
            before, began_s = len(host.versions()), time.monotonic()
            for _ in range(100):
                for domain in domains:
                    domain.create()
                    domain.destroy()
            for domain in domains[::2]:
                domain.create()
            counted = {"total": 51, "running": 26}  # with the one that the driver has from the start
            found = host.until(lambda one: bool(one["status"]["domains"] == counted), "right in the end")
            took_s = time.monotonic() - began_s
        finally:
            books.close()
        assert heard(agent) >= 10_000
        on = {one["name"] for one in found["status"]["unmanaged"]["domains"] if one["powerState"] == "Running"}
        assert on == {"test", *(f"vm-{number:02}" for number in range(0, 50, 2))}
        assert len(host.versions()) - before <= took_s / URGENT_EVERY_S + 1


@pytest.mark.long
def test_a_host_that_does_not_change_is_not_written(world: World, host: Host) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    agent = world.start_agent(resync_libvirt="1s")
    host.until(lambda one: bool(one["status"].get("virtualMachines") == ALL_WELL), "right")
    lists = listings(agent)
    before = len(host.versions())
    until(lambda: listings(agent) > lists + 40, "it does not list", limit_s=120)
    assert len(host.versions()) == before


# --- maintenance


def test_hold_keeps_everything_as_it_is_until_it_ends(world: World, host: Host) -> None:
    on, off = world.start("on"), world.start("off")
    world.apply(on, off, powerState="Running")
    world.start_agent()
    world.until_ready(on, "InSync"), world.until_ready(off, "InSync")
    host.maintain("Hold")
    found = host.until_quiesced("True")
    assert found["status"]["maintenance"]["remaining"] >= 2
    world.virsh("destroy", off.name)
    vm = world.until_ready(off, "Held")
    assert f"{world.node} is in maintenance (new RAM)" in ready_of(vm)["message"]
    world.patch(on, powerState="Stopped")
    world.until_ready(on, "Held")
    assert world.nothing_done(on)
    assert world.nothing_done(off)
    host.end()
    found = host.until_acknowledged()
    assert "maintenance" not in found["status"]
    assert not condition(found, "Quiesced")
    world.until_ready(off, "Settling")
    world.until_acts(off, "START done")
    world.until(on, lambda vm: power_of(vm) == "Stopped", "stopped")
    for reason in ("MaintenanceBegun", "Quiesced", "MaintenanceEnded"):
        host.until_event(reason)


def test_shutdown_leaves_what_is_not_ours_and_ends_with_all_as_it_was(
    crd: ControlPlane, own: Libvirtd, tmp_path: Path
) -> None:
    with World(crd, own, "maintenance-shutdown", tmp_path) as world, watched(world) as host:
        ours, paused, foreign = world.start("ours"), world.start("paused"), world.start("foreign")
        world.virsh("suspend", paused.name)
        world.apply(ours, powerState="Running")
        world.apply(paused, powerState="Paused")
        world.start_agent()
        world.until_ready(ours, "InSync"), world.until_ready(paused, "InSync")
        host.maintain("Shutdown")
        world.until(ours, lambda vm: power_of(vm) == "Stopped", "off")
        found = host.until(
            lambda one: bool(one["status"].get("maintenance", {}).get("remaining") == 2), "two still run"
        )
        told = condition(found, "Quiesced")
        assert (told["status"], told["reason"]) == ("False", "DomainsRunning")
        assert told["message"] == f"2 domains still run: {foreign.name}, {paused.name}."
        world.virsh("destroy", foreign.name)
        world.virsh("destroy", paused.name)
        assert host.until_quiesced("True")["status"]["maintenance"]["remaining"] == 0
        assert world.acts(paused) == []
        host.end()
        world.until(ours, lambda vm: power_of(vm) == "Running", "on again")
        world.until(paused, lambda vm: power_of(vm) == "Paused", "paused again")
        assert world.acts(foreign) == []


def test_an_object_that_waits_for_its_finalizer_does_not_keep_the_host_from_being_quiet(
    crd: ControlPlane, own: Libvirtd, tmp_path: Path
) -> None:
    """No agent reports on it any more: its status says Running although the domain is off."""
    with World(crd, own, "maintenance-deleted", tmp_path) as world, watched(world) as host:
        kept = world.start("kept")
        world.apply(kept, powerState="Running")
        world.start_agent()
        world.until_ready(kept, "InSync")
        _set_finalizers(world, kept, ["example.com/keep"])
        world.kubectl("delete", "kvm", kept.name, "--wait=false")
        try:
            host.maintain("Shutdown")
            assert condition(host.until_quiesced("False"), "Quiesced")["reason"] == "DomainsRunning"
            world.virsh("destroy", kept.name)
            host.until_quiesced("True")
        finally:
            _set_finalizers(world, kept, None)


def _set_finalizers(world: World, guest: Guest, finalizers: list[str] | None) -> None:
    patch = json.dumps({"metadata": {"finalizers": finalizers}})
    world.kubectl("patch", "kvm", guest.name, "--type=merge", "-p", patch)


def test_a_maintenance_outlives_host_agent_and_api_server(tmp_path: Path, own: Libvirtd) -> None:
    with ControlPlane(tmp_path / "controlplane") as server:
        server.install_crds()
        with World(server, own, "maintenance-reboot", tmp_path) as world, watched(world) as host:
            guest = world.start()
            world.apply(guest, powerState="Running")
            agent = world.start_agent()
            world.until_ready(guest, "InSync")
            host.maintain("Shutdown")
            began = host.until_quiesced("True")["status"]["maintenance"]["startTime"]
            agent.kill()
            own.restart()
            with server.down():
                agent.launch(boot_id="second-boot")
            agent.wait_until_ready()
            found = host.until(lambda one: bool(one["status"]["nodeBootID"] == "second-boot"), "reported")
            assert found["status"]["maintenance"] == {"startTime": began, "remaining": 0}
            assert condition(host.until_quiesced("True"), "Quiesced")
            assert "START done" not in world.acts(guest)
            host.end()
            world.until_act(guest, "START done")


def test_a_new_agent_acts_only_when_it_has_acknowledged(world: World, host: Host) -> None:
    guest = world.define()
    world.apply(guest, powerState="Stopped")
    agent = world.start_agent()
    host.until_ready("Active")
    agent.kill()
    host.maintain("Hold")
    world.patch(guest, powerState="Running")
    assert not acknowledged(host.get())
    assert not condition(host.get(), "Quiesced"), "nobody obeys it yet"
    agent.start()
    host.until_quiesced("True")
    world.until_ready(guest, "Held")
    assert world.nothing_done(guest)


def test_a_hypervisor_that_is_deleted_is_created_again_and_its_maintenance_is_over(world: World, host: Host) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until_ready(guest, "InSync")
    host.maintain("Hold")
    first = host.until_quiesced("True")
    world.virsh("destroy", guest.name)
    world.until_ready(guest, "Held")
    world.controlplane.kubectl("delete", "kvmhost", host.name)
    host.until(lambda one: one["metadata"]["uid"] != first["metadata"]["uid"] and acknowledged(one), "created again")
    world.until_ready(guest, "Settling")
    world.until_act(guest, "START done")


# --- definitions and rights that are missing


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server whose definitions a test may remove."""
    with ControlPlane(tmp_path_factory.mktemp("hypervisors") / "controlplane") as running:
        running.install_crds()
        yield running


@pytest.fixture
def world_apart(
    server: ControlPlane, libvirtd: Libvirtd, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[World]:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))[:40].strip("-")
    try:
        with World(server, libvirtd, name, tmp_path) as world:
            yield world
    finally:
        server.install_crds()


def test_with_old_definitions_the_agent_acts_and_is_not_ready(world_apart: World) -> None:
    world = world_apart
    remove_definition(world)
    guest = world.start()
    world.apply(guest, powerState="Running")
    agent = world.new_agent()
    agent.launch()
    world.until_ready(guest, "InSync")
    world.virsh("destroy", guest.name)
    world.until_act(guest, "START done")
    world.until_ready(guest, "InSync")
    assert "hypervisor: the API server does not know Hypervisor: install deploy/crds" in lacks(agent)
    world.controlplane.install_crds()
    with watched(world) as host:
        agent.wait_until_ready()
        host.maintain("Hold")
        host.until_quiesced("True")


def test_a_definition_that_is_removed_blocks_until_a_new_object_was_read(world_apart: World) -> None:
    world = world_apart
    guest = world.start()
    world.apply(guest, powerState="Running")
    agent = world.start_agent()
    world.until_ready(guest, "InSync")
    with watched(world) as host:
        host.maintain("Shutdown")
        world.until(guest, lambda vm: power_of(vm) == "Stopped", "off")
        host.until(acknowledged, "acknowledged")
    remove_definition(world)
    until(lambda: "does not know Hypervisor" in lacks(agent), "it does not notice")
    assert "START done" not in world.acts(guest)
    world.controlplane.install_crds()
    world.until_ready(guest, "Settling")
    world.until_act(guest, "START done")
    agent.wait_until_ready()


def test_an_agent_that_may_not_read_its_hypervisor_does_not_act(world: World, host: Host) -> None:
    rights = {"verbs": ["get", "list", "watch", "patch"], "apiGroups": ["virtsync.dev"]}
    rules = [rights | {"resources": ["virtualmachines", "virtualmachines/status"]}]
    role = f"{world.name}-without-hosts"
    allow(world, role, rules)
    kubeconfig = world.controlplane.service_account(world.name, "agent", cluster_role=role)
    guest = world.define()
    world.apply(guest, powerState="Running")
    agent = world.new_agent(kubeconfig=kubeconfig)
    agent.launch()
    vm = world.until_ready(guest, "ActionBlocked")
    assert "cannot be read: virtsync-agent lacks a permission" in ready_of(vm)["message"]
    assert "hypervisor: Hypervisor" in lacks(agent)
    hosts = [rights | {"verbs": [*rights["verbs"], "create"], "resources": ["hypervisors", "hypervisors/status"]}]
    allow(world, role, [*rules, *hosts])
    host.until_ready("Active")
    world.until_act(guest, "START done")
    agent.wait_until_ready()
    allow(world, role, rules)
    until(lambda: "cannot be read" in lacks(agent), "it does not notice", limit_s=120)
    world.virsh("destroy", guest.name)
    world.until_ready(guest, "ActionBlocked")


def test_a_spec_of_a_newer_version_blocks(world_apart: World) -> None:
    world = world_apart
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/maintenance/properties/mode/enum/-"
    newer = json.dumps([{"op": "add", "path": path, "value": "Drain"}])
    world.controlplane.kubectl("patch", "crd", "hypervisors.virtsync.dev", "--type=json", "-p", newer)
    guest = world.start()
    world.apply(guest, powerState="Running")
    agent = world.start_agent()
    world.until_ready(guest, "InSync")
    with watched(world) as host:
        until(lambda: host.may_maintain("Drain"), "the new definition does not come into force")
        found = host.until_ready("ActionBlocked")
        assert 'does not understand spec.maintenance {"mode": "Drain"' in condition(found)["message"]
        assert not agent.ready()
        world.virsh("destroy", guest.name)
        world.until_ready(guest, "ActionBlocked")
        host.end()
        host.until_ready("Active")
        world.until_act(guest, "START done")


# --- VMs that run elsewhere


def test_a_vm_that_runs_elsewhere_is_not_started_here(world: World, host: Host) -> None:
    guest = world.define()
    world.apply(guest, powerState="Stopped")
    world.start_agent()
    world.until_ready(guest, "InSync")
    entry = {"uuid": str(guest.uuid), "nodeName": "node-b", "since": "2026-11-26T08:20:13Z"}
    host.patch_status({"runsElsewhere": [entry]})
    world.patch(guest, powerState="Running")
    vm = world.until_ready(guest, "RunsElsewhere")
    assert "node-b" in ready_of(vm)["message"]
    assert world.nothing_done(guest)
    other = world.define("other")
    found = host.until(lambda one: bool(shown(one, other.name)), "reported")
    assert found["status"]["runsElsewhere"] == [entry], "the agent leaves the list of the manager alone"
    host.patch_status({"runsElsewhere": None})
    world.until_act(guest, "START done")


def shown(host: Json, name: str) -> str:
    """The power state of an unmanaged domain; empty: it is not among them."""
    listed = host.get("status", {}).get("unmanaged", {}).get("domains", [])
    return next((str(one["powerState"]) for one in listed if one["name"] == name), "")


def lacks(agent: Agent) -> str:
    """Why the agent is not ready; empty: it is, or it does not serve yet."""
    try:
        status, text = agent.ask("/readyz")
    except OSError:
        return ""
    return "" if status == HTTPStatus.OK else text


def heard(agent: Agent) -> float:
    """How many events of libvirt it has counted."""
    counted = re.findall(r"^virtsync_libvirt_events_total\{.*\} (\S+)$", agent.metrics(), re.MULTILINE)
    return sum(map(float, counted))


def listings(agent: Agent) -> float:
    """How often it has listed libvirt."""
    (count,) = re.findall(r'^virtsync_resync_seconds_count\{source="libvirt"\} (\S+)$', agent.metrics(), re.MULTILINE)
    return float(count)


def allow(world: World, role: str, rules: list[Json]) -> None:
    """Make a cluster role with these rules, and no others; agents may always write Events."""
    events = {"verbs": ["create", "patch"], "apiGroups": ["events.k8s.io"], "resources": ["events"]}
    raw = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": role},
        "rules": [*rules, events],
    }
    world.controlplane.kubectl("apply", "-f", "-", input=json.dumps(raw))


def remove_definition(world: World) -> None:
    world.controlplane.kubectl("delete", "crd", "hypervisors.virtsync.dev", "--timeout=60s")
    until(lambda: world.controlplane.kubectl("get", "kvmhost", check=False).returncode != 0, "it is still served")
