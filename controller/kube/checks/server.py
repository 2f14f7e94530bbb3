"""Checks what an agent needs from the API server. They only read, or POST SelfSubject reviews, which store nothing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from controller.api.clock import api_time
from controller.api.hypervisor import HypervisorStatus
from controller.api.hypervisor_codec import parse_hypervisor
from controller.api.json_mapping import as_text
from controller.api.names import HYPERVISOR_KIND, HYPERVISOR_PLURAL, KIND, PLURAL
from controller.api.virtualmachine import Status
from controller.kube import paths
from controller.kube.checks.access import INSTALL, User, check_right, check_token, grant, whoami
from controller.kube.checks.lease import Claimant, check_lease
from controller.kube.checks.probe import Probe
from controller.kube.checks.rights import CLUSTER_RIGHTS, LEASE_RIGHTS, Right
from controller.kube.checks.schema import check_type
from controller.kube.client import load
from controller.runtime.checks import Check, Finding, missing, not_visible, ok
from controller.runtime.errors import Rejected

OLDEST_MINOR = 32
"""Since Kubernetes 1.32 the token of a Pod names its node, and an agent can watch only the objects of its node."""
CLOCK_LIMIT_S = 10.0
"""How far the clock of a host may be from that of the API server.

Times in a status and in a Lease are from the host's clock, and `restartRequestTime` is compared with it: a restart that
a user requests for now is late by the difference. 10 s is as long as virtsync waits anyway before it corrects a power
state (`--settle-power`). It is far more than hosts with NTP have, and than the error of this measurement: at most 0.5 s
plus half the time of the request.
"""
SET_CLOCK = "timedatectl set-ntp true  # on the host"
OLDER_AGENTS = "versions without the Hypervisor ignore the maintenance, so end it before you go back to one of them"
SERVER, HYPERVISORS = "API server", f"type {HYPERVISOR_PLURAL}"


@dataclass(frozen=True, slots=True)
class _Reached:
    """What `check_server` has found."""

    probe: Probe
    clock_ahead_s: float | None
    user: User | None


class ApiServer:
    """The API server of one agent, as the checks see it."""

    def __init__(self, kubeconfig: Path | None, node_name: str) -> None:
        self._kubeconfig, self._node_name = kubeconfig, node_name
        self._kubectl = f"kubectl --kubeconfig={shlex.quote(str(kubeconfig))}" if kubeconfig else "kubectl"
        self._reached: _Reached | None = None
        """Set before the other checks run, because they need `check_server`."""

    def checks(self, lease_namespace: str | None, claimant: Callable[[], Claimant]) -> list[Check]:
        """Return the checks for an agent with this namespace of its Lease (None: it keeps none)."""
        node = self._node_name
        examine = f"{self._kubectl} get --raw /version  # must answer on this machine"

        def check(name: str, run: Callable[[_Reached], Finding], needs: str = SERVER) -> Check:
            return Check(name, lambda: run(self._found), examine, needs)

        def rights(right: Right, namespace: str | None) -> Check:
            return check(f"rights: {right.resource}", lambda api: check_right(api.probe, api.user, right, namespace))

        found = [
            Check(SERVER, self.check_server, examine),
            check("clock", lambda api: check_clock(api.clock_ahead_s)),
            check(f"type {PLURAL}", lambda api: check_type(api.probe, PLURAL, KIND, Status)),
            check(HYPERVISORS, lambda api: check_type(api.probe, HYPERVISOR_PLURAL, HYPERVISOR_KIND, HypervisorStatus)),
            check("node of the token", lambda api: check_token(api.probe, api.user, node)),
            *(rights(right, None) for right in CLUSTER_RIGHTS),
        ]
        if lease_namespace:
            found += (rights(right, lease_namespace) for right in LEASE_RIGHTS)
            found += [check("Lease", lambda api: check_lease(api.probe, lease_namespace, node, claimant()))]
        found += [check("Hypervisor", lambda api: check_hypervisor(api.probe, api.user, node), HYPERVISORS)]
        return found

    def check_server(self) -> Finding:
        """Check that the API server answers this user, and that its version is supported.

        Raises Transient.
        """
        try:
            probe = Probe(load(self._kubeconfig, program="virtsync-check").credentials)
        except Rejected as error:
            return missing(
                str(error),
                "kubectl config view --minify --flatten >FILE"
                f" && virtsync check --node-name {self._node_name} --kubeconfig FILE",
            )
        answer = probe.get("/version")
        if answer.status == 401 and (token := probe.host_token):
            return missing(
                f"{probe.server} does not accept the token of {token.host} (401): the host was revoked, or the token"
                f" has expired ({api_time(token.lifetime.expires)})",
                f"virtsync enroll {shlex.quote(token.host)} --namespace {shlex.quote(token.namespace)}"
                f" --server {shlex.quote(probe.server)}  # then copy the kubeconfig to this host",
            )
        if answer.status == 401:
            return missing(
                f"{probe.server} does not accept the credentials (401)", f"{self._kubectl} auth whoami  # must answer"
            )
        version, minor = as_text(answer.body.get("gitVersion")), as_text(answer.body.get("minor"))
        found = re.match(r"[0-9]+", minor or "")
        if not version or not found:
            return missing(
                f"{probe.server} answered {answer.status}, and no version of Kubernetes", f"{self._kubectl} version"
            )
        if int(found[0]) < OLDEST_MINOR:
            upgrade = "kubeadm upgrade plan  # or as your distribution does it"
            return missing(f"Kubernetes {version}: virtsync needs 1.{OLDEST_MINOR} or newer", upgrade)
        user = whoami(probe)
        self._reached = _Reached(probe, answer.clock_ahead_s, user)
        return ok(f"Kubernetes {version} at {probe.server}{f', as {user.name}' if user else ''}")

    @property
    def _found(self) -> _Reached:
        assert self._reached  # noqa: S101 - each other check needs `check_server`
        return self._reached


def check_clock(ahead_s: float | None) -> Finding:
    """Check this host's clock, which is this many seconds ahead of that of the API server (None: not known). Pure."""
    if ahead_s is None:
        return not_visible("the API server, or a proxy before it, sends no date")
    about = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the API server"
    if abs(ahead_s) > CLOCK_LIMIT_S:
        return missing(f"{about}, more than {CLOCK_LIMIT_S:g} s", SET_CLOCK)
    return ok(about if abs(ahead_s) >= 1 else "as that of the API server, to 1 s")


def check_hypervisor(probe: Probe, user: User | None, node_name: str) -> Finding:
    """Check that the Hypervisor of this node can be read, and say whether maintenance is declared. Raises Transient.

    If it does not exist, nothing is missing, because the agent creates it.
    """
    answer = probe.get(paths.hypervisor(node_name))
    if answer.status == 404:
        return ok(f"{node_name} does not exist yet; the agent creates it")
    if not answer.granted:
        return missing(answer.message, grant(user, None))
    hypervisor = parse_hypervisor(answer.body)
    if hypervisor.misunderstood:
        return missing(
            f"this version does not understand its {hypervisor.misunderstood}", f"{INSTALL}  # of the newer version"
        )
    if maintenance := hypervisor.maintenance:
        declared = f"{maintenance.mode} ({maintenance.reason})"
        return ok(f"{node_name}; in maintenance, so no VM is started: {declared}; {OLDER_AGENTS}")
    return ok(f"{node_name}; no maintenance is declared")
