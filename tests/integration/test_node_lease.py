"""What the keeper of a node's Lease asks of a real API server, and what it makes of the answers."""

import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from controller.kube import client
from controller.kube.client import Api
from controller.kube.lease import KeptLease
from controller.kube.lease_fields import LOCK
from controller.runtime.errors import Transient
from lab.controlplane import ControlPlane
from lab.world import Json

DURATION_S = 40
OURS, THEIRS = "boot-1 00:19:5", "boot-2 00:19:5"


class Clock:
    """Stands still unless told to go on."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


class Slow(Api):
    """Each answer takes so long on the clock; some are lost on their way."""

    def __init__(self, clock: Clock, api: Api) -> None:
        super().__init__(api.credentials)
        self._clock = clock
        self.takes_s = 0.0
        self.loses: set[str] = set()
        self.before: dict[str, Callable[[], object]] = {}
        """What happens before the next request with this method goes out."""
        self.after: dict[str, Callable[[], object]] = {}
        """What happens while the answer to the next request with this method is on its way."""
        self.asked: list[str] = []

    def request(self, method: str, path: str, body: Json | None = None, **how: Any) -> Json:
        self.asked.append(method)
        if happens := self.before.pop(method, None):
            happens()
        self._clock.at_s += self.takes_s
        answer = super().request(method, path, body, **how)
        if happens := self.after.pop(method, None):
            happens()
        if method in self.loses:
            raise Transient("the answer is lost")
        return answer


class Node:
    """A node of its own in a namespace of its own, and the agents that would look after it."""

    def __init__(self, controlplane: ControlPlane, name: str) -> None:
        self.controlplane, self.name = controlplane, name
        controlplane.kubectl("create", "namespace", name)
        self.clock = Clock()
        self.api = Slow(self.clock, client.load(controlplane.kubeconfig))
        self.must_not_claim = ""

    def agent(self, identity: str, lock: str = OURS, namespace: str = "") -> KeptLease:
        return KeptLease(
            self.api,
            namespace=namespace or self.name,
            name="node-a",
            component="agent",
            identity=identity,
            duration_s=DURATION_S,
            proof=lambda: lock,
            must_not_claim=lambda: self.must_not_claim,
            clock=self.clock,
        )

    def lease(self) -> Json:
        return self.api.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{self.name}/leases/node-a")

    def holder(self) -> str:
        return str(self.lease()["spec"]["holderIdentity"])

    def kubectl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.controlplane.kubectl(f"--namespace={self.name}", *words)

    def pass_s(self, seconds: float) -> None:
        self.clock.at_s += seconds


@pytest.fixture
def node(controlplane: ControlPlane, request: pytest.FixtureRequest) -> Node:
    return Node(controlplane, re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))[:60].strip("-"))


def keeps(lease: KeptLease) -> bool:
    """Do what is due now, and whether it is held then."""
    assert lease.keep() > 0
    assert lease.held is not bool(lease.blocked)
    return lease.held


def test_one_that_is_lost_is_asked_for_ever_more_rarely_while_nobody_answers(node: Node) -> None:
    """All agents of a cluster lose theirs together."""
    mine = node.agent("pod-1")
    assert keeps(mine)
    node.api.loses = {"PUT", "GET"}
    held_s = [mine.keep() for _ in range(3)]
    assert max(held_s) <= 2.0, "while it is held there is no time to lose"
    node.pass_s(60)
    waits_s = [mine.keep() for _ in range(10)]
    assert max(waits_s) <= DURATION_S / 4
    assert min(waits_s[-3:]) >= 0.7 * DURATION_S / 4
    node.api.loses = set()
    assert keeps(mine)
    node.api.loses = {"PUT", "GET"}
    assert mine.keep() <= 2.0


def test_a_renewal_that_is_answered_after_the_release_does_not_hold_it(node: Node) -> None:
    mine = node.agent("pod-1")
    assert keeps(mine)
    node.api.after["PUT"] = mine.release
    mine.keep()
    assert not mine.held
    assert node.holder() == ""


def test_it_is_renewed_with_one_request_and_acted_upon_for_less_than_it_grants(node: Node) -> None:
    mine = node.agent("pod-1")
    assert "it has not tried to acquire it yet" in mine.blocked
    assert keeps(mine)
    node.pass_s(34.9)
    assert mine.held
    node.api.asked.clear()
    assert keeps(mine)
    assert node.api.asked == ["PUT"]
    node.pass_s(34.9)
    assert mine.held
    node.pass_s(0.2)
    assert mine.blocked == f"This agent does not hold Lease {node.name}/node-a: it was not renewed in time."


def test_the_time_counts_from_the_question_not_from_the_answer(node: Node) -> None:
    mine = node.agent("pod-1")
    assert keeps(mine)
    node.api.takes_s = 9
    assert keeps(mine)
    node.pass_s(25.9)
    assert mine.held
    node.pass_s(0.2)
    assert not mine.held


def test_one_that_expires_before_the_answer_to_its_renewal_is_held_anew(node: Node) -> None:
    mine = node.agent("pod-1")
    assert keeps(mine)
    node.api.takes_s = 9
    node.pass_s(20)
    assert keeps(mine)
    assert mine.gains == 1
    node.pass_s(20)
    assert keeps(mine)
    assert mine.gains == 2


def test_a_renewal_whose_answer_is_lost_counts_for_nothing_until_another_is_answered(node: Node) -> None:
    mine = node.agent("pod-1")
    assert keeps(mine)
    node.pass_s(20)
    node.api.loses = {"PUT"}
    renewed = node.lease()["spec"]["renewTime"]
    mine.keep()
    assert node.lease()["spec"]["renewTime"] > renewed, "it has come through"
    node.pass_s(15.1)
    assert not mine.held
    node.api.loses = set()
    assert keeps(mine)
    assert node.lease()["spec"]["leaseTransitions"] == 0


def test_of_two_that_see_it_free_one_gets_it(node: Node) -> None:
    before, mine, other = node.agent("pod-0"), node.agent("pod-1"), node.agent("pod-2", THEIRS)
    assert keeps(before)
    before.release()
    node.api.before["PUT"] = lambda: keeps(other)
    assert not keeps(mine)
    assert "pod-2 holds it" in mine.blocked
    assert node.holder() == "pod-2"


def test_of_two_that_see_none_one_creates_it(node: Node) -> None:
    mine, other = node.agent("pod-1"), node.agent("pod-2", THEIRS)
    node.api.before["POST"] = lambda: keeps(other)
    assert not keeps(mine)
    assert node.holder() == "pod-2"


def test_who_renews_late_is_not_overwritten_by_who_has_just_given_up_waiting(node: Node) -> None:
    mine, other = node.agent("pod-1"), node.agent("pod-2", THEIRS)
    assert keeps(other)
    assert not keeps(mine)
    node.pass_s(DURATION_S)
    node.api.before["PUT"] = lambda: keeps(other)
    assert not keeps(mine)
    node.pass_s(DURATION_S - 0.1)
    assert not keeps(mine), "the time begins anew"
    node.pass_s(0.2)
    assert keeps(mine)
    taken = node.lease()["spec"]
    assert taken["leaseTransitions"] == 1
    assert keeps(mine)
    renewed = node.lease()["spec"]
    assert renewed == taken | {"renewTime": renewed["renewTime"]}
    assert not keeps(other), "who finds it taken says so at once"


def test_what_others_write_beside_it_is_kept_and_is_no_sign_of_life(node: Node) -> None:
    mine, other = node.agent("pod-1"), node.agent("pod-2", THEIRS)
    assert keeps(other)
    assert not keeps(mine)
    node.kubectl("label", "lease", "node-a", "who=somebody")
    node.pass_s(DURATION_S)
    assert keeps(mine)
    labels = node.lease()["metadata"]["labels"]
    assert (labels["who"], labels["app.kubernetes.io/component"]) == ("somebody", "agent")
    node.kubectl("annotate", "lease", "node-a", "why=because")
    assert keeps(mine), "its next version is read"
    assert node.lease()["metadata"]["annotations"] == {"why": "because", LOCK: f"pod-1 {OURS}"}


def test_the_lock_of_a_holder_is_proof_and_that_of_one_before_is_not(node: Node) -> None:
    mine, successor = node.agent("pod-1"), node.agent("pod-2")
    assert keeps(mine)
    assert keeps(successor), "who has the lock that mine had then"
    # Somebody takes it by hand, and leaves the annotation as it is.
    node.kubectl("patch", "lease", "node-a", "--type=merge", "-p", '{"spec": {"holderIdentity": "somebody"}}')
    assert not keeps(successor)
    assert "somebody holds it" in successor.blocked


@pytest.mark.parametrize("gone", ["lease", "never there"])
def test_it_is_made_anew_where_it_is_gone(node: Node, gone: str) -> None:
    mine = node.agent("pod-1")
    if gone == "lease":
        assert keeps(mine)
        node.kubectl("delete", "lease", "node-a")
    assert keeps(mine)
    assert node.holder() == "pod-1"


def test_a_namespace_that_is_not_there_is_told(node: Node) -> None:
    mine = node.agent("pod-1", namespace="nowhere")
    assert not keeps(mine)
    assert 'namespaces "nowhere" not found' in mine.blocked


def test_a_right_that_is_lacking_is_told(node: Node) -> None:
    kubeconfig = node.controlplane.service_account(node.name, "nobody")
    node.api = Slow(node.clock, client.load(kubeconfig))
    mine = node.agent("pod-1")
    assert not keeps(mine)
    assert "virtsync-agent lacks a permission" in mine.blocked
    assert "cannot get resource" in mine.blocked


def test_who_must_not_claim_it_does_not_ask_for_it(node: Node) -> None:
    node.must_not_claim = "it does not hold the host lock"
    mine = node.agent("pod-1")
    assert not keeps(mine)
    assert mine.blocked.endswith("it does not hold the host lock.")
    assert node.api.asked == []


def test_who_must_not_claim_it_does_not_renew_it_and_who_may_again_does(node: Node) -> None:
    mine = node.agent("pod-1")
    assert keeps(mine)
    node.must_not_claim = "parts no longer work: workers, watch"
    node.api.asked.clear()
    assert keeps(mine), "it still has time"
    node.pass_s(DURATION_S)
    assert not keeps(mine)
    assert "no longer work: workers, watch" in mine.blocked
    assert node.api.asked == []
    node.must_not_claim = ""
    assert keeps(mine)


def test_it_is_released_also_when_somebody_has_written_to_it_meanwhile(node: Node) -> None:
    mine = node.agent("pod-1")
    assert keeps(mine)
    node.kubectl("label", "lease", "node-a", "who=somebody")
    mine.release()
    assert not mine.held
    spec = node.lease()["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("", 1, 0)
    assert not keeps(mine), "it does not come back"
    assert keeps(node.agent("pod-2", THEIRS))


@pytest.mark.parametrize("since", ["never held", "taken", "deleted"])
def test_what_is_not_ours_is_not_released(node: Node, since: str) -> None:
    mine, other = node.agent("pod-1"), node.agent("pod-2", THEIRS)
    if since == "never held":
        assert keeps(other)
        assert not keeps(mine)
    else:
        assert keeps(mine)
        node.kubectl("delete", "lease", "node-a")
        if since == "taken":
            assert keeps(other)
    mine.release()
    if since == "deleted":
        assert node.kubectl("get", "leases", "-o", "name").stdout == ""
    else:
        assert node.holder() == "pod-2"


def test_a_number_of_holders_that_is_as_great_as_can_be_does_not_keep_the_next_one_out(node: Node) -> None:
    assert keeps(node.agent("pod-1"))
    node.kubectl("patch", "lease", "node-a", "--type=merge", "-p", '{"spec": {"leaseTransitions": 2147483647}}')
    assert keeps(node.agent("pod-2"))
