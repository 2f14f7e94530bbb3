"""API Priority and Fairness, on a real API server: which of its levels handle the requests of virtsync."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from http import HTTPStatus

import pytest

from lab.controlplane import ControlPlane
from lab.world import until
from tests.deploy.callers import AGENTS, Caller, Request, pod_token, token

LEASES = Request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{AGENTS}/leases/node-a")
PROBE = Request("GET", "/version")
"""An agent sends it after an outage until the API server answers, and then renews its Lease."""
LIST = Request("GET", "/apis/virtsync.dev/v1alpha1/virtualmachines?timeout=1s")
REST = {
    "a list of VMs": LIST,
    "a Hypervisor": Request("GET", "/apis/virtsync.dev/v1alpha1/hypervisors/node-a"),
    "the status of a VM": Request("PATCH", "/apis/virtsync.dev/v1alpha1/namespaces/default/virtualmachines/x/status"),
    "an Event": Request("POST", "/apis/events.k8s.io/v1/namespaces/default/events"),
    "the list of APIs": Request("GET", "/apis"),
}
SCHEMA, LEVEL = "X-Kubernetes-PF-FlowSchema-UID", "X-Kubernetes-PF-PriorityLevel-UID"


HOST = "virtsync-agent.kvm-7"
LEVEL_OF = {"virtsync-agent": "virtsync", HOST: "virtsync", "virtsync-manager": "virtsync-manager"}
"""The FlowSchema of an account has the name of its level."""


@pytest.fixture(scope="module")
def callers(installed: ControlPlane) -> Iterator[dict[str, Caller]]:
    """An agent and a manager, when the API server applies the new FlowSchemas."""
    with ExitStack() as stack:
        installed.kubectl("create", "serviceaccount", HOST, f"--namespace={AGENTS}")
        entered = {
            account: stack.enter_context(closing(Caller(installed, _token(installed, account)))) for account in LEVEL_OF
        }
        for account, caller in entered.items():
            _wait_for(installed, caller, LEASES, ("virtsync-leases", "virtsync-leases"))
            _wait_for(installed, caller, LIST, (LEVEL_OF[account], LEVEL_OF[account]))
        yield entered


@pytest.mark.parametrize("account", LEVEL_OF)
@pytest.mark.parametrize("request_", [LEASES, PROBE], ids=["a Lease", "the probe after an outage"])
def test_leases_and_the_probe_before_them_have_a_level_of_their_own(
    installed: ControlPlane, callers: dict[str, Caller], account: str, request_: Request
) -> None:
    assert _handled_by(installed, callers[account], request_) == ("virtsync-leases", "virtsync-leases")


@pytest.mark.parametrize("request_", REST.values(), ids=REST)
@pytest.mark.parametrize("account", LEVEL_OF)
def test_all_other_requests_of_agents_and_managers_have_a_level_each(
    installed: ControlPlane, callers: dict[str, Caller], account: str, request_: Request
) -> None:
    assert _handled_by(installed, callers[account], request_) == (LEVEL_OF[account], LEVEL_OF[account])


@pytest.fixture
def no_seat_for_agents(installed: ControlPlane, callers: dict[str, Caller]) -> Iterator[None]:
    """The API server serves no request of agents, as if others of their level took all its seats."""

    def set_limits(limits: str) -> None:
        installed.kubectl(
            "patch", "prioritylevelconfiguration", "virtsync", "--type=merge", f'-p={{"spec":{{"limited":{limits}}}}}'
        )

    shares = installed.kubectl(
        "get", "prioritylevelconfiguration", "virtsync", "-o=jsonpath={.spec.limited.nominalConcurrencyShares}"
    ).stdout
    set_limits('{"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0}')
    try:
        until(lambda: not callers["virtsync-agent"].ask(LIST).granted, "agents still have seats")
        yield
    finally:
        set_limits(f'{{"nominalConcurrencyShares": {shares}, "borrowingLimitPercent": null}}')
    until(lambda: callers["virtsync-agent"].ask(LIST).granted, "agents have no seats again")


@pytest.mark.usefixtures("no_seat_for_agents")
def test_a_manager_and_all_leases_are_served_while_agents_wait(callers: dict[str, Caller]) -> None:
    """A manager that waits behind its agents marks a dead node late."""
    agent, manager = callers["virtsync-agent"], callers["virtsync-manager"]
    assert agent.ask(LIST).code == HTTPStatus.TOO_MANY_REQUESTS
    assert manager.ask(LIST).code == HTTPStatus.OK
    assert manager.ask(LEASES).code == agent.ask(LEASES).code == HTTPStatus.NOT_FOUND


def test_requests_of_others_have_neither(installed: ControlPlane) -> None:
    installed.kubectl("create", "serviceaccount", "other", "--namespace=default")
    with closing(Caller(installed, token(installed, "default", "other"))) as other:
        assert _handled_by(installed, other, LEASES) == ("service-accounts", "workload-low")
        assert _handled_by(installed, other, LIST) == ("service-accounts", "workload-low")


def test_the_levels_have_the_seats_that_the_docs_name(installed: ControlPlane) -> None:
    """docs/scale.md calculates with them. The upper limit, 600 and their own, lets them borrow all that others lend."""
    assert _seats(installed, "virtsync") == {"nominal": 43, "lower": 21, "upper": 643}
    for level in ("virtsync-leases", "virtsync-manager"):
        assert _seats(installed, level) == {"nominal": 22, "lower": 11, "upper": 622}


def _token(controlplane: ControlPlane, account: str) -> str:
    """A token as an account has it: an enrolled host runs in no Pod."""
    if account == HOST:
        return token(controlplane, AGENTS, account)
    return pod_token(controlplane, AGENTS, account, "node-a")


def _seats(controlplane: ControlPlane, level: str) -> dict[str, int]:
    """The limits of a priority level, when the API server knows it."""
    prefix, suffix = "apiserver_flowcontrol_", f'_limit_seats{{priority_level="{level}"}}'
    kinds = ("nominal", "lower", "upper")

    def read() -> dict[str, int]:
        lines = controlplane.kubectl("get", "--raw", "/metrics").stdout.splitlines()
        found = (line.rpartition(" ") for line in lines)
        return {
            key.removeprefix(prefix).removesuffix(suffix): int(value) for key, _, value in found if key.endswith(suffix)
        }

    until(lambda: set(kinds) <= set(read()), "the API server does not know the level")
    return {kind: read()[kind] for kind in kinds}


def _wait_for(controlplane: ControlPlane, caller: Caller, request: Request, names: tuple[str, str]) -> None:
    until(lambda: _handled_by(controlplane, caller, request) == names, f"requests are not handled by {names}")


def _handled_by(controlplane: ControlPlane, caller: Caller, request: Request) -> tuple[str, str]:
    """The names of the FlowSchema and of the level that handled a request, whatever its answer is."""
    headers = caller.ask(request).headers

    def name(kind: str, uid: str) -> str:
        named = f'jsonpath={{.items[?(@.metadata.uid=="{uid}")].metadata.name}}'
        return controlplane.kubectl("get", kind, "-o", named).stdout

    return name("flowschemas", headers[SCHEMA]), name("prioritylevelconfigurations", headers[LEVEL])
