"""The agents on a real cluster: installed, rolled out, cut off from libvirt, rebooted and removed as users would."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest

from cluster.cluster import NODES, Cluster
from cluster.image import BUSYBOX_IMAGE, busybox_image
from cluster.node import Node
from lab.guest import Guest
from lab.world import Json, cause_of, is_off, power_of, runs, until
from tests.deploy.callers import Caller, Request
from tests.e2e.agents import (
    DAEMONSET,
    IMAGE,
    IMAGE_ARCHIVE,
    INSTALL,
    NAMESPACE,
    REPOSITORY,
    VERSION,
    Agents,
    TimedWatch,
)
from tests.e2e.vms import OnEachNode

pytestmark = pytest.mark.e2e

HANG_LIMIT = "--timeout=120s"

# On these nodes /run/libvirt is a mount itself.
ANOTHER_FOLDER = """
umount --lazy /run/libvirt
cd "$1" && mv run old && mkdir run && mv old/* run && rmdir old && mount --bind run /run/libvirt
"""


def test_install_is_what_the_readme_says(agents: Agents) -> None:
    assert " ".join(("kubectl", *INSTALL)) in (REPOSITORY / "README.md").read_text()

    # and may be said again
    agents.apply()
    agents.until_ready()


def test_a_vm_on_each_node_is_switched_and_seen(vms: OnEachNode) -> None:
    vms.switch_on()
    for guest in vms.guests.values():
        guest.wait_until_booted()

    vms.apply(powerState="Stopped")
    for guest in vms.guests.values():
        stopped = vms.world.until(guest, is_off, "off")
        assert cause_of(stopped) == "Agent"
    assert [guest.libvirtd.qemu_pid(guest.name) for guest in vms.guests.values()] == [None, None]


def test_check_in_a_pod_finds_nothing_missing(agents: Agents, cluster: Cluster) -> None:
    """kubectl fails, and so does this test, if the exit code is not 0."""
    assert "exec POD -- virtsync check" in (REPOSITORY / "docs" / "install.md").read_text()
    for node in cluster.nodes:
        restarts = agents.restarts(node)
        pod = agents.pod(node)["metadata"]["name"]
        found = json.loads(agents.kubectl("exec", pod, "--", "virtsync", "check", "--output", "json"))
        states = {one["name"]: one["state"] for one in found}
        for name in ("libvirt", "host lock", "API server", "clock", "node of the token", "Lease", "Hypervisor"):
            assert states[name] == "ok", found
        assert "missing" not in states.values(), found
        assert agents.restarts(node) == restarts


def test_what_somebody_does_on_the_host_is_seen(vms: OnEachNode) -> None:
    vms.apply()

    for guest in vms.guests.values():
        guest.start()
        vms.world.until(guest, lambda vm: power_of(vm) == "Running", "running")
        guest.poweroff()
        vms.world.until_off(guest, "Guest")


def test_ready_only_while_libvirt_is_connected_and_never_killed_for_it(
    agents: Agents, cluster: Cluster, vms: OnEachNode
) -> None:
    vms.switch_on()
    before = vms.run_of("node-b")
    node, guest = cluster.nodes["node-a"], vms.guests["node-a"]
    pod = agents.pod("node-a")["metadata"]["uid"]
    restarts = agents.restarts("node-a")

    with without_libvirtd(node):
        agents.until_pod("node-a", "condition=Ready=False")
    agents.until_pod("node-a", "condition=Ready")

    # The socket is another one, in the folder that the pod has.
    guest.poweroff()
    vms.world.until_off(guest, "Guest")
    assert vms.run_of("node-b") == before
    assert agents.pod("node-a")["metadata"]["uid"] == pod
    assert agents.restarts("node-a") == restarts


def test_it_is_started_anew_when_the_folder_of_the_socket_is_another(
    agents: Agents, cluster: Cluster, vms: OnEachNode
) -> None:
    """As by a package that is installed again: the mount would show the old one for ever."""
    vms.switch_on()
    before = vms.runs()
    node, restarts = cluster.nodes["node-a"], agents.restarts("node-a")

    with without_libvirtd(node):
        # With what is in it: libvirtd's notes of the VMs that run.
        node.run("sh", "-c", ANOTHER_FOLDER, "sh", node.libvirtd.folder)

    until(lambda: agents.restarts("node-a") == restarts + 1, "It was not started anew.")
    agents.until_ready()
    assert vms.runs() == before
    guest = vms.guests["node-a"]
    guest.wait_until_booted()
    guest.poweroff()
    vms.world.until_off(guest, "Guest")


def test_an_agent_that_starts_is_ready_when_libvirt_is(agents: Agents, cluster: Cluster) -> None:
    with without_libvirtd(cluster.nodes["node-a"]):
        agents.kubectl("delete", "pod", agents.pod("node-a")["metadata"]["name"])
        # It is alive, and nothing kills it: the probe of its start has passed.
        until(lambda: _started(agents, "node-a"), "The agent has not started.")
        assert not _ready(agents, "node-a")
        assert "libvirt" in agents.unready_because("node-a")

    agents.until_ready()


@pytest.mark.long
def test_a_node_without_libvirt_says_so(tmp_path: Path) -> None:
    with Cluster(tmp_path, ["bare"], images=[IMAGE_ARCHIVE], without_libvirt=["bare"]) as cluster:
        agents = Agents(cluster, ["bare"])
        cluster.kubectl("label", "node", "bare", "virtsync.dev/kvm=true")
        agents.apply()

        until(lambda: "FailedMount" in _events(agents), "There is no event FailedMount.", limit_s=120)
        assert "/run/libvirt is not a directory" in agents.kubectl("get", "events")

        # libvirt is installed on it later: nobody has to do anything else.
        cluster.nodes["bare"].libvirtd.start()
        agents.until_ready()


@pytest.mark.long
def test_a_new_version_is_rolled_out_and_no_vm_notices(
    agents: Agents, cluster: Cluster, vms: OnEachNode, capsys: pytest.CaptureFixture[str]
) -> None:
    vms.switch_on()
    before = vms.runs()
    for machine in cluster.nodes.values():
        machine.tag_image(f"{IMAGE}:{VERSION}", f"{IMAGE}:next")
    path = f"/apis/virtsync.dev/v1alpha1/namespaces/{vms.world.name}/virtualmachines"
    watched = [vms.world.define(f"toggled-{name}", libvirtd=node.libvirtd) for name, node in cluster.nodes.items()]
    for node, guest in zip(NODES, watched, strict=True):
        vms.world.apply(guest, nodeName=node)
        guest.start()

    with TimedWatch(cluster, path) as watch, toggled(watched):
        began = time.monotonic()
        agents.set_image("next")
        agents.until_ready()
        took_s = time.monotonic() - began
        for guest in watched:
            until_told_anew(watch, guest)
        gaps = {node: watch.longest_gap_s(g.name, began, power_of) for node, g in zip(NODES, watched, strict=True)}

    told = ", ".join(f"{node} {gap:.1f} s" for node, gap in gaps.items())
    with capsys.disabled():
        sys.stdout.write(f"\nrollout of 2 nodes: {took_s:.1f} s; longest time without a report: {told}\n")
    assert vms.runs() == before
    for guest in vms.guests.values():
        assert runs(vms.world.get(guest))
        # Nothing else has been told of it meanwhile, not even for a moment.
        states = [state for state, _, _ in vms.world.told(guest)]
        assert set(states[states.index("Running") :]) == {"Running"}
    assert _image(agents) == "virtsync/virtsync:next"

    agents.kubectl("rollout", "undo", DAEMONSET)
    agents.until_ready()
    assert _image(agents) == f"virtsync/virtsync:{VERSION}"
    assert vms.runs() == before


def test_a_broken_version_stops_at_the_first_node(
    agents: Agents, cluster: Cluster, vms: OnEachNode, tmp_path: Path
) -> None:
    vms.switch_on()
    before = vms.runs()
    archive = tmp_path / "broken.tar"
    busybox_image(archive, "virtsync/virtsync:broken", ["/bin/busybox", "false"])
    cluster.import_image(archive)

    agents.set_image("broken")
    until(lambda: any(_waits(agents, node) == "CrashLoopBackOff" for node in NODES), "Nothing crashes.", limit_s=120)

    status = json.loads(agents.kubectl("get", DAEMONSET, "--output=json"))["status"]
    assert status["updatedNumberScheduled"] == 1
    assert status["numberReady"] == 1
    spared = next(node for node in NODES if _ready(agents, node))
    guest = vms.guests[spared]
    guest.poweroff()
    vms.world.until_off(guest, "Guest")

    agents.kubectl("rollout", "undo", DAEMONSET)
    agents.until_ready()
    for node, guest in vms.guests.items():
        vms.world.until(guest, runs, "running")
        if node != spared:
            assert vms.run_of(node) == before[node]


def test_a_node_that_loses_power_has_its_vms_back(agents: Agents, cluster: Cluster, vms: OnEachNode) -> None:
    vms.switch_on()
    before = vms.runs()
    guest = vms.guests["node-b"]

    cluster.nodes["node-b"].reboot(cluster.watch_nodes)

    vms.world.until_off(guest, "NodeReboot")
    vms.world.until(guest, runs, "running")
    guest.wait_until_booted()
    agents.until_ready()
    assert vms.runs()["node-a"] == before["node-a"]


def test_uninstalled_and_installed_again_no_vm_notices(agents: Agents, vms: OnEachNode) -> None:
    vms.switch_on()
    before = vms.runs()

    agents.cluster.kubectl("delete", "-f", str(REPOSITORY / "deploy/install.yaml"), HANG_LIMIT)
    for guest in vms.guests.values():
        assert power_of(vms.world.get(guest)) == "Running"
    assert vms.runs() == before

    agents.apply()
    agents.until_ready()
    for guest in vms.guests.values():
        assert runs(vms.world.get(guest))
    assert vms.runs() == before


def test_labels_and_taints_say_which_nodes_have_agents(agents: Agents, cluster: Cluster, vms: OnEachNode) -> None:
    vms.switch_on()
    before = vms.runs()

    # A node for VMs and nothing else: an agent that is new there comes all the same, others do not.
    cluster.kubectl("taint", "node", "node-b", "virtsync.dev/kvm=true:NoSchedule")
    try:
        agents.kubectl("delete", "pod", agents.pod("node-b")["metadata"]["name"])
        agents.until_ready()
        elsewhere = f"--overrides={json.dumps({'spec': {'nodeSelector': {'kubernetes.io/hostname': 'node-b'}}})}"
        vms.world.kubectl("run", "other", f"--image={BUSYBOX_IMAGE}", elsewhere, "--", "sleep", "100000")
        vms.world.kubectl("wait", "pod/other", "--for=condition=PodScheduled=False", HANG_LIMIT)
    finally:
        cluster.kubectl("taint", "node", "node-b", "virtsync.dev/kvm:NoSchedule-")

    # A node that is to have none any more: its VMs run on.
    cluster.kubectl("label", "node", "node-b", "virtsync.dev/kvm-")
    try:
        until(lambda: not agents.pods("node-b"), "The agent stays.")
        assert agents.pods("node-a")
    finally:
        cluster.kubectl("label", "node", "node-b", "virtsync.dev/kvm=true")
    agents.until_ready()
    assert vms.runs() == before


def test_the_token_of_one_node_is_worth_nothing_on_another(agents: Agents, cluster: Cluster, vms: OnEachNode) -> None:
    """Somebody who has got the agent's token on node-a tries what it is good for."""
    vms.switch_on()
    before = vms.runs()
    uid = agents.pod("node-a")["metadata"]["uid"]
    places = f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~projected/*/token"
    thief = Caller(cluster.controlplane, cluster.nodes["node-a"].run("sh", "-c", f"cat {places}").strip())

    api = f"/apis/virtsync.dev/v1alpha1/namespaces/{vms.world.name}/virtualmachines"
    own, other = (f"{api}/{vms.guests[node].name}" for node in NODES)
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/node-b"
    lie = {"status": {"powerState": "Stopped"}}
    taken = {"spec": {"nodeName": "node-a"}}
    refused = [
        (
            Request("PATCH", f"{other}/status", lie),
            "a token of node node-a may not write the status of a VM of node node-b",
        ),
        (
            Request("PATCH", f"{other}/status", lie | taken),
            "a token of node node-a may not write the status of a VM of node node-b",
        ),
        (
            Request("POST", lease.rpartition("/")[0], {"metadata": {"name": "node-c"}}),
            "the agent of node node-a may not write the Lease",
        ),
        (Request("PATCH", other, taken), "cannot patch resource"),
        (Request("PATCH", other, {"metadata": {"annotations": {"hold.virtsync.dev/me": ""}}}), "cannot patch resource"),
        (Request("PATCH", own, {"spec": {"powerState": "Stopped"}}), "cannot patch resource"),
        (Request("DELETE", other), "cannot delete resource"),
        (Request("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets"), "cannot list resource"),
        (Request("GET", "/api/v1/nodes"), "cannot list resource"),
        (
            Request("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/virtsync-agent/token", {}),
            "cannot create resource",
        ),
    ]
    for request, message in refused:
        answer = thief.ask(request)
        assert not answer.granted, request
        assert message in answer.message
    # Its agent may renew it between the two, and then the answer is another one.
    while (
        answer := thief.ask(Request("PUT", lease, thief.ask(Request("GET", lease)).body))
    ).code == HTTPStatus.CONFLICT:
        pass
    assert "the agent of node node-a may not write the Lease" in answer.message
    # It is a token that works: for what its node is there for.
    assert thief.ask(Request("GET", own)).granted
    assert thief.ask(Request("PATCH", f"{own}/status", {"status": {}})).granted
    thief.close()
    assert vms.runs() == before
    for guest in vms.guests.values():
        assert runs(vms.world.get(guest))


# --- the scenarios that every level knows


@pytest.mark.long
def test_guest_poweroff_always(vms: OnEachNode) -> None:
    vms.apply(powerState="Running", restartPolicy="Always")
    for guest in vms.guests.values():
        vms.world.until(guest, runs, "running")
        guest.wait_until_booted()
        guest.poweroff()
    for guest in vms.guests.values():
        vms.world.until_off(guest, "Guest")
        again = vms.world.until(guest, runs, "running again")
        assert again["status"]["restartCount"] == 1


@pytest.mark.long
def test_virsh_start_of_stopped(vms: OnEachNode) -> None:
    vms.apply(powerState="Stopped")
    for guest in vms.guests.values():
        vms.world.until(guest, is_off, "off")
        guest.start()
    for guest in vms.guests.values():
        vms.world.until(guest, lambda vm: power_of(vm) == "Running", "running")
        stopped = vms.world.until(guest, is_off, "off again")
        assert cause_of(stopped) == "Agent"


@pytest.mark.long
def test_hold(vms: OnEachNode) -> None:
    vms.switch_on()
    guest = vms.guests["node-a"]
    vms.world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/test=backup")

    guest.wait_until_booted()
    guest.poweroff()
    vms.world.until_off(guest, "Guest")
    vms.world.until_ready(guest, "Held")
    # What comes of a stop without a hold has come on the other node.
    other = vms.guests["node-b"]
    other.wait_until_booted()
    other.poweroff()
    vms.world.until_off(other, "Guest")
    vms.world.until(other, runs, "running again")
    assert guest.libvirtd.qemu_pid(guest.name) is None

    vms.world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/test-")
    vms.world.until(guest, runs, "running again")


def test_node_handover(cluster: Cluster, vms: OnEachNode) -> None:
    """Off on node-a, and defined on node-b under the same name and UUID: node-b starts it."""
    guest = vms.guests["node-a"]
    vms.world.apply(guest, nodeName="node-a", powerState="Stopped")
    vms.world.until(guest, is_off, "off")
    twin = cluster.nodes["node-b"].define(guest.name, uuid=guest.uuid)

    vms.world.patch(guest, nodeName="node-b", powerState="Running")
    vms.world.until(guest, lambda vm: runs(vm) and vm["status"]["nodeName"] == "node-b", "running on node-b")
    assert twin.qemu_pid
    assert guest.libvirtd.qemu_pid(guest.name) is None
    twin.remove()


# --- helpers


@contextmanager
def without_libvirtd(node: Node) -> Iterator[None]:
    """Stop a node's libvirtd in order, and start it again; its guests live on."""
    node.libvirtd.halt()
    try:
        yield
    finally:
        node.libvirtd.start()


@contextmanager
def toggled(guests: list[Guest]) -> Iterator[None]:
    """Pause guests and let them run in turn, several times a second, as long as this lasts."""
    end = threading.Event()

    def toggle(guest: Guest) -> None:
        while not end.wait(0.2):
            for verb in ("suspend", "resume"):
                guest.libvirtd.virsh(verb, guest.name)

    threads = [threading.Thread(target=toggle, args=(guest,)) for guest in guests]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


def until_told_anew(watch: TimedWatch, guest: Guest) -> None:
    """Return when two more versions of an object have come."""
    seen = len(watch.versions(guest.name))
    until(lambda: len(watch.versions(guest.name)) > seen + 1, f"Nothing is told of {guest.name} any more.")


def _container(agents: Agents, node: str) -> Json:
    """What the kubelet says of the agent's container; nothing if it has said nothing yet."""
    for pod in agents.pods(node):
        for container in pod["status"].get("containerStatuses", []):
            return dict(container)
    return {}


def _started(agents: Agents, node: str) -> bool:
    return bool(_container(agents, node).get("started"))


def _ready(agents: Agents, node: str) -> bool:
    return bool(_container(agents, node).get("ready"))


def _waits(agents: Agents, node: str) -> str | None:
    """Why the agent's container of a node does not run; None if it does."""
    state = _container(agents, node).get("state", {})
    return str(state["waiting"]["reason"]) if "waiting" in state else None


def _events(agents: Agents) -> set[str]:
    return set(agents.kubectl("get", "events", "--output=jsonpath={.items[*].reason}").split())


def _image(agents: Agents) -> str:
    return agents.kubectl("get", DAEMONSET, "--output=jsonpath={.spec.template.spec.containers[0].image}")
