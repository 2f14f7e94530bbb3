"""Whether the Lease of the node is free for an agent of this host, or an agent of this host holds it."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from controller.api.json_mapping import Json, as_time
from controller.kube import paths
from controller.kube.checks.probe import Probe
from controller.kube.lease_fields import lease_fields
from controller.runtime.checks import Finding, missing, not_visible, ok


@dataclass(frozen=True, slots=True)
class Claimant:
    """The agent of this host, as its Lease would show it."""

    identity: str | None
    """The holderIdentity of the agent; None: not known, as outside of its Pod."""
    lock: str
    """The boot of this host and the name of its host lock, as an agent writes them into its Lease; empty: none."""
    lock_held: bool
    """Whether a process holds this lock."""


def check_lease(probe: Probe, namespace: str, node_name: str, claimant: Claimant) -> Finding:
    """Check the Lease of this node. Raises Transient."""
    answer = probe.get(f"{paths.leases(namespace)}/{quote(node_name)}")
    name = f"{namespace}/{node_name}"
    if answer.status == 404:
        return ok(f"{name} does not exist yet; the agent creates it")
    if not answer.granted:
        return not_visible(answer.message)
    renewed = as_time(lease_fields(answer.body).renewed)
    # The holder's clock is compared with that of the API server, because nobody can wait here for a renewal.
    now = datetime.now(UTC).timestamp() - (answer.clock_ahead_s or 0.0)
    age_s = now - renewed.timestamp() if renewed else None
    return judge(answer.body, name, claimant, age_s, enrolled=probe.host_token is not None)


def judge(lease: Json, name: str, claimant: Claimant, age_s: float | None, *, enrolled: bool = False) -> Finding:
    """Return the finding for a Lease that was renewed `age_s` seconds ago (None: never). Pure.

    `enrolled`: whether this is a host that is not a node, so that its agent runs in no Pod.
    """
    fields = lease_fields(lease)
    holder, duration_s = fields.holder, fields.duration_s or 0
    if not holder:
        return ok(f"{name} is free")
    is_of_host = bool(claimant.lock) and fields.lock == claimant.lock
    is_ours = is_of_host or holder == claimant.identity
    age = "never renewed" if age_s is None else f"renewed {max(age_s, 0):.0f} s ago"
    if age_s is not None and age_s < duration_s:
        if is_ours:
            return ok(f"{name} is held by this node's agent ({holder}), {age}")
        return missing(
            f"{name} is held by another agent ({holder}), {age}", _end_other(name, holder, enrolled=enrolled)
        )
    if is_ours and claimant.lock_held:
        return missing(
            f"{name} is held by this node's agent ({holder}), but {age}: it does not work",
            f"{_log(name, enrolled=enrolled)}  # the log says why",
        )
    if is_of_host:
        return ok(f"{name} was left by a former agent of this host ({holder}), {age}; the next agent takes it at once")
    return ok(f"{name} was left by {holder}, {age}; an agent takes it once it has seen no renewal for {duration_s} s")


def _end_other(name: str, holder: str, *, enrolled: bool) -> str:
    """Return the command that finds or ends the agent that holds the Lease."""
    if enrolled:
        node = name.partition("/")[2]
        other = f"on the other machine with a kubeconfig of {node}; then enroll that machine under its own name"
        return f"systemctl stop virtsync-agent  # {other}"
    found = "{range .items[?(@.metadata.uid==" + json.dumps(holder) + ")]}{.metadata.namespace}/{.metadata.name}{end}"
    show = f"kubectl get pods -A -o jsonpath={shlex.quote(found)}"
    return f"{show}  # end that agent, or give one of the two its own --node-name"


def _log(name: str, *, enrolled: bool) -> str:
    """Return the command that shows the log of this node's agent. `kubectl logs` itself cannot select by node."""
    if enrolled:
        return "journalctl --unit virtsync-agent --lines 100"
    namespace, _, node = name.partition("/")
    selected = f"-l app.kubernetes.io/component=agent --field-selector spec.nodeName={shlex.quote(node)}"
    return f"kubectl -n {namespace} logs --tail 100 $(kubectl -n {namespace} get pods -o name {selected})"
