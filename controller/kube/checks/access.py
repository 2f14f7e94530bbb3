"""Who this process is for the API server, whether its token is of this node, and whether it has an agent's rights."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from controller.api.clock import api_time
from controller.api.json_mapping import Json, as_map, as_text
from controller.api.names import AGENT, GROUP, HYPERVISOR_PLURAL, PLURAL
from controller.kube.checks.probe import Probe
from controller.kube.checks.rights import REPORT, Right
from controller.kube.hosts.token import host_of
from controller.runtime.checks import Finding, missing, not_visible, ok
from controller.runtime.errors import Transient

NODE_NAME = "authentication.kubernetes.io/node-name"
"""What the API server reads from the token of a Pod: the name of the Pod's node."""
SERVICE_ACCOUNT = "system:serviceaccount:"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
INSTALL = "kubectl apply -f deploy/install.yaml"


@dataclass(frozen=True, slots=True)
class User:
    """The user that this process is for the API server."""

    name: str
    node: str
    """The node that its token names, or the host whose ServiceAccount it is; empty: neither."""
    host_namespace: str = ""
    """The namespace of the ServiceAccount of an enrolled host; empty: this user is no enrolled host."""

    @property
    def flag(self) -> str:
        """The flag by which `kubectl create clusterrolebinding` names this user."""
        if self.name.startswith(SERVICE_ACCOUNT):
            return f"--serviceaccount={shlex.quote(self.name.removeprefix(SERVICE_ACCOUNT))}"
        return f"--user={shlex.quote(self.name)}"


def whoami(probe: Probe) -> User | None:
    """Return who this process is; None if the API server does not say so. Raises Transient."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = probe.review("/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
    user = as_map(as_map(answer.body.get("status")).get("userInfo"))
    name, nodes = as_text(user.get("username")), as_map(user.get("extra")).get(NODE_NAME) or ()
    if not answer.granted or not name:
        return None
    namespace, host = host_of(name)
    return User(name, host or next(iter(nodes), ""), namespace)


def grant(user: User | None, namespace: str | None) -> str:
    """Return the command that gives the user an agent's rights in this namespace, or (None) in all."""
    if user is None or user.name.endswith(f":{AGENT}"):
        return INSTALL
    if user.host_namespace:
        return f"virtsync enroll {shlex.quote(user.node)} --namespace {shlex.quote(user.host_namespace)}"
    if namespace:
        return f"kubectl create rolebinding {AGENT}-user --namespace={namespace} --role={AGENT} {user.flag}"
    return f"kubectl create clusterrolebinding {AGENT}-user --clusterrole={AGENT} {user.flag}"


def check_token(probe: Probe, user: User | None, node_name: str) -> Finding:
    """Check that the policies of virtsync let this user report for this node. Raises Transient."""
    if user is None:
        return not_visible("the API server does not tell who this user is")
    bound = f"{'enrolled as' if user.host_namespace else 'bound to'} {user.node}"
    if user.node == node_name:
        token = probe.host_token
        until = f", until {api_time(token.lifetime.expires)}" if token else ""
        if user.host_namespace and _denied(probe, _renewal(user), user.host_namespace):
            return missing(f"{user.name}, {bound}{until}, must not renew this token", grant(user, None))
        return ok(f"{user.name}, {bound}{until}")
    reviewed = [Right(GROUP, plural, (REPORT,)) for plural in (PLURAL, HYPERVISOR_PLURAL)]
    if not any(_denied(probe, right, None) for right in reviewed):
        return ok(f"{user.name} may report for every node (verb {REPORT})")
    if user.node:
        return missing(
            f"{user.name} is {bound}, and --node-name is {node_name}",
            f"virtsync check --node-name {shlex.quote(user.node)}  # and the same option for the agent",
        )
    resources = ",".join(f"{plural}.{GROUP}" for plural in (PLURAL, HYPERVISOR_PLURAL))
    role = f"{AGENT}-{REPORT}"
    return missing(
        f"the token of {user.name} names no node, so the policies refuse its reports: use the token of a Pod, or enroll"
        f" the host (virtsync enroll {node_name})",
        f"kubectl create clusterrole {role} --verb={REPORT} --resource={resources}"
        f" && kubectl create clusterrolebinding {role}-{node_name} --clusterrole={role} {user.flag}",
    )


def _renewal(user: User) -> Right:
    """Return the right of an enrolled host to renew its token."""
    return Right("", "serviceaccounts/token", ("create",), user.name.rpartition(":")[2])


def check_right(probe: Probe, user: User | None, right: Right, namespace: str | None) -> Finding:
    """Check that this user has a right, in this namespace, or (None) in all. Raises Transient."""
    where = f" in {namespace}" if namespace else ""
    if denied := _denied(probe, right, namespace):
        return missing(f"not allowed{where}: {', '.join(denied)}", grant(user, namespace))
    return ok(f"{', '.join(right.verbs)}{where}")


def _denied(probe: Probe, right: Right, namespace: str | None) -> list[str]:
    """Return the verbs that are not allowed. Raises Transient."""
    return [verb for verb in right.verbs if not _allowed(probe, right, verb, namespace)]


def _allowed(probe: Probe, right: Right, verb: str, namespace: str | None) -> bool:
    resource, _, subresource = right.resource.partition("/")
    wanted: Json = {"group": right.group, "resource": resource, "subresource": subresource, "verb": verb}
    if namespace:
        wanted["namespace"] = namespace
    if right.name:
        wanted["name"] = right.name
    review: Json = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": wanted},
    }
    answer = probe.review(REVIEWS, review)
    if not answer.granted:
        raise Transient(answer.message)
    return bool(as_map(answer.body.get("status")).get("allowed"))
