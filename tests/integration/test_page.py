"""The page of a real manager, read over HTTP: complete without JavaScript, live, and no burden for the manager."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from controller.cli.program import Failure
from controller.cli.vm.cluster import Cluster
from controller.cli.vm.forwarding import Forward, Target
from controller.cli.vm.page import MANAGERS, PORT_NAME
from controller.kube import paths
from controller.kube.client import load
from controller.manager.page import LIVE_LIMIT, Page
from controller.manager.page_source import Source
from controller.page.view import Served
from lab import web
from lab.manager import Manager
from lab.proxy import Proxy
from lab.world import World, runs, until

Json = dict[str, Any]
READING = "The manager is reading the VMs and hosts."


@pytest.fixture
def manager(world: World) -> Manager:
    return world.start_manager()


def get(page: str, path: str = "/") -> tuple[int, str]:
    return web.get(urlsplit(page).port or 80, path, timeout_s=60)


def whole(page: str, path: str = "/") -> str:
    """The document, once the manager has read everything."""
    documents: list[str] = []

    def is_whole() -> bool:
        status, html = get(page, path)
        assert status == 200
        documents.append(html)
        return READING not in documents[-1]

    until(is_whole, "the manager does not end to read")
    return documents[-1]


class Stream:
    """What an open page is told."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.rows: dict[str, str] = {}
        self.order: list[str] = []

    def until(self, key: str, text: str) -> None:
        """Read messages until the row of this VM contains this text. A hang ends by the timeout of the connection."""
        while text not in self.rows.get(key, ""):
            self.take(self.message())

    def until_gone(self, key: str) -> None:
        while key in self.order:
            self.take(self.message())

    def message(self) -> Json:
        while not (line := self._response.readline()).startswith(b"data: "):
            assert line, "the stream has ended"
        found: Json = json.loads(line.removeprefix(b"data: "))
        return found

    def take(self, told: Json) -> None:
        if table := told["tables"].get("vms"):
            self.rows |= table["rows"]
            self.order = [key for key, _ in table["order"]]


@contextmanager
def streamed(page: str, query: str = "") -> Iterator[Stream]:
    with closing(http.client.HTTPConnection(urlsplit(page).netloc, timeout=60)) as connection:
        connection.request("GET", f"/events{query}")
        response = connection.getresponse()
        assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
        yield Stream(response)


def test_the_first_document_has_the_hosts_and_the_vms(world: World, manager: Manager) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until(guest, runs, "running")
    html = whole(manager.page, f"/?namespace={world.name}")
    assert f'data-key="{world.name}/{guest.name}"' in html
    assert f'<a href="./?node={world.node}"' in html
    assert "1 to 1 of 1 VMs" in html


def test_a_change_of_a_vm_is_told_as_it_happens(world: World, manager: Manager) -> None:
    guest = world.start()
    key = f"{world.name}/{guest.name}"
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until(guest, runs, "running")
    with streamed(manager.page, f"?namespace={world.name}") as stream:
        stream.until(key, ">InSync<")
        world.kubectl("annotate", "kvm", guest.name, "hold.virtsync.dev/ann=backup")
        world.virsh("destroy", guest.name)
        stream.until(key, ">Held<")
        assert ">Stopped<" in stream.rows[key]
        assert "held by ann" in stream.rows[key]
        assert "Somebody stopped the VM on the host." in stream.rows[key]
        world.kubectl("delete", "kvm", guest.name)
        stream.until_gone(key)


def test_a_manager_that_does_not_lead_serves_the_page_too(world: World, manager: Manager) -> None:
    guest = world.define()
    world.apply(guest)
    until(lambda: "virtsync_manager_leader 1.0\n" in manager.metrics(), "it does not lead")
    second = world.start_manager("manager-2")
    assert f'data-key="{world.name}/{guest.name}"' in whole(second.page, f"/?namespace={world.name}")
    assert "manager-2, which does not lead" in get(second.page)[1]
    assert "manager-1, which leads" in get(manager.page)[1]


def test_other_paths_and_assets(manager: Manager) -> None:
    assert get(manager.page, "/metrics")[0] == 404
    assert get(manager.page, "/../manager.log")[0] == 404
    for path in ("/style.css", "/page.js", "/icon.svg"):
        assert get(manager.page, path)[0] == 200


def test_a_client_that_reads_nothing_delays_nobody(world: World, manager: Manager) -> None:
    guest = world.define()
    key = f"{world.name}/{guest.name}"
    world.apply(guest)
    port = urlsplit(manager.page).port
    assert port
    with ExitStack() as ends:
        for _ in range(5):
            deaf = ends.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            deaf.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stream = ends.enter_context(streamed(manager.page, f"?namespace={world.name}"))
        for number in range(30):
            world.kubectl("annotate", "--overwrite", "kvm", guest.name, f"hold.virtsync.dev/ann-{number}=x")
            stream.until(key, f"ann-{number}")
        assert manager.ready()


def test_more_open_pages_than_the_limit_are_refused_and_room_comes_back(manager: Manager) -> None:
    with ExitStack() as ends:
        for _ in range(LIVE_LIMIT):
            ends.enter_context(streamed(manager.page)).message()
        assert get(manager.page, "/events") == (503, "Too many pages are open.\n")
        assert get(manager.page)[0] == 200
    until(lambda: streams(manager.page), "no room has come back")


def streams(page: str) -> bool:
    """Whether another page can be live."""
    with closing(http.client.HTTPConnection(urlsplit(page).netloc, timeout=60)) as connection:
        connection.request("GET", "/events")
        return connection.getresponse().status == 200


def test_the_page_says_that_it_is_out_of_date_while_the_api_server_is_away(world: World, proxy: Proxy) -> None:
    guest = world.define()
    world.apply(guest)
    api = load(proxy.kubeconfig(world.controlplane.kubeconfig))
    with served(Source(api)) as page, streamed(page, f"?namespace={world.name}") as stream:
        stream.until(f"{world.name}/{guest.name}", guest.name)
        proxy.cut()
        while "Out of date" not in stream.message()["regions"].get("notice", ""):
            pass
        assert guest.name in get(page, f"/?namespace={world.name}")[1]  # what was known last
        proxy.pass_on()
        while "Out of date" in stream.message()["regions"].get("notice", "Out of date"):
            pass


def test_a_document_has_what_was_read_and_the_rest_follows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = world.define()
    world.apply(guest)
    world.start_agent()
    until(lambda: world.controlplane.kubectl("get", "kvmhost", world.node, check=False).returncode == 0, "no host")
    api, may_be_read = load(world.controlplane.kubeconfig), threading.Event()
    request = api.request

    def slow(method: str, path: str, **query: Any) -> Json:
        assert path != paths.VIRTUAL_MACHINES or may_be_read.wait(60)
        return request(method, path, **query)

    monkeypatch.setattr(api, "request", slow)
    with served(Source(api)) as page:
        html = get(page)[1]
        assert READING in html
        assert f'data-key="{world.node}"' in html
        with streamed(page, f"?namespace={world.name}") as stream:
            assert READING in stream.message()["regions"]["notice"]
            may_be_read.set()
            stream.until(f"{world.name}/{guest.name}", guest.name)
        assert guest.name in whole(page, f"/?namespace={world.name}")


def test_nothing_is_watched_while_nobody_looks(world: World) -> None:
    source = Source(load(world.controlplane.kubeconfig), idle_s=0.2, idle_check_s=0.05)
    with served(source) as page:
        assert not source.watching
        assert get(page)[0] == 200
        until(lambda: not source.watching, "it watches although nobody looks")
        assert get(page)[0] == 200
        with streamed(page) as stream:
            stream.message()


def test_the_command_says_that_there_is_no_manager(world: World) -> None:
    words = ["kubectl", "virtsync", "page", "-n", world.name, "--no-browser"]
    ended = subprocess.run(
        words, env=plugin_environment(world), capture_output=True, text=True, check=False, timeout=60
    )
    told = f"Error: there is no manager in the namespace {world.name}. With -n, you can name another one.\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", told)


KUBECTL = """\
#!/bin/sh
cd {folder}
if [ -e refuse ]; then echo refused >> refusals; echo "error: the Pod is gone" >&2; exit 1; fi
echo $$ > pid
echo "Forwarding from 127.0.0.1:{port} -> 8081"
exec sleep 600
"""
"""Forwards as `kubectl port-forward` does, which needs a kubelet; here the manager is on this machine anyway."""


def test_the_command_waits_for_the_next_manager(
    world: World, manager: Manager, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While there is none, the API server can be away, and a Pod that looks ready can be gone."""
    add_pod(world)
    folder = tmp_path / "kubectl"
    folder.mkdir()
    program = folder / "kubectl"
    program.write_text(KUBECTL.format(folder=folder, port=urlsplit(manager.page).port))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    kubeconfig = proxy.kubeconfig(world.controlplane.kubeconfig)
    words = ("vm", "page", "--no-browser", "-n", world.name, "--kubeconfig", str(kubeconfig))
    command = [sys.executable, "-m", "controller", *words]
    with (
        (tmp_path / "errors").open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout
            served = process.stdout.readline()
            assert served.endswith(" is the page of manager-a, until Ctrl-C.\n")
            (folder / "refuse").touch()
            proxy.cut()
            connections = proxy.accepted
            os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
            until(lambda: proxy.accepted > connections or process.poll() is not None, "it does not ask again")
            proxy.pass_on()
            until((folder / "refusals").exists, "it does not forward again")
            (folder / "refuse").unlink()
            assert process.stdout.readline() == served, (tmp_path / "errors").read_text()
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()


def add_pod(world: World) -> None:
    """Add the Pod of a manager that looks ready."""
    world.controlplane.kubectl("create", "serviceaccount", "manager", "-n", world.name)
    labels = dict(one.split("=") for one in MANAGERS.split(","))
    container = {"name": "manager", "image": "none", "ports": [{"name": PORT_NAME, "containerPort": 8081}]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "manager-a", "namespace": world.name, "labels": labels},
        "spec": {"serviceAccountName": "manager", "containers": [container]},
    }
    world.controlplane.kubectl("create", "-f", "-", input=json.dumps(pod))
    ready = json.dumps({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    world.controlplane.kubectl("patch", "pod", "manager-a", "-n", world.name, "--subresource=status", "-p", ready)


def test_what_kubectl_says_about_a_pod_is_passed_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", plugin_environment(world)["PATH"])
    cluster, target = Cluster(world.controlplane.kubeconfig), Target(world.name, "missing", 8081)
    told = 'kubectl cannot forward a port to missing: (NotFound): pods "missing" not found'
    with pytest.raises(Failure, match=re.escape(told)), Forward(cluster, target, local_port=0):
        pass


def plugin_environment(world: World) -> dict[str, str]:
    path = f"{world.controlplane.assets}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "KUBECONFIG": str(world.controlplane.kubeconfig)}


@contextmanager
def served(source: Source) -> Iterator[str]:
    """The page of this source."""
    page = Page(source, lambda: Served("test", leads=False, version="0"), 0)
    port = page.start()
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        page.close()
