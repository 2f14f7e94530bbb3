"""`virtsync import` on a real API server, with the real kubectl, libvirt and agent: nothing is switched."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_DNS, UUID, uuid5

import pytest
import yaml

from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.world import World, ready_of, until

Json = dict[str, Any]
SINCE = "2026-11-26T08:20:13Z"
RULES = "- match: db-.*\n  namespace: dbs\n- match: .*\n  namespace: vms\n"
INSTEAD = "`virtsync import --libvirt-uri qemu:///system --node {0}` on the host can import it"


@pytest.fixture(scope="module")
def controlplane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server of these tests alone, because import reads the Hypervisors and VirtualMachines of all."""
    with ControlPlane(tmp_path_factory.mktemp("import")) as running:
        running.install_crds()
        running.kubectl("wait", "crd/hypervisors.virtsync.dev", "--for=condition=Established", "--timeout=60s")
        for namespace in ("dbs", "vms"):
            running.kubectl("create", "namespace", namespace)
        yield running


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    """A libvirt of these tests alone, because import reads all its domains."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder, Libvirtd(Path(folder)) as running:
        yield running


@pytest.fixture(autouse=True)
def _empty(controlplane: ControlPlane, libvirtd: Libvirtd) -> Iterator[None]:
    yield
    controlplane.kubectl("delete", "kvmhost", "--all")
    for namespace in ("dbs", "vms", "team-a"):
        controlplane.kubectl("delete", "--raw", f"/apis/virtsync.dev/v1alpha1/namespaces/{namespace}/virtualmachines")
    with libvirtd.connection() as connection:
        names = [domain.name() for domain in connection.listAllDomains()]
    for name in names:
        libvirtd.virsh("destroy", name, check=False)
        libvirtd.virsh("undefine", name, check=False)


def domain(name: str, power: str = "Running", **fields: Any) -> Json:
    known = {"uuid": str(uuid5(NAMESPACE_DNS, name)), "name": name, "powerState": power, "reason": "BOOTED"}
    return known | {"transient": False} | fields


def report(
    controlplane: ControlPlane,
    node: str,
    domains: list[Json],
    *,
    ready: str = "True",
    reason: str = "Active",
    **more: Any,
) -> None:
    """Create a Hypervisor with this report, as its agent would."""
    running = sum(one["powerState"] == "Running" for one in domains)
    unmanaged = {"total": len(domains), "running": running, "truncated": False, "domains": domains} | more
    condition = {
        "type": "Ready",
        "status": ready,
        "reason": reason,
        "message": "So it is.",
        "lastTransitionTime": SINCE,
    }
    kind = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "Hypervisor"}
    controlplane.kubectl("create", "-f", "-", input=json.dumps(kind | {"metadata": {"name": node}}))
    patch = json.dumps({"status": {"observedGeneration": 1, "unmanaged": unmanaged, "conditions": [condition]}})
    words = ("patch", "kvmhost", node, "--type=merge", "--subresource=status", "--patch-file=/dev/stdin")
    controlplane.kubectl(*words, input=patch)


def virtsync(
    controlplane: ControlPlane, *words: str | Path, kubeconfig: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "controller", "import", *map(str, words)]
    env = os.environ | {"KUBECONFIG": str(kubeconfig or controlplane.kubeconfig)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, check=False)


def objects(controlplane: ControlPlane) -> dict[str, Json]:
    """All VirtualMachines, by namespace/name."""
    items = json.loads(controlplane.kubectl("get", "kvm", "-A", "-o", "json").stdout)["items"]
    return {f"{vm['metadata']['namespace']}/{vm['metadata']['name']}": vm for vm in items}


def unmanaged(controlplane: ControlPlane, node: str) -> dict[str, str]:
    """The power states of the domains without an object, by the Hypervisor of this node."""
    host = json.loads(controlplane.kubectl("get", "kvmhost", node, "-o", "json").stdout)
    return {domain["name"]: domain["powerState"] for domain in host["status"]["unmanaged"].get("domains", [])}


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


# --- import_500


@pytest.mark.timeout(600)
def test_500_domains_of_two_hosts_are_observed_and_none_is_switched(
    controlplane: ControlPlane, libvirtd: Libvirtd, tmp_path: Path
) -> None:
    guests = [libvirtd.define(name) for name in ("web-1", "web_2", "db-1", "paused")]
    for guest in guests[:2]:
        guest.start()
    libvirtd.virsh("start", "paused")
    libvirtd.virsh("suspend", "paused")
    lives = ["Running", "Running", "Stopped", "Paused"]
    real = [domain(guest.name, life, uuid=str(guest.uuid)) for guest, life in zip(guests, lives, strict=True)]
    runs = libvirtd.virsh("list", "--all").stdout
    report(controlplane, "node-a", real + [domain(f"db-a{number}") for number in range(250 - len(real))])
    report(
        controlplane,
        "node-b",
        [domain(f"Web {number}", "Stopped") for number in range(249)]
        + [domain("web-1", uuid=str(uuid5(NAMESPACE_DNS, "b")))],
    )
    rules, out = tmp_path / "rules.yaml", tmp_path / "vms"
    rules.write_text(RULES)

    first = virtsync(controlplane, "--namespaces", rules, "--out", out)
    assert (first.returncode, first.stdout) == (0, "")
    assert first.stderr.splitlines() == [
        f"node-a: 250 domains without an object, 249 of them on: 250 files in {out}/node-a.",
        f"node-b: 250 domains without an object, 1 of them on: 250 files in {out}/node-b.",
        "No powerState was written: applied as they are, these manifests switch nothing.",
    ]
    files = contents(out)
    assert len(files) == 500 + 3
    written = [yaml.safe_load(text) for name, text in files.items() if "kustomization" not in name]
    assert all("powerState" not in vm["spec"] for vm in written)
    virtsync(controlplane, "--namespaces", rules, "--out", tmp_path / "other")
    assert contents(tmp_path / "other") == files, "two people get the same files"
    for node in ("node-a", "node-b"):
        virtsync(controlplane, "--namespaces", rules, "--out", tmp_path / "single", "--node", node)
    assert contents(tmp_path / "single") == files, "one host after the other gives the same files"
    again = virtsync(controlplane, "--namespaces", rules, "--out", out)
    assert (again.returncode, contents(out)) == (0, files)

    with World(controlplane, libvirtd, "import-500", tmp_path) as world:
        agent = world.new_agent(node="node-a")
        agent.start()
        applied = controlplane.kubectl("apply", "-k", str(out)).stdout.splitlines()
        assert len(applied) == 500
        assert all(line.endswith(" created") for line in applied)
        applied = controlplane.kubectl("apply", "-k", str(out)).stdout.splitlines()
        assert len(applied) == 500
        assert all(line.endswith(" unchanged") for line in applied)
        assert controlplane.kubectl("diff", "-k", str(out)).stdout == ""

        keys = ["vms/web-1", f"vms/web-2-{guests[1].uuid.hex[:8]}", "dbs/db-1", "vms/paused"]

        def reasons() -> dict[str, set[str]]:
            found: dict[str, set[str]] = {"real": set(), "gone": set()}
            for key, vm in objects(controlplane).items():
                if vm["spec"]["nodeName"] == "node-a":
                    found["real" if key in keys else "gone"].add(ready_of(vm)["reason"])
            return found

        reported = {"real": {"Observed"}, "gone": {"DomainNotFound"}}
        until(lambda: reasons() == reported, "The agent has not reported all 250.", limit_s=300)
        observed = objects(controlplane)
        assert [observed[key]["status"]["powerState"] for key in keys] == lives
        assert not [line for line in agent.log_lines() if "result" in line], "the agent has acted"
        assert libvirtd.virsh("list", "--all").stdout == runs
        none = virtsync(controlplane, "--namespaces", rules, "--out", tmp_path / "third")
        assert none.returncode == 0
        assert none.stderr.splitlines() == [f"node-{letter}: every domain has an object." for letter in "ab"]
    assert not (tmp_path / "third").exists()


def test_the_manifests_apply_server_side_without_a_difference_the_second_time(
    controlplane: ControlPlane, tmp_path: Path
) -> None:
    # Names that YAML readers confuse with other types, and the longest.
    names = ["1e3", "y", "on", "null", "0o17", "0x1f", "2026-1-1", "a.b", "w" * 150, "W" * 255, "kustomization", "日本"]
    report(controlplane, "node-a", [domain(name) for name in names])
    out = tmp_path / "vms"
    assert virtsync(controlplane, "--namespace", "vms", "--out", out).returncode == 0
    command = ("apply", "-k", str(out), "--server-side", "--field-manager=flux")
    controlplane.kubectl(*command)
    first = objects(controlplane)
    assert {vm["spec"]["domain"]["uuid"] for vm in first.values()} == {domain(name)["uuid"] for name in names}
    assert {f"vms/{name}" for name in names[:9]} <= set(first)
    controlplane.kubectl(*command)
    second = objects(controlplane)
    for vm in (*first.values(), *second.values()):
        del vm["metadata"]["resourceVersion"]  # the second write stores the defaults of the status too
    assert second == first
    assert controlplane.kubectl("diff", "-k", str(out), "--server-side", "--field-manager=flux").stdout == ""
    assert all(
        vm["metadata"]["annotations"]["kustomize.toolkit.fluxcd.io/prune"] == "disabled" for vm in first.values()
    )


def test_printed_manifests_can_be_piped_into_kubectl(controlplane: ControlPlane) -> None:
    report(controlplane, "node-a", [domain("web-1"), domain("web-2", "Stopped"), domain("odd", "Crashed")])
    printed = virtsync(controlplane, "--namespace", "vms", "--power-state-as-seen", "--unpinned")
    controlplane.kubectl("apply", "-f", "-", input=printed.stdout)
    assert {key: vm["spec"].get("powerState") for key, vm in objects(controlplane).items()} == {
        "vms/web-1": "Running",
        "vms/web-2": "Stopped",
        "vms/odd": None,
    }
    assert all("nodeName" not in vm["spec"] for vm in objects(controlplane).values())


# --- from a libvirt


def test_domains_from_libvirt_are_compared_with_the_cluster(controlplane: ControlPlane, libvirtd: Libvirtd) -> None:
    adopted, transient, off = (libvirtd.define(name) for name in ("adopted", "transient", "off"))
    transient.start()
    libvirtd.virsh("undefine", "transient")
    report(controlplane, "node-b", [domain("off", uuid=str(uuid5(NAMESPACE_DNS, "b")))])
    report(controlplane, "node-a", [], truncated=True, total=3)
    vm = {
        "apiVersion": "virtsync.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {"name": "x", "namespace": "dbs"},
    }
    controlplane.kubectl("create", "-f", "-", input=json.dumps(vm | {"spec": {"domain": {"uuid": str(adopted.uuid)}}}))

    words = ("--namespace", "vms", "--libvirt-uri", libvirtd.uri, "--node", "node-a")
    ended = virtsync(controlplane, *words)
    assert ended.stderr.splitlines()[0] == "node-a: 2 domains without an object, 1 of them on."
    found = {vm["metadata"]["name"]: vm["spec"] for vm in yaml.safe_load_all(ended.stdout)}
    assert found == {
        "off": {"nodeName": "node-a", "domain": {"uuid": str(off.uuid)}},
        "transient": {"nodeName": "node-a", "domain": {"uuid": str(transient.uuid)}},
    }
    assert "# It is transient: its next stop removes it, and virtsync cannot start it again.\n" in ended.stdout
    offline = virtsync(controlplane, *words, "--offline")
    assert offline.stderr.splitlines()[0] == "node-a: 3 domains without an object, 1 of them on."


# --- import_refuses


@pytest.mark.parametrize(
    ("node", "why"),
    [
        ("silent", f"not Ready since {SINCE} (AgentUnreachable)"),
        ("many", "its report has only 1 of 700 domains without an object"),
        ("nameless", "its agent does not report the names of domains (--report-unmanaged=false)"),
        ("fresh", "its agent has not reported yet"),
    ],
)
def test_a_host_that_cannot_be_imported_is_refused_if_named_and_otherwise_left_out(
    controlplane: ControlPlane, tmp_path: Path, node: str, why: str
) -> None:
    reports: dict[str, Json] = {
        "silent": {"domains": [domain("web-1")], "ready": "Unknown", "reason": "AgentUnreachable"},
        "many": {"domains": [domain("web-1")], "truncated": True, "total": 700},
        "nameless": {"domains": [], "truncated": True, "total": 7},
        "fresh": {"domains": [], "ready": "Unknown", "reason": "Pending"},
    }
    report(controlplane, node, **reports[node])
    words = ("--namespace", "vms", "--out", tmp_path / "vms")
    sentence = f"{node}: {why}"

    alone = virtsync(controlplane, *words)
    assert (alone.returncode, alone.stdout) == (2, "")
    assert alone.stderr.splitlines() == [
        f"{sentence}, left out. {INSTEAD.format(node)}.",
        "Error: no host can be imported.",
    ]
    report(controlplane, "good", [domain("db-1")])
    named = virtsync(controlplane, *words, "--node", node, "--node", "good")
    assert (named.returncode, named.stdout) == (2, "")
    assert named.stderr == f"Error: {sentence}. {INSTEAD.format(node)}.\n"
    assert not (tmp_path / "vms").exists()

    among_others = virtsync(controlplane, *words)
    assert among_others.returncode == 0
    assert f"{sentence}, left out. {INSTEAD.format(node)}." in among_others.stderr.splitlines()
    assert set(contents(tmp_path / "vms")) == {"kustomization.yaml", "good/kustomization.yaml", "good/db-1.yaml"}


def test_an_unknown_host_and_a_cluster_without_hosts_are_one_sentence(controlplane: ControlPlane) -> None:
    ended = virtsync(controlplane, "--namespace", "vms")
    told = f"there is no Hypervisor, because no agent has reported yet. {INSTEAD.format('NAME')}"
    assert (ended.returncode, ended.stderr) == (2, f"Error: {told}.\n")
    report(controlplane, "node-a", [])
    ended = virtsync(controlplane, "--namespace", "vms", "--node", "node-x")
    told = f"node-x: there is no Hypervisor of this name (kubectl get kvmhost). {INSTEAD.format('node-x')}"
    assert (ended.returncode, ended.stderr) == (2, f"Error: {told}.\n")


def test_a_user_who_may_not_list_is_told_so_in_one_sentence(controlplane: ControlPlane) -> None:
    kubeconfig = controlplane.service_account("vms", "nobody")
    ended = virtsync(controlplane, "--namespace", "vms", kubeconfig=kubeconfig)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert 'cannot list resource "hypervisors"' in ended.stderr


def test_an_api_server_that_does_not_answer_is_one_sentence(controlplane: ControlPlane, tmp_path: Path) -> None:
    away = tmp_path / "kubeconfig"
    away.write_text(controlplane.kubeconfig.read_text().replace(controlplane.url, "https://127.0.0.1:1"))
    ended = virtsync(controlplane, "--namespace", "vms", kubeconfig=away)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith("Error: the API server does not answer: ")


# --- docs/import.md

DOCUMENT = Path(__file__).parents[2] / "docs" / "import.md"
TRANSCRIPT = re.compile(r"```console\n(.*?)```", re.DOTALL)


def without_ages(line: str) -> list[str]:
    return [word for word in line.split() if not re.fullmatch(r"(\d+[smhd])+", word)]


def test_the_document_works_as_written(controlplane: ControlPlane, libvirtd: Libvirtd, tmp_path: Path) -> None:
    document = DOCUMENT.read_text()
    rules, *_ = re.findall(r"```yaml\n(.*?)```", document, re.DOTALL)
    (tmp_path / "rules.yaml").write_text(rules)
    (uuid,) = set(re.findall(r"uuid: (\S+)", document))
    web = libvirtd.define("web-1", uuid=UUID(uuid))
    legacy = libvirtd.define("Legacy_VM", uuid=UUID(f"0f4c5e8a{uuid[8:]}"))
    db_1, db_2 = libvirtd.define("db-1"), libvirtd.define("db-2")
    for guest in (web, legacy, db_1):
        libvirtd.virsh("start", guest.name)
    libvirtd.virsh("suspend", legacy.name)
    powers = {web: "Running", db_1: "Running", db_2: "Stopped", legacy: "Paused"}
    domains = [domain(guest.name, power, uuid=str(guest.uuid)) for guest, power in powers.items()]
    report(controlplane, "node-a", domains)

    env = os.environ | {
        "KUBECONFIG": str(controlplane.kubeconfig),
        "KUBECACHEDIR": str(tmp_path / "cache"),
        "PATH": f"{Path(sys.executable).parent}:{controlplane.assets}:{os.environ['PATH']}",
        **{f"GIT_{who}_{what}": "me@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    with World(controlplane, libvirtd, "import-document", tmp_path / "world") as world:
        agent = world.new_agent(node="node-a")
        agent.start()
        for text in "".join(TRANSCRIPT.findall(document)).removeprefix("$ ").split("\n$ "):
            command, _, shown = text.partition("\n")
            if "--power-state-as-seen" in command:
                libvirtd.define("web-2").start()
                until(
                    lambda: unmanaged(controlplane, "node-a") == {"web-2": "Running"}, "The agent has not listed web-2."
                )
            typed = command.replace("qemu:///system", libvirtd.uri)
            shell = ["bash", "-ec", typed]
            done = subprocess.run(shell, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            told = done.stderr if command.startswith("virtsync") else done.stdout
            if "get kvm " in command:
                assert [*map(without_ages, told.splitlines())] == [*map(without_ages, shown.splitlines())], command
            elif shown and "kvmhost" not in command:
                assert told.rstrip() == shown.rstrip(), command
        assert not [line for line in agent.log_lines() if "result" in line], "the agent has acted"
