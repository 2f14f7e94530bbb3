"""A host that is not a node: enrolled, its agent at work under its own token, the token renewed, and revoked.

The API server, libvirtd, the guests and the agent are real; there is no Node of these hosts.
"""

import base64
import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from controller.agent.renewal import Renewal
from controller.api.clock import api_time
from controller.cli import main
from controller.kube import client
from controller.kube.hosts.token import HostToken, read_token
from controller.policy.renewal import Lifetime
from controller.runtime.errors import Rejected
from lab.agent import Agent
from lab.connect import ConnectProxy
from lab.controlplane import ControlPlane
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.world import World, is_off, power_of, reason_of, runs, until
from tests.deploy.callers import AGENTS, Caller, Request
from tests.deploy.stage import VMS

Json = dict[str, Any]
HANG_LIMIT_S = 120
OTHER = "another-host"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("installed"), audited=True) as running:
        running.install()
        yield running


class Enrolled:
    """A host, the file of its identity, and what an administrator types."""

    def __init__(self, controlplane: ControlPlane, host: str, folder: Path) -> None:
        self.controlplane, self.host = controlplane, host
        self.file = folder / f"{host}.kubeconfig"

    def enroll(self, *words: str) -> Result:
        given = ["enroll", self.host, "--out", str(self.file), "--kubeconfig", str(self.controlplane.kubeconfig)]
        return CliRunner().invoke(main, [*given, *words])

    def ok(self, *words: str) -> str:
        ended = self.enroll(*words)
        assert ended.exit_code == 0, ended.output
        return ended.output

    def objects(self) -> set[str]:
        """All objects of this host, in all namespaces, as `Kind namespace/name`."""
        kinds = "serviceaccounts,roles,rolebindings,clusterrolebindings"
        found = json.loads(self.controlplane.kubectl("get", kinds, "-A", "-o", "json").stdout)["items"]
        return {
            f"{one['kind']} {one['metadata'].get('namespace', '')}/{one['metadata']['name']}"
            for one in found
            if one["metadata"]["name"].partition(":")[0] == f"virtsync-agent.{self.host}"
        }

    @property
    def token(self) -> str:
        config: Json = yaml.safe_load(self.file.read_text())
        found: str = config["users"][0]["user"]["token"]
        return found

    def caller(self) -> Caller:
        return Caller(self.controlplane, self.token)


@pytest.fixture
def host(installed: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest) -> Enrolled:
    name = request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-")
    return Enrolled(installed, name, tmp_path)


@pytest.fixture
def world(installed: ControlPlane, libvirtd: Libvirtd, host: Enrolled, tmp_path: Path) -> Iterator[World]:
    with World(installed, libvirtd, host.host, tmp_path) as entered:
        yield entered


def start_agent(world: World, host: Enrolled, **settings: str) -> Agent:
    agent = world.new_agent(kubeconfig=host.file, env={"POD_NAMESPACE": AGENTS}, **settings)
    agent.start()
    return agent


def claims(token: str) -> HostToken:
    found = read_token(token)
    assert found
    return found


def jti(token: str) -> str:
    """The identifier of a token, as the audit log has it."""
    payload = token.split(".")[1]
    claimed: Json = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return f"JTI={claimed['jti']}"


def used(world: World, guest: Guest) -> list[str]:
    """The identifiers of the tokens with which the status of this guest was written, in order."""
    told = map(json.loads, world.controlplane.audit_log.read_text().splitlines())
    return [
        one["user"]["extra"]["authentication.kubernetes.io/credential-id"][0]
        for one in told
        if one["verb"] == "patch"
        and one["objectRef"].get("name") == guest.name
        and one["objectRef"].get("subresource") == "status"
    ]


def test_its_agent_works_as_that_of_a_node(world: World, host: Enrolled) -> None:
    """It mirrors and switches a VM, holds its Lease, reports on its host, and obeys a maintenance."""
    host.ok()
    guest = world.define()
    start_agent(world, host)
    world.apply(guest, powerState="Running")
    world.until(guest, runs, "started")
    lease = json.loads(world.controlplane.kubectl("get", "lease", host.host, "-n", AGENTS, "-o", "json").stdout)
    assert lease["spec"]["holderIdentity"]
    declared = {"spec": {"maintenance": {"mode": "Shutdown", "reason": "new RAM"}}}
    world.controlplane.kubectl("patch", "kvmhost", host.host, "--type=merge", "-p", json.dumps(declared))
    world.until(guest, lambda vm: power_of(vm) == "Stopped", "shut down for the maintenance")
    world.controlplane.kubectl("wait", "kvmhost", host.host, "--for=condition=Quiesced", "--timeout=60s")
    world.controlplane.kubectl("patch", "kvmhost", host.host, "--type=merge", "-p", '{"spec": {"maintenance": null}}')
    world.until(guest, runs, "started after the maintenance")
    world.until_event(guest, "Started")


def test_it_cannot_touch_a_vm_of_another_host(world: World, host: Enrolled) -> None:
    host.ok()
    guest = world.start()
    agent = start_agent(world, host)
    world.apply(guest, powerState="Running")
    world.until(guest, runs, "reported")
    world.apply(guest, powerState="Stopped", nodeName=OTHER)
    status = f"{VMS}/namespaces/{world.name}/virtualmachines/{guest.name}/status"
    with closing(host.caller()) as caller:
        answer = caller.ask(Request("PATCH", status, {"status": {"powerState": "Stopped"}}))
    assert answer.code == HTTPStatus.FORBIDDEN
    assert f"a token of node {host.host} may not write the status of a VM of node {OTHER}" in answer.message
    agent.stop()
    assert world.acts(guest) == []
    assert power_of(world.get(guest)) == "Running"


def test_its_token_is_renewed_without_a_restart(world: World, host: Enrolled) -> None:
    host.ok("--lifetime", "10m")
    first = host.token
    assert claims(first).lifetime.seconds == 600
    guest = world.define()
    agent = start_agent(world, host, renew_after="15s")

    def has_renewed() -> bool:
        return any(line["event"] == "renewed the token of this host" for line in agent.log_lines())

    until(has_renewed, "the token is not renewed")
    assert host.token != first
    assert stat.S_IMODE(host.file.stat().st_mode) == 0o600
    assert claims(host.token).lifetime.seconds == 600
    world.apply(guest, powerState="Running")
    world.until(guest, runs, "started")
    assert jti(first) not in used(world, guest)
    assert f'virtsync_token_expiration_timestamp_seconds{{host="{host.host}"}}' in agent.metrics()
    assert f'virtsync_token_lifetime_seconds{{host="{host.host}"}} 600.0' in agent.metrics()
    for line in agent.log.read_text().splitlines():
        assert "eyJ" not in line, "a token is in the log"


def test_a_revoked_host_can_do_nothing_until_it_is_enrolled_again(world: World, host: Enrolled) -> None:
    host.ok()
    guest = world.start()
    world.apply(guest, powerState="Running")
    agent = start_agent(world, host, lease_duration="6s")
    world.until(guest, runs, "reported")
    revoked = host.ok("--revoke")
    assert f"Deleted ServiceAccount virtsync-agent.{host.host}" in revoked
    with closing(host.caller()) as caller:
        until(lambda: caller.ask(Request("GET", VMS)).code == HTTPStatus.UNAUTHORIZED, "its token is still accepted")
    until(lambda: not agent.ready(), "the agent does not notice")
    world.patch(guest, powerState="Stopped", shutdown={"mode": "Force"})
    assert world.acts(guest) == []
    assert power_of(world.get(guest)) == "Running"
    assert host.ok("--revoke") == f"{host.host} is not enrolled in namespace {AGENTS}.\n"
    host.ok()
    world.until(guest, is_off, "stopped under the new identity")
    assert agent.running
    agent.wait_until_ready()


def test_the_manager_marks_a_silent_host_of_which_there_is_no_node(world: World, host: Enrolled) -> None:
    host.ok()
    guest = world.start()
    world.apply(guest, powerState="Running")
    agent = start_agent(world, host, lease_duration="6s")
    world.until(guest, runs, "reported")
    world.start_manager(namespace=AGENTS)
    agent.kill()
    until(lambda: reason_of(world.get(guest)) == "AgentUnreachable", "not marked", limit_s=HANG_LIMIT_S)


def test_import_lists_the_domains_of_an_enrolled_host(world: World, host: Enrolled) -> None:
    host.ok()
    guest = world.define()
    start_agent(world, host)
    kubeconfig = str(world.controlplane.kubeconfig)
    words = ["import", "--namespace", world.name, "--node", host.host, "--kubeconfig", kubeconfig]

    def printed() -> str:
        return CliRunner().invoke(main, words).stdout

    until(lambda: f"uuid: {guest.uuid}" in printed(), "the domain is not listed")
    manifest = next(one for one in yaml.safe_load_all(printed()) if one["spec"]["domain"]["uuid"] == str(guest.uuid))
    assert manifest["spec"]["nodeName"] == host.host


def findings(host: Enrolled, libvirtd: Libvirtd, *words: str) -> dict[str, Json]:
    """What `virtsync check` finds for this host, by name."""
    given = ["--node-name", host.host, "--libvirt-uri", libvirtd.uri, "--kubeconfig", str(host.file), *words]
    ended = subprocess.run(
        [sys.executable, "-m", "controller", "check", *given, "-o", "json"],
        capture_output=True,
        text=True,
        timeout=HANG_LIMIT_S,
        check=False,
        env=os.environ | {"VIRTSYNC_BOOT_ID": "first-boot"},
    )
    return {one["name"]: one for one in json.loads(ended.stdout)}


def test_the_check_finds_nothing_missing(host: Enrolled, libvirtd: Libvirtd) -> None:
    host.ok()
    found = findings(host, libvirtd, "--lease-namespace", AGENTS)
    assert [one for one in found.values() if one["state"] == "missing"] == []
    expires = api_time(claims(host.token).lifetime.expires)
    name = f"system:serviceaccount:{AGENTS}:virtsync-agent.{host.host}"
    assert found["node of the token"]["detail"] == f"{name}, enrolled as {host.host}, until {expires}"


def test_the_check_finds_that_the_token_cannot_be_renewed(host: Enrolled, libvirtd: Libvirtd) -> None:
    """Without this check, the host would be silent when its token expires, up to 30 days later."""
    host.ok()
    host.controlplane.kubectl("delete", "role", f"virtsync-agent.{host.host}", f"--namespace={AGENTS}")
    found = findings(host, libvirtd)["node of the token"]
    assert found["state"] == "missing"
    assert found["detail"].endswith(", must not renew this token")
    assert found["fix"] == f"virtsync enroll {host.host} --namespace {AGENTS}"


def test_the_check_names_the_command_for_a_revoked_host(host: Enrolled, libvirtd: Libvirtd) -> None:
    host.ok()
    host.ok("--revoke")
    with closing(host.caller()) as caller:
        until(lambda: caller.ask(Request("GET", VMS)).code == HTTPStatus.UNAUTHORIZED, "its token is still accepted")
    found = findings(host, libvirtd)["API server"]
    assert "(401): the host was revoked" in found["detail"]
    assert found["fix"].startswith(f"virtsync enroll {host.host} --namespace {AGENTS} --server https://")


# --- the command


def test_to_enroll_again_changes_nothing_but_the_token(host: Enrolled) -> None:
    first = host.ok()
    assert [line.split()[1] for line in first.splitlines() if line.startswith("Created ")] == [
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "RoleBinding",
        "ClusterRoleBinding",
    ]
    before, token = host.file.read_text(), host.token
    again = host.ok()
    assert "Created" not in again
    assert "Changed" not in again
    assert host.token != token
    assert host.file.read_text().replace(host.token, token) == before
    assert stat.S_IMODE(host.file.stat().st_mode) == 0o600
    assert host.token not in again


def test_a_binding_that_somebody_has_changed_is_made_right(host: Enrolled) -> None:
    host.ok()
    name = f"virtsync-agent.{host.host}"
    host.controlplane.kubectl("patch", "clusterrolebinding", name, "--type=merge", "-p", '{"subjects": []}')
    assert f"Changed ClusterRoleBinding {name}" in host.ok()
    with closing(host.caller()) as caller:
        until(lambda: caller.ask(Request("GET", f"{VMS}/virtualmachines")).granted, "its rights are not back")


def test_the_printed_manifests_are_what_it_creates(host: Enrolled) -> None:
    ended = CliRunner().invoke(main, ["enroll", host.host, "--manifests"])
    assert ended.exit_code == 0
    host.controlplane.kubectl("apply", "-f", "-", input=ended.stdout)
    assert "Created" not in host.ok()


def test_whoever_may_not_enroll_learns_what_to_do(host: Enrolled) -> None:
    ended = host.enroll("--as", "ann", "--as-group", "system:authenticated")
    assert ended.exit_code == 2
    assert "lacks a permission" in ended.output
    assert f"ask somebody who has this right to run `virtsync enroll {host.host} --namespace {AGENTS}`" in ended.output
    host.controlplane.kubectl("create", "clusterrolebinding", "ann", "--clusterrole=view", "--user=ann")
    readers = ("--verb=get", "--resource=roles,validatingadmissionpolicybindings,clusterrolebindings,rolebindings")
    host.controlplane.kubectl("create", "clusterrole", "reads-rbac", *readers)
    host.controlplane.kubectl("create", "clusterrolebinding", "ann-reads", "--clusterrole=reads-rbac", "--user=ann")
    words = ("--verb=get", "--resource=serviceaccounts")
    host.controlplane.kubectl("create", "clusterrole", "reads-accounts", *words)
    binding = ("create", "clusterrolebinding", "ann-reads-accounts", "--clusterrole=reads-accounts", "--user=ann")
    host.controlplane.kubectl(*binding)
    until(lambda: "--manifests | kubectl apply -f -" in host.enroll("--as", "ann").output, "no advice is given")
    assert not host.file.exists()


def test_the_documented_rights_are_enough(host: Enrolled) -> None:
    """Those in docs/install.md, without the right to read nodes."""
    rbac, admission = "rbac.authorization.k8s.io", "admissionregistration.k8s.io"
    write, agent = ["get", "create", "patch", "delete"], ["virtsync-agent"]
    of_namespace = [
        {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": write},
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]},
        {"apiGroups": [rbac], "resources": ["roles", "rolebindings"], "verbs": write},
        {"apiGroups": [rbac], "resources": ["roles"], "resourceNames": agent, "verbs": ["bind"]},
    ]
    of_cluster = [
        {"apiGroups": [rbac], "resources": ["clusterrolebindings"], "verbs": write},
        {"apiGroups": [rbac], "resources": ["clusterroles"], "resourceNames": agent, "verbs": ["bind"]},
        {"apiGroups": [admission], "resources": ["validatingadmissionpolicybindings"], "verbs": ["get"]},
    ]
    for kind, rules in (("Role", of_namespace), ("ClusterRole", of_cluster)):
        meta = {"name": "enroller"} | ({"namespace": AGENTS} if kind == "Role" else {})
        about = {"apiVersion": f"{rbac}/v1", "metadata": meta}
        subjects = [{"apiGroup": rbac, "kind": "User", "name": "una"}]
        binding = {"kind": f"{kind}Binding", "roleRef": {"apiGroup": rbac, "kind": kind, "name": "enroller"}}
        for made in ({"kind": kind, "rules": rules}, binding | {"subjects": subjects}):
            host.controlplane.kubectl("create", "-f", "-", input=json.dumps(about | made))
    until(lambda: host.enroll("--as", "una").exit_code == 0, "una may not enroll the host")
    with closing(host.caller()) as caller:
        until(lambda: caller.ask(Request("GET", f"{VMS}/virtualmachines")).granted, "its token is not accepted")
    assert "Deleted ClusterRoleBinding" in host.ok("--revoke", "--as", "una")


def test_a_revocation_that_stops_halfway_tells_what_it_has_done(host: Enrolled) -> None:
    host.ok()
    words = ("--verb=get,delete", "--resource=serviceaccounts,roles,clusterrolebindings")
    host.controlplane.kubectl("create", "clusterrole", "deletes-accounts", *words)
    host.controlplane.kubectl("create", "clusterrolebinding", "eve", "--clusterrole=deletes-accounts", "--user=eve")
    name = f"virtsync-agent.{host.host}"

    def may_delete() -> bool:
        words = ("auth", "can-i", "delete", f"role/{name}", f"--namespace={AGENTS}", "--as=eve")
        return host.controlplane.kubectl(*words, check=False).returncode == 0

    until(may_delete, "the rights do not arrive")
    ended = host.enroll("--revoke", "--as", "eve")
    account, tokens, role, refused = ended.output.splitlines()
    assert ended.exit_code == 2
    assert (account, role) == (f"Deleted ServiceAccount {name}", f"Deleted Role {name}")
    assert tokens.startswith(f"Within 10 seconds the API server accepts no token of {host.host}.")
    assert refused.endswith(
        f"; somebody who may delete it can run `virtsync enroll {host.host} --namespace {AGENTS} --revoke`."
    )
    rest = host.ok("--revoke")
    assert "ServiceAccount" not in rest
    assert "Within 10 seconds" not in rest
    assert f"Deleted ClusterRoleBinding {name}" in rest


@pytest.fixture
def second(installed: ControlPlane) -> str:
    """The namespace of a second installation."""
    name = "second"
    role = json.loads(installed.kubectl("get", "role", "virtsync-agent", "-n", AGENTS, "-o", "json").stdout)
    role["metadata"] = {"name": "virtsync-agent", "namespace": name}
    installed.kubectl("create", "namespace", name, check=False)
    installed.kubectl("apply", "-f", "-", input=json.dumps(role))
    return name


def test_a_wrong_namespace_revokes_nothing(host: Enrolled) -> None:
    """The ClusterRoleBinding has no namespace: without it, a host has no rights, but its token can still be renewed."""
    host.ok()
    before = host.objects()
    ended = host.enroll("--revoke", "--namespace", "kvm-sytem")
    assert ended.exit_code == 2
    told = f"{host.host} is enrolled in namespace {AGENTS}, not in kvm-sytem: use --namespace {AGENTS}"
    assert ended.output == f"Error: {told}.\n"
    assert host.objects() == before
    assert len(before) == 5
    host.ok("--revoke")
    assert host.objects() == set()


def test_a_host_is_not_taken_from_another_installation(host: Enrolled, second: str) -> None:
    host.ok()
    before, kubeconfig = host.objects(), host.file.read_text()
    ended = host.enroll("--namespace", second)
    assert ended.exit_code == 2
    told = f"{host.host} is enrolled in namespace {AGENTS}, not in {second}: use --namespace {AGENTS}"
    assert ended.output == f"Error: {told}, or revoke it there first.\n"
    assert (host.objects(), host.file.read_text()) == (before, kubeconfig)
    with closing(host.caller()) as caller:
        until(lambda: caller.ask(Request("GET", f"{VMS}/virtualmachines")).granted, "its token is not accepted")
    host.ok("--revoke")
    host.ok("--namespace", second)
    host.ok("--namespace", second, "--revoke")
    assert host.objects() == set()


@pytest.mark.parametrize("gone", ["serviceaccount", "clusterrolebinding"])
def test_a_revocation_can_be_finished_whatever_is_left(host: Enrolled, gone: str) -> None:
    host.ok()
    host.controlplane.kubectl("delete", gone, f"virtsync-agent.{host.host}", "-n", AGENTS)
    assert "Deleted Role " in host.ok("--revoke")
    assert host.objects() == set()


def test_whoever_may_not_see_where_a_host_is_enrolled_revokes_nothing(host: Enrolled) -> None:
    host.ok()
    before = host.objects()
    words = ("--verb=delete", "--resource=serviceaccounts,roles,rolebindings,clusterrolebindings")
    host.controlplane.kubectl("create", "clusterrole", "only-deletes", *words)
    host.controlplane.kubectl("create", "clusterrolebinding", "kim", "--clusterrole=only-deletes", "--user=kim")
    asked = ("auth", "can-i", "delete", "clusterrolebindings", "--as=kim")
    until(lambda: host.controlplane.kubectl(*asked, check=False).returncode == 0, "the rights do not arrive")
    ended = host.enroll("--revoke", "--as", "kim")
    assert ended.exit_code == 2
    assert "lacks a permission" in ended.output
    assert f"can run `virtsync enroll {host.host} --namespace {AGENTS} --revoke`" in ended.output
    assert host.objects() == before


@pytest.mark.parametrize("server", ["10.0.0.1:6443", "http://10.0.0.1:6443"])
def test_a_url_that_the_host_cannot_use_creates_nothing(host: Enrolled, server: str) -> None:
    ended = host.enroll("--server", server)
    assert ended.exit_code == 2
    assert server in ended.output
    assert "https" in ended.output
    found = host.controlplane.kubectl("get", "serviceaccounts", "-A", "-o", "name").stdout
    assert f"virtsync-agent.{host.host}\n" not in found
    assert not host.file.exists()


def test_an_address_of_this_machine_is_pointed_out(host: Enrolled, tmp_path: Path) -> None:
    with ConnectProxy(urlsplit(host.controlplane.url).port or 443) as proxy:
        config = yaml.safe_load(host.controlplane.kubeconfig.read_text())
        through = config["clusters"][0]["cluster"]["proxy-url"] = proxy.url
        given = tmp_path / "mine"
        given.write_text(json.dumps(config))
        output = host.ok("--kubeconfig", str(given))
    assert f"{host.controlplane.url} is an address of this machine: give the one that {host.host} can reach" in output
    assert f"{through} is an address of this machine: change proxy-url in {host.file}" in output
    assert "is an address of this machine" not in host.ok("--server", "https://10.0.0.1:6443")
    cluster = yaml.safe_load(host.file.read_text())["clusters"][0]["cluster"]
    assert (cluster["server"], "proxy-url" in cluster) == ("https://10.0.0.1:6443", False)


def test_the_printed_commands_can_be_pasted(host: Enrolled, tmp_path: Path) -> None:
    folder = tmp_path / "a folder; $HOME"
    folder.mkdir()
    host.file = folder / "it's.kubeconfig"
    output = host.ok()
    remove = next(line for line in output.splitlines() if line.startswith("  rm "))
    copy = next(line for line in output.splitlines() if line.startswith("  ssh "))
    assert shlex.split(remove, comments=True) == ["rm", str(host.file)]
    assert shlex.split(copy)[-2:] == ["<", str(host.file)]


def test_a_file_of_something_else_is_not_overwritten(host: Enrolled) -> None:
    kubeconfig = host.controlplane.kubeconfig
    content = kubeconfig.read_bytes()
    ended = host.enroll("--out", str(kubeconfig))
    assert ended.exit_code == 2
    assert "choose another file (--out)" in ended.output
    assert kubeconfig.read_bytes() == content


def test_nothing_is_created_if_the_file_cannot_be_written(host: Enrolled, tmp_path: Path) -> None:
    for folder in (tmp_path / "none", Path("/dev/null")):
        ended = host.enroll("--out", str(folder / "kubeconfig"))
        assert ended.exit_code == 2
        assert f"kubeconfig cannot be written: you may not write to the folder {folder}" in ended.output
    assert host.objects() == set()


def test_without_the_policies_no_host_is_enrolled(crd: ControlPlane, tmp_path: Path) -> None:
    """An older installation has no policy that would confine the host."""
    bare = Enrolled(crd, "kvm-bare", tmp_path)
    ended = bare.enroll()
    assert ended.exit_code == 2
    assert "kubectl apply -f deploy/install.yaml" in ended.output
    found = crd.kubectl("get", "serviceaccounts", "-A", "-o", "name").stdout
    assert "virtsync-agent.kvm-bare" not in found


def test_an_agent_of_another_name_does_not_start(host: Enrolled) -> None:
    host.ok()
    words = ("--node-name", OTHER, "--kubeconfig", str(host.file))
    ended = subprocess.run(
        [sys.executable, "-m", "controller", "agent", *words],
        capture_output=True,
        text=True,
        timeout=HANG_LIMIT_S,
        check=False,
    )
    assert ended.returncode == 2
    assert f"The token in the kubeconfig is of host {host.host}, and --node-name is {OTHER}" in ended.stderr


# --- the renewal, on a clock of the test's own


class Clock:
    """The wall clock of one agent, which the test moves."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class Shown:
    """The metric."""

    def __init__(self) -> None:
        self.expires: datetime | None = None

    def token_seen(self, host: str, lifetime: Lifetime) -> None:
        del host
        self.expires = lifetime.expires


class Renewing:
    """The renewal of one host, with a real API server."""

    def __init__(self, host: Enrolled) -> None:
        self.host, self.shown = host, Shown()
        self.lifetime = claims(host.token).lifetime
        self.clock = Clock(self.lifetime.issued)
        self.api = client.load(host.file)
        self.renewal = Renewal(self.api, host.file, host.host, self.shown, clock=self.clock, chance=lambda: 0.5)

    def at(self, share: float) -> float | None:
        """Look when this share of the lifetime of the first token has passed."""
        self.clock.now = self.lifetime.issued + timedelta(seconds=self.lifetime.seconds * share)
        return self.renewal.look()


@pytest.fixture
def renewing(host: Enrolled) -> Renewing:
    host.ok()
    return Renewing(host)


def test_a_token_is_renewed_after_half_of_its_lifetime(renewing: Renewing) -> None:
    first = renewing.host.token
    assert renewing.at(0.54) == 60
    assert renewing.shown.expires == renewing.lifetime.expires
    assert renewing.host.token == first
    renewing.at(0.56)
    assert renewing.host.token != first
    assert renewing.shown.expires == claims(renewing.host.token).lifetime.expires
    assert renewing.api.credentials.current().authorization == f"Bearer {renewing.host.token}"


def test_a_renewal_that_fails_is_tried_again(renewing: Renewing) -> None:
    first = renewing.host.token
    folder = renewing.host.file.parent
    text = renewing.host.file.read_text()
    renewing.host.file.write_text(text.replace(renewing.host.controlplane.url, "https://127.0.0.1:1"))
    broken = Renewing(renewing.host)
    with capture_logs() as logs:
        assert broken.at(0.6) == 60
        assert broken.renewal.look() == 60
    told = [one for one in logs if one["event"] == "could not renew the token of this host"]
    assert len(told) == 1
    assert told[0]["remaining"] == "12d"
    assert "the API server does not answer" in told[0]["error"]
    renewing.host.file.write_text(text)
    renewing.at(0.7)
    assert renewing.host.token != first
    assert [path.name for path in folder.iterdir()] == [renewing.host.file.name]


def test_a_renewal_that_failed_with_a_clock_that_is_ahead_is_tried_again(renewing: Renewing) -> None:
    """As on a host that boots with a wrong clock and without a network."""
    first = renewing.host.token
    text = renewing.host.file.read_text()
    renewing.host.file.write_text(text.replace(renewing.host.controlplane.url, "https://127.0.0.1:1"))
    ahead = Renewing(renewing.host)
    ahead.at(100)
    renewing.host.file.write_text(text)
    ahead.api.credentials.reload()
    ahead.at(0.6)
    assert renewing.host.token != first


def test_a_file_that_cannot_be_written_is_named(renewing: Renewing, tmp_path: Path) -> None:
    gone = tmp_path / "gone" / "kubeconfig"
    renewal = Renewal(renewing.api, gone, renewing.host.host, renewing.shown, clock=renewing.clock)
    renewing.clock.now = renewing.lifetime.issued + timedelta(seconds=renewing.lifetime.seconds * 0.7)
    with capture_logs() as logs:
        renewal.look()
    assert [one["error"] for one in logs if one["log_level"] == "warning"] == [
        f"{gone} cannot be read: No such file or directory"
    ]


def test_an_expired_token_says_how_to_enroll_again(renewing: Renewing) -> None:
    """The API server refuses this one because the host was revoked: no real token expires within minutes."""
    assert renewing.renewal.unready() is None
    renewing.host.ok("--revoke")
    with closing(renewing.host.caller()) as caller:
        until(lambda: caller.ask(Request("GET", VMS)).code == HTTPStatus.UNAUTHORIZED, "its token is still accepted")
    with capture_logs() as logs:
        assert renewing.at(1.0) == 10
    expired = renewing.renewal.unready()
    assert expired
    assert f"run `virtsync enroll {renewing.host.host} --namespace {AGENTS} --server https://" in expired
    assert [one["message"] for one in logs if one["log_level"] == "error"] == [expired]
    # Somebody does so, and replaces the file.
    renewing.host.ok()
    renewing.clock.now += timedelta(seconds=10)
    renewing.renewal.look()
    renewing.clock.now = datetime.now(UTC)
    assert renewing.renewal.unready() is None


def test_a_clock_that_is_ahead_does_not_prevent_the_renewal(renewing: Renewing) -> None:
    """The token has expired by the clock of the host, and not by that of the API server."""
    first = renewing.host.token
    renewing.at(1.5)
    assert renewing.host.token != first


def test_a_token_of_another_user_is_left_alone(installed: ControlPlane) -> None:
    api = client.load(installed.kubeconfig)
    shown = Shown()
    renewal = Renewal(api, installed.kubeconfig, "node-a", shown)
    assert renewal.look() is None
    assert renewal.unready() is None
    assert shown.expires is None


def test_a_token_of_another_host_is_refused(host: Enrolled) -> None:
    host.ok()
    with pytest.raises(Rejected, match="is of host"):
        Renewal(client.load(host.file), host.file, OTHER, Shown())
