"""The commands of the runbooks and of the pages about reasons, typed on a real API server with virtsync installed.

There is no kubelet, so commands that need one (logs, exec, the proxy of a Pod) and rollouts are left out. So is ssh.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab.controlplane import ControlPlane
from manifests import rules
from tests.deploy.callers import AGENTS

RUNBOOKS = rules.DEPLOY.parent / "docs" / "runbooks"
PAGES = sorted(page for page in RUNBOOKS.glob("*.md") if page.stem != "README")
NEEDS_A_KUBELET = re.compile(r" (logs|exec|top|rollout) |/proxy/")
NEEDS_A_HOST = re.compile(r"^ssh ")
REASONS = sorted(page for page in (RUNBOOKS.parent / "reasons").glob("*.md") if page.stem != "README")
API = "virtsync.dev/v1alpha1"
LABELS = {"app.kubernetes.io/name": "virtsync", "app.kubernetes.io/component": "agent"}


def commands(page: Path) -> list[str]:
    """What is typed on the administrator's machine, in the order of the page."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def fleet(installed: ControlPlane) -> ControlPlane:
    """What the pages name: a node with its agent, its Hypervisor and its Lease, and a VM."""
    container = {"name": "agent", "image": "virtsync/virtsync"}
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"holderIdentity": "pod-1"}}
    items = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "virtsync-agent-7x2kq", "namespace": AGENTS, "labels": LABELS},
            "spec": {"nodeName": "node-a", "containers": [container], "serviceAccountName": "virtsync-agent"},
        },
        *(lease | {"metadata": {"name": name, "namespace": AGENTS}} for name in ("node-a", "virtsync-manager")),
        {"apiVersion": API, "kind": "Hypervisor", "metadata": {"name": "node-a"}},
        {
            "apiVersion": API,
            "kind": "VirtualMachine",
            "metadata": {"name": "web-1", "namespace": "default"},
            "spec": {"nodeName": "node-a"},
        },
    ]
    installed.kubectl("create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    return installed


def follow(page: Path, fleet: ControlPlane, folder: Path) -> None:
    """Type the commands of a page, one after the other, in one shell."""
    fleet.kubectl("annotate", "kvm", "-n", "default", "web-1", "hold.virtsync.dev/oncall-")
    left_out = (NEEDS_A_KUBELET, NEEDS_A_HOST)
    typed = [it for it in commands(page) if not any(needs.search(it) for needs in left_out)]
    # A search that finds nothing is no failure, nor is a VM that is not as wanted.
    script = "\n".join(f"{it} || test $? = 1" if re.search(r"\| grep|virtsync drift", it) else it for it in typed)
    env = os.environ | {
        "KUBECONFIG": str(fleet.kubeconfig),
        "KUBECACHEDIR": str(folder),
        "PATH": f"{fleet.assets}:{sys.prefix}/bin:{os.environ['PATH']}",
    }
    done = subprocess.run(["bash", "-euxc", script], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_commands_work_as_they_are_written(fleet: ControlPlane, page: Path, tmp_path: Path) -> None:
    follow(page, fleet, tmp_path)


@pytest.mark.parametrize("page", REASONS, ids=lambda page: page.stem)
def test_the_commands_about_a_reason_work_as_they_are_written(fleet: ControlPlane, page: Path, tmp_path: Path) -> None:
    spec = {"spec": {"nodeName": "node-a", "powerState": "Running"}}
    fleet.kubectl("patch", "kvm", "-n", "default", "web-1", "--type=merge", "-p", json.dumps(spec))
    follow(page, fleet, tmp_path)


def test_commands_are_found_on_every_page() -> None:
    assert len(PAGES) == len(rules.alerts())
    assert [page.stem for page in PAGES + REASONS if not any(it.startswith("kubectl ") for it in commands(page))] == []


def test_a_page_that_looks_at_the_pod_of_an_agent_says_what_to_do_on_a_host_without_pods() -> None:
    """An enrolled host is not a node, so these commands show nothing of it."""
    linked = "](../operations.md#a-host-that-is-not-a-node)"
    about_pods = [page for page in PAGES if re.search(r"component=agent|get node ", " ".join(commands(page)))]
    assert len(about_pods) > 10
    assert [page.stem for page in about_pods if linked not in page.read_text()] == []
    for name in ("VirtsyncAgentDown", "VirtsyncNodeSilent"):
        for command in ("systemctl status virtsync-agent", "journalctl --unit virtsync-agent"):
            assert f"`{command}`" in (RUNBOOKS / f"{name}.md").read_text()


def test_what_the_pages_change_is_what_they_say(fleet: ControlPlane, tmp_path: Path) -> None:
    follow(RUNBOOKS / "VirtsyncCrashLoop.md", fleet, tmp_path)
    held = json.loads(fleet.kubectl("get", "kvm", "-n", "default", "web-1", "-o", "json").stdout)
    assert held["metadata"]["annotations"]["hold.virtsync.dev/oncall"] == "crashes at boot"
    for page, maintenance in {
        "VirtsyncNodeSilent": {"mode": "Shutdown", "reason": "switched off"},
        "VirtsyncMaintenanceForgotten": None,
    }.items():
        follow(RUNBOOKS / f"{page}.md", fleet, tmp_path)
        host = json.loads(fleet.kubectl("get", "kvmhost", "node-a", "-o", "json").stdout)
        assert host["spec"].get("maintenance") == maintenance
