"""Somebody has broken into the agent of node-a: takes its token out of the Pod, and tries all of it against node-b."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cluster.cluster import NODES, Cluster
from lab.world import World, power_of, runs
from tests.deploy.callers import AGENTS, Answer, Caller, Request
from tests.e2e.agents import IMAGE_ARCHIVE, Agents

pytestmark = pytest.mark.e2e

TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - where every Pod has it
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{AGENTS}/leases"
OFF = {"spec": {"powerState": "Stopped"}}
LIE = {"status": {"powerState": "Stopped"}}


@pytest.fixture
def world(cluster: Cluster, tmp_path: Path) -> Iterator[World]:
    assert IMAGE_ARCHIVE.exists(), f"{IMAGE_ARCHIVE} is missing: run `make image`."
    cluster.import_image(IMAGE_ARCHIVE)
    Agents(cluster, NODES).install()
    with World(cluster.controlplane, cluster.nodes["node-b"].libvirtd, "attacked", tmp_path) as entered:
        entered.node = "node-b"
        yield entered


def test_the_token_of_one_node_is_worth_nothing_against_another(world: World, cluster: Cluster) -> None:
    guest = world.define()
    world.apply(guest, powerState="Running")
    world.until(guest, runs, "running")
    run, holder = world.run_id(guest), _holder(cluster)
    vms = f"/apis/virtsync.dev/v1alpha1/namespaces/{world.name}/virtualmachines"
    vm = f"{vms}/{guest.name}"
    event = {
        "metadata": {"name": "forged", "namespace": world.name},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "type": "Normal",
        "reason": "Started",
        "action": "Start",
        "reportingController": "virtsync.dev/agent",
        "reportingInstance": "node-b",
        "regarding": {
            "apiVersion": "virtsync.dev/v1alpha1",
            "kind": "VirtualMachine",
            "namespace": world.name,
            "name": guest.name,
        },
    }

    by_policy = (
        Request("PATCH", f"{vm}/status", LIE),
        Request("PATCH", f"{vm}/status", LIE | {"spec": {"nodeName": "node-a"}}),
        Request("POST", LEASES, {"metadata": {"name": "node-c"}, "spec": {"holderIdentity": "me"}}),
        Request("POST", f"/apis/events.k8s.io/v1/namespaces/{world.name}/events", event),
    )
    by_rbac = (
        Request("PATCH", vm, OFF),
        Request("PATCH", vm, {"spec": {"nodeName": "node-a"}}),
        Request("PATCH", vm, {"metadata": {"annotations": {"hold.virtsync.dev/me": "mine now"}}}),
        Request("DELETE", vm),
        Request("DELETE", vms),
        Request("DELETE", f"{LEASES}/node-b"),
        Request("GET", f"/api/v1/namespaces/{AGENTS}/secrets"),
        Request("GET", f"/api/v1/namespaces/{AGENTS}/pods"),
        Request("PATCH", "/api/v1/nodes/node-b", {"metadata": {"labels": {"virtsync.dev/kvm": "false"}}}),
        Request("POST", f"/api/v1/namespaces/{AGENTS}/serviceaccounts/virtsync-agent/token", {}),
    )
    agent = Agents(cluster, NODES).pod("node-a")["metadata"]["name"]
    token = cluster.kubectl("exec", agent, f"--namespace={AGENTS}", "--", "cat", TOKEN).stdout.strip()
    with closing(Caller(cluster.controlplane, token)) as attacker:
        # It is a token that is good for something: this cannot be refused, and docs/security.md says so.
        assert attacker.ask(Request("GET", vm)).granted
        for request in by_policy:
            answer = attacker.ask(request)
            assert answer.code == 403, (request, answer)
            assert "node node-a" in answer.message
        assert "node node-a" in _take_lease(attacker).message
        for request in by_rbac:
            answer = attacker.ask(request)
            assert answer.code == 403, (request, answer)
            assert "virtsync-agent" in answer.message

    left = world.get(guest)
    assert left["spec"]["nodeName"] == "node-b"
    assert left["spec"]["powerState"] == power_of(left) == "Running"
    assert left["metadata"].get("annotations", {}).keys() <= {"kubectl.kubernetes.io/last-applied-configuration"}
    assert world.run_id(guest) == run
    assert _holder(cluster) == holder
    assert "forged" not in [event["metadata"]["name"] for event in world._events.all()]


def _take_lease(attacker: Caller) -> Answer:
    """Put a name of one's own into the Lease of node-b; once more when its agent has just renewed it."""
    while True:
        lease = attacker.ask(Request("GET", f"{LEASES}/node-b")).body
        lease["spec"]["holderIdentity"] = "me"
        answer = attacker.ask(Request("PUT", f"{LEASES}/node-b", lease))
        if answer.code != 409:
            assert answer.code == 403, answer
            return answer


def _holder(cluster: Cluster) -> str:
    words = ("get", "lease", "node-b", f"--namespace={AGENTS}", "-o", "jsonpath={.spec.holderIdentity}")
    return cluster.kubectl(*words).stdout
