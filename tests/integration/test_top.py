"""`kubectl virtsync top` as people see it: on a real terminal, a real API server, and real VMs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from controller.kube.client import load
from controller.kube.live import Live
from lab.connect import ConnectProxy
from lab.controlplane import ControlPlane
from lab.proxy import Proxy
from lab.world import World, runs, until
from tests.terminal import Terminal

Json = dict[str, Any]
PROGRAMS = Path(sys.executable).parent
VMS = "/apis/virtsync.dev/v1alpha1/namespaces/{}/virtualmachines"


def environment(controlplane: ControlPlane, kubeconfig: Path | None = None) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    path = f"{controlplane.assets}:{PROGRAMS}:{os.environ['PATH']}"
    return inherited | {"PATH": path, "KUBECONFIG": str(kubeconfig or controlplane.kubeconfig)}


@contextmanager
def top(world: World, *words: str, kubeconfig: Path | None = None, lines: int = 24) -> Iterator[Terminal]:
    """`kubectl virtsync top` in the namespace of the world."""
    command = ["kubectl", "virtsync", "top", *(words or ("-n", world.name))]
    environ = environment(world.controlplane, kubeconfig)
    with Terminal(command, lines=lines, columns=220, env=environ) as terminal:
        yield terminal


def test_the_row_of_a_vm_changes_while_it_is_switched_and_no_key_is_pressed(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until(guest, runs, "running")
    with top(world) as terminal:
        terminal.until(lambda _: "InSync" in terminal.row(guest.name))
        assert terminal.row(guest.name).split()[:5] == [world.name, guest.name, "Running", "Running", "InSync"]
        world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/ann=backup")
        world.virsh("destroy", guest.name)
        terminal.until(lambda _: "Stopped   Running   Held" in terminal.row(guest.name))
        assert "ann     The VM is stopped and should be running." in terminal.row(guest.name)
        assert terminal.row("VMs: ").endswith("0 as wanted   1 held")
        world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/ann-")
        terminal.until(lambda _: "Running   Running   InSync" in terminal.row(guest.name))
        world.kubectl("delete", "kvm", guest.name)
        terminal.until(lambda screen: "VMs: 0" in screen and not terminal.row(guest.name))
        terminal.press("q")
        assert terminal.ended() == 0


def test_the_hosts_above_show_maintenance_as_it_begins(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    with top(world, lines=40) as terminal:
        terminal.until(lambda screen: f"{world.node}   Active" in screen)
        patch = '{"spec":{"maintenance":{"mode":"Hold","reason":"new RAM"}}}'
        world.controlplane.kubectl("patch", "kvmhost", world.node, "--type=merge", "-p", patch)
        terminal.until(lambda screen: "Hold, Quiet" in screen and "1 in maintenance" in screen)


def test_only_the_vms_that_were_asked_for_are_shown(world: World) -> None:
    web, db = world.define("web"), world.define("db")
    world.apply(web, db)
    world.kubectl("label", "kvm", web.name, f"top={world.name}")
    with top(world, "-A", "-l", f"top={world.name}") as terminal:
        terminal.until(lambda screen: web.name in screen)
        assert db.name not in terminal.text
        assert terminal.row("virtsync").split()[1:4] == ["all", "namespaces", f"top={world.name}"]
        assert terminal.row("virtsync").endswith(" UTC")
        assert terminal.row("virtsync").count("top=") == 1
        world.kubectl("label", "kvm", db.name, f"top={world.name}")
        terminal.until(lambda screen: db.name in screen)
        world.kubectl("label", "kvm", web.name, "top-")
        terminal.until(lambda screen: web.name not in screen)


def test_who_may_not_see_hosts_sees_vms(world: World) -> None:
    guest = world.define()
    world.apply(guest)
    world.kubectl("create", "role", "vms", "--verb=list,watch", "--resource=virtualmachines.virtsync.dev")
    world.kubectl("create", "rolebinding", "vms", "--role=vms", "--user=tenant")
    with top(world, "-n", world.name, "--as", "tenant") as terminal:
        terminal.until(lambda screen: guest.name in screen)
        assert terminal.row("Hosts: ") == "Hosts: not shown: you may not list Hypervisors"


def test_who_may_list_but_not_watch_sees_changes_later_and_the_reason_at_once(world: World) -> None:
    guest = world.define()
    world.apply(guest)
    world.kubectl("create", "role", "vms", "--verb=list", "--resource=virtualmachines.virtsync.dev")
    world.kubectl("create", "rolebinding", "vms", "--role=vms", "--user=tenant")
    with top(world, "-n", world.name, "--as", "tenant") as terminal:
        terminal.until(lambda screen: guest.name in screen)
        terminal.until(lambda screen: "OUT OF DATE: " in screen and "cannot watch resource" in screen)
        world.kubectl("delete", "kvm", guest.name)
        terminal.until(lambda screen: "VMs: 0 " in screen)


def test_who_may_not_see_vms_gets_an_error_and_the_screen_stays(world: World) -> None:
    with top(world, "-n", world.name, "--as", "nobody") as terminal:
        assert terminal.ended() == 2
        assert 'User "nobody" cannot list resource "virtualmachines"' in terminal.text
        assert b"\x1b[?1049h" not in terminal.said


def test_an_outage_is_shown_and_what_changed_meanwhile_appears_after_it(world: World, proxy: Proxy) -> None:
    guest = world.define()
    world.apply(guest)
    kubeconfig = proxy.kubeconfig(world.controlplane.kubeconfig)
    with top(world, "-n", world.name, kubeconfig=kubeconfig) as terminal:
        terminal.until(lambda screen: guest.name in screen)
        proxy.cut()
        terminal.until(lambda screen: "OUT OF DATE: " in screen)
        assert guest.name in terminal.text
        world.kubectl("delete", "kvm", guest.name)
        world.apply(world.define("later"))
        proxy.pass_on()
        terminal.until(lambda screen: "OUT OF DATE" not in screen and f"{world.name}-later" in screen)
        assert "VMs: 1 " in terminal.row("VMs: ")


def test_the_watch_goes_through_the_proxy_of_the_kubeconfig(world: World) -> None:
    guest = world.define()
    world.apply(guest)
    port = urlsplit(world.controlplane.url).port
    assert port
    with ConnectProxy(port) as proxy:
        config = json.loads(world.controlplane.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["proxy-url"] = proxy.url
        kubeconfig = world.folder / "through-proxy"
        kubeconfig.write_text(json.dumps(config))
        with top(world, kubeconfig=kubeconfig) as terminal:
            terminal.until(lambda screen: guest.name in screen)
            world.kubectl("delete", "kvm", guest.name)
            terminal.until(lambda screen: "VMs: 0 " in screen)
            terminal.press("q")
            assert terminal.ended() == 0
        assert proxy.asked


def test_a_pipe_gets_both_tables_once(world: World) -> None:
    guest = world.define()
    world.apply(guest)
    world.start_agent()
    world.until_ready(guest, "Observed")
    command = ["kubectl", "virtsync", "top", "-n", world.name]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60, env=environment(world.controlplane)
    )
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("NAME ")
    assert [line.split()[:3] for line in lines if line.startswith(f"{world.name}   {guest.name}")] == [
        [world.name, guest.name, "Stopped"]
    ]
    assert lines[-1] == "1 of 1 VMs are as wanted."
    assert "\x1b" not in ended.stdout


# --- the copy that a watch keeps up to date


def manifest(name: str) -> Json:
    return {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": name}, "spec": {}}


@pytest.fixture
def namespace(crd: ControlPlane) -> Iterator[str]:
    name = "top-live"
    crd.kubectl("create", "namespace", name, check=False)
    yield name
    crd.kubectl("delete", "kvm", "--all", "-n", name)


def test_a_copy_of_many_objects_is_complete_and_follows_each_change(crd: ControlPlane, namespace: str) -> None:
    def names() -> set[str]:
        return set(copy.objects())

    api = load(crd.kubeconfig)
    for number in range(7):
        api.request("POST", VMS.format(namespace), manifest(f"vm-{number}"))
    counts: list[int] = []
    copy = Live(
        api,
        VMS.format(namespace),
        lambda raw: str(raw["metadata"]["name"]),
        lambda: counts.append(len(copy.objects())),
        page=3,
    )
    with copy:
        assert counts[:3] == [3, 6, 7], "what was read so far is not there"
        assert names() == {f"vm-{number}" for number in range(7)}
        api.request("POST", VMS.format(namespace), manifest("vm-7"))
        until(lambda: len(names()) == 8, "The new object does not appear.")
        api.request("DELETE", f"{VMS.format(namespace)}/vm-0")
        until(lambda: "vm-0" not in names(), "The deleted object does not disappear.")
        assert copy.trouble == ""


def test_a_copy_survives_a_crash_of_the_api_server(tmp_path: Path) -> None:
    """Its connections end, and the next requests are refused."""
    with ControlPlane(tmp_path / "controlplane") as server:
        server.install_crds()
        api, path = load(server.kubeconfig), VMS.format("default")
        with Live(api, path, lambda raw: str(raw["metadata"]["name"]), lambda: None, page=3) as copy:
            server.kill("kube-apiserver")
            until(lambda: copy.trouble != "", "The outage is not noticed.")
            server.start("kube-apiserver")
            until(lambda: copy.trouble == "", "The copy stays out of date.")
            api.request("POST", path, manifest("later"))
            until(lambda: copy.objects() == ["later"], "The watch does not go on.")
