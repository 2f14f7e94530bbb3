"""What users and machines get wrong: one clear sentence says it, nothing is lost, and it works once it is put right."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from controller.runtime.logs import sentence
from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.world import SETTINGS, Json, World, is_off, power_of, ready_of, reason_of, runs, until

LONGEST_NAME = "ä" * 123 + "x"
"""Of 247 bytes: libvirt writes a domain to a file of that name and `.xml.new`, which may have 255."""


def unready(agent: Agent, sentence: str) -> bool:
    """Whether it says, in a line of /readyz, why it is not ready."""
    try:
        status, body = agent.ask("/readyz")
    except ConnectionRefusedError:
        return False
    return status != 200 and any(sentence in line for line in body.splitlines())


def warnings(agent: Agent) -> list[str]:
    return [sentence(line) for line in agent.log_lines() if line["level"] not in {"info", "debug"}]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server that has not heard of VirtualMachines."""
    with ControlPlane(tmp_path_factory.mktemp("bare")) as running:
        yield running


def is_served(world: World, guest: Guest) -> None:
    """Its changes are told, and so are those of its spec; the lists that are made now and then have no part in it."""
    world.virsh("suspend", guest.name)
    world.until(guest, lambda vm: power_of(vm) == "Paused", "told to be paused")
    world.patch(guest, powerState="Paused")
    world.until_ready(guest, "InSync")


# --- what an agent is started with


def test_no_crd(bare: ControlPlane, libvirtd: Libvirtd, tmp_path: Path) -> None:
    agent = Agent(bare, libvirtd.uri, "no-crd", log=tmp_path / "agent.log", settings=SETTINGS)
    try:
        agent.launch()
        told = "the API server does not know VirtualMachine: install deploy/crds first"
        until(lambda: unready(agent, told), "it does not say what is missing")
        assert len([line for line in warnings(agent) if told in line]) == 1
        bare.install_crds()
        agent.wait_until_ready()
        with World(bare, libvirtd, "no-crd", tmp_path) as world:
            guest = world.start()
            world.apply(guest)
            world.until_ready(guest, "Observed")
            is_served(world, guest)
    finally:
        agent.stop()


def test_a_wrong_token(world: World, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("wrong\n")
    guest = world.start()
    world.apply(guest)
    agent = world.new_agent(kubeconfig=with_token_file(world.controlplane, token))
    agent.launch()
    told = "the API server does not accept the credentials of virtsync-agent (401)"
    until(lambda: unready(agent, told), "it does not say what is wrong")
    until(lambda: any(told in line for line in warnings(agent)), "it does not log what is wrong")
    token.write_text(f"{world.controlplane.token}\n")
    agent.wait_until_ready()
    world.until_ready(guest, "Observed")
    is_served(world, guest)
    assert len([line for line in warnings(agent) if told in line]) == 1, "it repeats itself"


def with_token_file(controlplane: ControlPlane, token: Path) -> Path:
    """The administrator's kubeconfig, but with the token in a file of its own."""
    config = json.loads(controlplane.kubeconfig.read_text())
    config["users"][0]["user"] = {"tokenFile": str(token)}
    file = token.with_name("kubeconfig")
    file.write_text(json.dumps(config))
    return file


def test_a_wrong_node_name(world: World) -> None:
    """Nothing is wrong as far as anybody can tell: it has no VMs, and leaves those of other nodes alone."""
    guest = world.define()
    world.apply(guest, powerState="Running")
    agent = world.new_agent(node="elsewhere", resync_libvirt="1s", resync_api="1s")
    agent.start()
    assert agent.ask("/livez") == (200, "ok\n")
    assert "virtsync_virtual_machines{" not in agent.metrics()
    other = world.define("other")
    moved = world.manifest(other, powerState="Running") | {"spec": {"nodeName": "elsewhere", "powerState": "Running"}}
    world.kubectl("apply", "-f", "-", manifest=moved)
    world.until(other, runs, "started, for it is of that node")
    assert power_of(world.get(guest)) == "Unknown"
    assert reason_of(world.get(guest)) == ""
    assert world.acts(guest) == []


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("qemu+unix:///system?socket=/nonexistent", "Failed to connect socket to '/nonexistent': No such file"),
        ("qumu+unix:///system?socket={socket}", "no connection driver available for qumu:///system"),
        ("qemu+unix:///sistem?socket={socket}", "unexpected qemu URI path '/sistem', try qemu:///system"),
    ],
    ids=["socket", "driver", "path"],
)
def test_a_libvirt_that_is_not_there(world: World, uri: str, why: str) -> None:
    uri = uri.format(socket=world.libvirtd.socket)
    guest = world.start()
    world.apply(guest, powerState="Stopped")
    agent = world.new_agent(uri=uri)
    agent.launch()
    told = world.until_ready(guest, "LibvirtUnreachable")
    assert ready_of(told)["status"] == "Unknown"
    assert ready_of(told)["message"] == f"libvirt on {world.node} does not answer: not connected"
    assert unready(agent, f"libvirt: libvirt at {uri} does not answer")
    (line,) = [line for line in warnings(agent) if line.startswith("libvirt does not answer")]
    assert why in line
    agent.stop()
    world.start_agent()
    world.until(guest, is_off, "shut down, by an agent that finds its libvirt")


# --- objects that name what is not there


NOT_THERE: list[dict[str, str]] = [
    {"name": "no-such-domain"},
    {"name": "n" * 255},
    {"name": "ü" * 255},
    {"name": "東京 \U0001f600"},
    {"name": "../../etc/passwd"},
    {"name": "a\nb"},
    {"name": " "},
    {"uuid": str(uuid4())},
    {"uuid": str(UUID(int=0))},
]


def test_domains_that_are_not_there(world: World) -> None:
    wrong = [Guest(world.libvirtd, f"{world.name}-{number}", uuid4()) for number in range(len(NOT_THERE))]
    right = world.define()
    for guest, domain in zip(wrong, NOT_THERE, strict=True):
        world.apply(guest, powerState="Running", domain=domain)
    world.apply(right, powerState="Running")
    world.start_agent()
    for guest, domain in zip(wrong, NOT_THERE, strict=True):
        (named,) = domain.values()
        told = world.until_ready(guest, "DomainNotFound")
        assert ready_of(told)["message"] == f"libvirt on {world.node} has no domain {named!r}."
        assert power_of(told) == "Absent"
    world.until(right, runs, "started, for nothing is wrong with it")
    there = world.define("there")
    world.patch(wrong[0], domain={"name": there.name})
    world.until(wrong[0], runs, "started, for the spec names one that is there")


@pytest.mark.parametrize("name", ["東京 – Zürich \U0001f600 (old)", LONGEST_NAME], ids=["unicode", "longest"])
def test_a_name_of_any_kind(world: World, name: str) -> None:
    vm = Guest(world.libvirtd, f"{world.name}-vm", uuid4())
    with defined(vm, name):
        world.apply(vm, powerState="Running", domain={"name": name}, shutdown={"mode": "Force"})
        world.start_agent()
        told = world.until(vm, runs, "started")
        assert told["status"]["domain"] | {"name": name, "uuid": str(vm.uuid)} == told["status"]["domain"]
        world.virsh("suspend", name)
        world.until(vm, lambda vm: power_of(vm) == "Paused", "told to be paused")
        world.until(vm, runs, "resumed")
        world.patch(vm, powerState="Stopped")
        world.until(vm, is_off, "forced off")
        world.until_acts(vm, "START done", "RESUME done", "DESTROY done")


@contextmanager
def defined(vm: Guest, name: str) -> Iterator[None]:
    """A domain of any name: without the serial port, whose path has no room for it."""
    xml = vm.domain_xml(disk=False, on_poweroff="destroy", on_crash="destroy")
    xml = re.sub("<serial.*</serial>", "", xml).replace(vm.name, name)
    with vm.libvirtd.connection() as connection:
        connection.defineXML(xml)
        try:
            yield
        finally:
            domain = connection.lookupByUUIDString(str(vm.uuid))
            if domain.isActive():
                domain.destroy()
            domain.undefine()


# --- what an agent is started with, and can never work


def config(**changes: Json) -> Json:
    """A kubeconfig of which a part has been exchanged."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "any",
        "contexts": [{"name": "any", "context": {"cluster": "any", "user": "any"}}],
        "clusters": [{"name": "any", "cluster": {"server": "https://127.0.0.1:1"} | changes.get("cluster", {})}],
        "users": [{"name": "any", "user": {"token": "any"} | changes.get("user", {})}],
    } | changes.get("config", {})


NO_PEM = base64.b64encode(b"no certificate").decode()
UNUSABLE = [
    ("", "is not usable: it is not a mapping"),
    ("{", "is not usable: it is not YAML: "),
    ("[]", "is not usable: it is not a mapping"),
    (config(config={"current-context": "other"}), "is not usable: it has no context 'other'"),
    (config(cluster={"server": ""}), "is not usable: its server '' is not a URL like https://10.0.0.1:6443"),
    (config(cluster={"server": "10.0.0.1"}), "its server '10.0.0.1' is not a URL like https://10.0.0.1:6443"),
    (
        config(cluster={"server": "https://10.0.0.1:99999"}),
        "its server 'https://10.0.0.1:99999' is not a URL like https://10.0.0.1:6443",
    ),
    (config(cluster={"certificate-authority": "/nonexistent"}), "its file /nonexistent cannot be read: No such file"),
    (config(cluster={"certificate-authority-data": NO_PEM}), "its certificate-authority is not a certificate"),
    (
        config(user={"client-certificate-data": NO_PEM, "client-key-data": NO_PEM}),
        "its client-certificate and client-key are not a certificate and its unencrypted key",
    ),
    (
        config(config={"users": [{"name": "any", "user": {"tokenFile": "/nonexistent"}}]}),
        "its file /nonexistent cannot be read: No such file",
    ),
]


@pytest.mark.parametrize(("content", "told"), UNUSABLE, ids=[told[:40] for _, told in UNUSABLE])
def test_a_kubeconfig_that_can_never_work(tmp_path: Path, content: str | Json, told: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    assert told in refusal("--kubeconfig", str(file))


def test_a_kubeconfig_that_may_not_be_read(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.touch(0)
    # What root may do to any file, it may not here.
    as_owner = () if os.geteuid() else ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    assert f"{str(file)!r} is not readable." in refusal("--kubeconfig", str(file), by=as_owner)


def test_no_kubeconfig_at_all(tmp_path: Path) -> None:
    told = refusal(env={"HOME": str(tmp_path)})
    assert told == f"Error: the kubeconfig {tmp_path}/.kube/config cannot be read: No such file or directory"


def test_a_pod_without_a_service_account() -> None:
    told = refusal(env={"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"})
    assert told == (
        "Error: the Pod's service account cannot be used: "
        "/var/run/secrets/kubernetes.io/serviceaccount/token: No such file or directory"
    )


def refusal(*words: str, by: tuple[str, ...] = (), env: Mapping[str, str] | None = None) -> str:
    """The one sentence with which an agent refuses to start."""
    command = [*by, sys.executable, "-m", "controller", "agent", "--node-name=any", *words]
    unset = ("KUBECONFIG", "KUBERNETES_SERVICE_HOST")
    known = {name: value for name, value in os.environ.items() if name not in unset}
    ended = subprocess.run(
        command, env=known | dict(env or {}), capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    *hints, sentence = ended.stderr.strip().splitlines()
    assert [hint for hint in hints if hint and not hint.startswith(("Usage: ", "Try "))] == []
    return sentence
