"""The watch by itself, on a real API server."""

import getpass
import json
import queue
import re
import threading
from urllib.parse import urlsplit

import pytest

from controller.api.virtualmachine import Status, VmKey
from controller.kube.client import load
from controller.kube.store import KubeStore, Update
from controller.kube.watch import Watch
from controller.kube.watched import own_hypervisor, virtual_machines
from lab.proxy import Proxy
from lab.world import API, HANG_LIMIT_S, Json, World, until
from tests.integration.watching import running


def test_it_needs_no_name_of_the_user_and_leaves_nothing_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 65532")

    monkeypatch.setattr(getpass, "getuser", unknown)
    seen: queue.Queue[Json] = queue.Queue()
    vms = virtual_machines(world.node, on_object=seen.put, on_gone=lambda _: None)
    watch = Watch(load(world.controlplane.kubeconfig), world.node, [vms])
    with running(watch):
        guest = world.define()
        world.apply(guest)
        assert seen.get(timeout=HANG_LIMIT_S)["metadata"]["name"] == guest.name


def test_no_list_asks_the_api_server_for_a_consistent_read(world: World) -> None:
    """When its watch cache is behind, the API server answers such lists from etcd, each with all objects in memory."""
    api = load(world.controlplane.kubeconfig)
    before = consistent_reads(world)
    seen: queue.Queue[Json] = queue.Queue()
    vms = virtual_machines(world.node, on_object=seen.put, on_gone=lambda _: None)
    store = KubeStore(
        api, world.node, on_rewound=lambda: None, on_kept=seen.put, on_absent=lambda _: pytest.fail("absent")
    )
    with running(Watch(api, world.node, [vms])):
        until(lambda: vms.health.open, "it does not begin")
        world.apply(world.define())
        assert store.put(seen.get(timeout=HANG_LIMIT_S)) is Update.STORED
        assert store.relist() == (set(), set())
    assert consistent_reads(world) == before


def consistent_reads(world: World) -> float:
    """How many lists of VirtualMachines the API server has answered so far in the state of that moment."""
    metrics = world.controlplane.kubectl("get", "--raw", "/metrics").stdout
    counts = re.findall(
        r'^apiserver_watch_cache_consistent_read_total{.*"virtualmachines".*} (\S+)$', metrics, re.MULTILINE
    )
    return sum(map(float, counts))


def test_each_ends_after_a_while_and_the_next_needs_no_list_and_no_connection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it ends shows that it lives: thousands of agents do so all the time."""
    monkeypatch.setattr("controller.kube.watch.WATCH_S", (1.0, 1.0))
    port = urlsplit(world.controlplane.url).port
    assert port
    with Proxy(port) as proxy:
        api = load(proxy.kubeconfig(world.controlplane.kubeconfig))
        seen: queue.Queue[Json] = queue.Queue()
        vms = virtual_machines(world.node, on_object=seen.put, on_gone=lambda _: None)
        watch = Watch(api, world.node, [vms])
        with running(watch):
            until(lambda: vms.health.open, "it does not begin")
            accepted, asked = proxy.accepted, {vms.health.last_request_s}

            def again() -> bool:
                asked.add(vms.health.last_request_s)
                return len(asked) > 5

            until(again, "it does not end")
            assert proxy.accepted == accepted
            assert vms.health.listings == 1
            guest = world.define()
            world.apply(guest)
            assert seen.get(timeout=HANG_LIMIT_S)["metadata"]["name"] == guest.name


def test_a_second_kind_is_watched_beside_the_first(world: World) -> None:
    api = load(world.controlplane.kubeconfig)
    seen: queue.Queue[Json] = queue.Queue()
    gone: queue.Queue[None] = queue.Queue()
    vms = virtual_machines(world.node, on_object=seen.put, on_gone=lambda _: None)
    host = own_hypervisor(
        world.node, on_object=seen.put, on_gone=lambda: gone.put(None), on_refused=lambda: pytest.fail("refused")
    )
    with running(Watch(api, world.node, [vms, host])):
        until(lambda: vms.health.open and host.health.open, "they do not begin")
        create_hypervisor(world, f"{world.node}-2")
        create_hypervisor(world, world.node)
        assert seen.get(timeout=HANG_LIMIT_S)["metadata"]["name"] == world.node, "no other than its own"
        world.controlplane.kubectl("delete", "kvmhost", world.node, f"{world.node}-2")
        assert gone.get(timeout=HANG_LIMIT_S) is None
        guest = world.define()
        world.apply(guest)
        assert seen.get(timeout=HANG_LIMIT_S)["metadata"]["name"] == guest.name
        assert vms.health.listings == host.health.listings == 1


def test_a_kind_that_may_not_be_watched_leaves_the_others_alone(world: World) -> None:
    """The roles of an older version do not allow it."""
    role = f"{world.node}-vms"
    words = ("create", "clusterrole", role, "--verb=get,list,watch", "--resource=virtualmachines.virtsync.dev")
    world.controlplane.kubectl(*words)
    api = load(world.controlplane.service_account(world.name, "agent", cluster_role=role))
    seen: queue.Queue[Json] = queue.Queue()
    refused = threading.Event()
    vms = virtual_machines(world.node, on_object=seen.put, on_gone=lambda _: None)
    host = own_hypervisor(
        world.node, on_object=lambda _: None, on_gone=lambda: pytest.fail("gone"), on_refused=refused.set
    )
    with running(Watch(api, world.node, [vms, host])):
        until(lambda: vms.health.open, "it does not begin")
        assert refused.wait(HANG_LIMIT_S)
        guest = world.define()
        world.apply(guest)
        assert seen.get(timeout=HANG_LIMIT_S)["metadata"]["name"] == guest.name
        assert host.refused
        assert "the API server answers 403" in str(host.health.unready())
        more = ("--patch", json.dumps([{"op": "add", "path": "/rules/0/resources/-", "value": "hypervisors"}]))
        world.controlplane.kubectl("patch", "clusterrole", role, "--type=json", *more)
        until(lambda: host.health.open, "it does not begin when it is allowed")
        assert vms.health.listings == 1, "kopf goes on"


def test_an_agent_is_told_what_others_write_and_not_what_it_writes_itself(world: World) -> None:
    """In whatever order the answers and the events come. The API server must repeat an object byte for byte."""
    seen: queue.Queue[Json] = queue.Queue()
    kept: queue.Queue[Json] = queue.Queue()
    api = load(world.controlplane.kubeconfig)
    guests = [world.define() for _ in range(3)]
    for guest in guests:
        world.apply(guest)
        annotate(world, guest.name, '<&> \u2028 \\ ü "name":"')
    store = KubeStore(
        api,
        world.node,
        on_rewound=lambda: pytest.fail("rewound"),
        on_kept=kept.put,
        on_absent=lambda _: pytest.fail("absent"),
    )
    store.relist()
    vms = virtual_machines(world.node, on_object=seen.put, on_gone=lambda _: None, known=store)
    with running(Watch(api, world.node, [vms])):
        until(lambda: vms.health.open, "it does not begin")
        for turn in range(10):
            for vm in store.vms():
                store.report(vm, Status(node_name=world.node, observed_generation=turn + 1))
        annotate(world, guests[0].name, "told")
        last = seen.get(timeout=HANG_LIMIT_S)
    assert last["metadata"]["annotations"]["example.org/note"] == "told"
    assert seen.empty()
    assert kept.empty()


def test_no_annotation_moves_the_watch_past_what_others_write(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next watch begins at the version of the last event, which is read from the text of an own write."""
    monkeypatch.setattr("controller.kube.watch.WATCH_S", (2.0, 2.0))
    odd, other = (world.define() for _ in range(2))
    world.apply(odd, other)
    keys = (f"name={odd.name}", f"namespace={world.name}", f"resourceVersion={2**40}", "uid=x")
    world.kubectl("annotate", "kvm", odd.name, *keys)
    seen: queue.Queue[Json] = queue.Queue()
    api = load(world.controlplane.kubeconfig)
    store = KubeStore(api, world.node, on_rewound=lambda: None, on_kept=seen.put, on_absent=lambda _: None)
    store.relist()
    vms = virtual_machines(world.node, on_object=seen.put, on_gone=lambda _: None, known=store)
    with running(Watch(api, world.node, [vms])):
        until(lambda: vms.health.open, "it does not begin")
        vm = store.read(VmKey(world.name, odd.name))
        assert vm
        store.report(vm, Status(node_name=world.node, observed_generation=1))
        reported_s = vms.health.last_request_s
        until(lambda: vms.health.last_request_s > reported_s + 1, "the next watch does not begin")
        annotate(world, other.name, "told")
        assert seen.get(timeout=HANG_LIMIT_S)["metadata"]["name"] == other.name


def test_what_was_deleted_before_its_list_is_told(world: World) -> None:
    """Also when it begins for the first time: the agent has listed the objects by then."""
    absent: queue.Queue[VmKey] = queue.Queue()
    api = load(world.controlplane.kubeconfig)
    guests = [world.define("deleted"), world.define("left")]
    for guest in guests:
        world.apply(guest)
    store = KubeStore(
        api, world.node, on_rewound=lambda: pytest.fail("rewound"), on_kept=lambda _: None, on_absent=absent.put
    )
    store.relist()
    deleted, left = guests
    world.controlplane.kubectl("delete", "kvm", "-n", world.name, deleted.name)
    vms = virtual_machines(world.node, on_object=lambda _: None, on_gone=store.gone, known=store)
    with running(Watch(api, world.node, [vms])):
        key = absent.get(timeout=HANG_LIMIT_S)
        assert key == VmKey(world.name, deleted.name)
        store.refresh_uncertain(key)
        until(lambda: vms.health.open, "it does not begin")
    assert absent.empty()
    assert store.known() == [VmKey(world.name, left.name)]


def annotate(world: World, name: str, note: str) -> None:
    words = ("annotate", "kvm", "-n", world.name, name, "--overwrite", f"example.org/note={note}")
    world.controlplane.kubectl(*words)


def create_hypervisor(world: World, name: str) -> None:
    raw = {"apiVersion": API, "kind": "Hypervisor", "metadata": {"name": name}, "spec": {}}
    world.controlplane.kubectl("create", "-f", "-", input=json.dumps(raw))
