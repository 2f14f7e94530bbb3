"""API Priority and Fairness, on a real API server: which of its levels handle the requests of virtsync."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from lab.controlplane import ControlPlane
from lab.world import until
from tests.deploy.callers import AGENTS, Caller, Request, pod_token, token

LEASES = Request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{AGENTS}/leases/node-a")
REST = {
    "a list of VMs": Request("GET", "/apis/virtsync.dev/v1alpha1/virtualmachines"),
    "a Hypervisor": Request("GET", "/apis/virtsync.dev/v1alpha1/hypervisors/node-a"),
    "the status of a VM": Request("PATCH", "/apis/virtsync.dev/v1alpha1/namespaces/default/virtualmachines/x/status"),
    "an Event": Request("POST", "/apis/events.k8s.io/v1/namespaces/default/events"),
    "a probe": Request("GET", "/version"),
}
SCHEMA, LEVEL = "X-Kubernetes-PF-FlowSchema-UID", "X-Kubernetes-PF-PriorityLevel-UID"


@pytest.fixture(scope="module", params=["virtsync-agent", "virtsync-manager"])
def caller(request: pytest.FixtureRequest, installed: ControlPlane) -> Iterator[Caller]:
    """An agent or a manager, when the API server applies the new FlowSchemas."""
    with closing(Caller(installed, pod_token(installed, AGENTS, request.param, "node-a"))) as entered:
        until(lambda: _handled_by(installed, entered, LEASES)[0] == "virtsync-leases", "no FlowSchema matches")
        yield entered


def test_leases_have_the_level_of_the_nodes(installed: ControlPlane, caller: Caller) -> None:
    assert _handled_by(installed, caller, LEASES) == ("virtsync-leases", "node-high")


@pytest.mark.parametrize("request_", REST.values(), ids=REST)
def test_all_other_requests_have_a_level_of_their_own(
    installed: ControlPlane, caller: Caller, request_: Request
) -> None:
    assert _handled_by(installed, caller, request_) == ("virtsync", "virtsync")


def test_requests_of_others_have_neither(installed: ControlPlane) -> None:
    installed.kubectl("create", "serviceaccount", "other", f"--namespace={AGENTS}")
    with closing(Caller(installed, token(installed, AGENTS, "other"))) as other:
        assert _handled_by(installed, other, LEASES) == ("service-accounts", "workload-low")
        assert _handled_by(installed, other, REST["a list of VMs"]) == ("service-accounts", "workload-low")


def test_the_level_has_the_seats_that_its_comment_says(installed: ControlPlane) -> None:
    def seats() -> dict[str, str]:
        lines = installed.kubectl("get", "--raw", "/metrics").stdout.splitlines()
        prefix, suffix = "apiserver_flowcontrol_", '_limit_seats{priority_level="virtsync"}'
        found = (line.rpartition(" ") for line in lines)
        return {key.removeprefix(prefix).removesuffix(suffix): value for key, _, value in found if key.endswith(suffix)}

    until(lambda: "nominal" in seats(), "the API server does not know the level")
    assert {kind: seats()[kind] for kind in ("nominal", "upper", "lower")} == {
        "nominal": "24",
        "upper": "36",
        "lower": "12",
    }


def _handled_by(controlplane: ControlPlane, caller: Caller, request: Request) -> tuple[str, str]:
    """The names of the FlowSchema and of the level that handled a request, whatever its answer is."""
    headers = caller.ask(request).headers

    def name(kind: str, uid: str) -> str:
        named = f'jsonpath={{.items[?(@.metadata.uid=="{uid}")].metadata.name}}'
        return controlplane.kubectl("get", kind, "-o", named).stdout

    return name("flowschemas", headers[SCHEMA]), name("prioritylevelconfigurations", headers[LEVEL])
