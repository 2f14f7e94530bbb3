"""Every expression, asked of a real Prometheus that scrapes real agents and a real manager while things go wrong.

An expression can be valid and never return anything, for a metric or a label that nothing serves. So each selector of
each expression must have returned series by the end, and the alerts that can be raised here must have been raised.
"""

import json
import re
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from controller.agent.metrics import CHECKS as AGENT_CHECKS
from controller.api.names import HOST_ACCOUNT_PREFIX
from controller.api.virtualmachine import Reason, VmKey
from controller.kube import client
from controller.kube.hosts.kubeconfig import cluster_of, of_host
from controller.manager.metrics import CHECKS as MANAGER_CHECKS
from lab import LabError
from lab.agent import Agent
from lab.libvirtd import Libvirtd
from lab.manager import Manager
from lab.program import Program
from lab.prometheus import Prometheus, Target
from lab.world import Json, World, runs, until
from manifests import dashboards, rules

LIMIT_S = 120
PERIOD = "1h"
"""Longer than the test: what has been seen at any time counts."""
SELECTOR = re.compile(
    r'"[^"]*"|((?:up\b|virtsync[_:][\w:]+|process_\w+|workqueue_\w+|controller_runtime_\w+)(?:{[^}]*})?)'
)
RAISED = {
    "VirtsyncAgentDown",
    "VirtsyncCrashLoop",
    "VirtsyncHandoverUnconfirmed",
    "VirtsyncLibvirtUnreachable",
    "VirtsyncManagerDown",
    "VirtsyncNoManagerLeads",
    "VirtsyncNodeSilent",
}
"""The alerts for which nobody has to wait longer than for the time after which they fire."""


def selectors(expression: str) -> set[str]:
    return {found for found in SELECTOR.findall(expression) if found}


def in_runbooks() -> list[str]:
    """The expressions that runbooks give, one in each line."""
    pages = (rules.DEPLOY.parent / "docs" / "runbooks").glob("*.md")
    blocks = [block for page in pages for block in re.findall(r"```promql\n(.*?)```", page.read_text(), re.DOTALL)]
    assert blocks
    return [line for block in blocks for line in block.splitlines()]


def of_dashboards(vm: VmKey, node: str) -> set[str]:
    """What the panels of all dashboards ask for if this VM and this node are chosen."""
    values = {"$__rate_interval": "1m", "$namespace": vm.namespace, "$name": vm.name, "$node": node}
    found = {it for shown in dashboards.every().values() for it in dashboards.expressions(shown)}
    assert len(found) > 40
    for name, value in values.items():
        found = {it.replace(name, value) for it in found}
    assert not [it for it in found if "$" in it]
    return found


def port_of(program: Program) -> int:
    return int(next(line["http_port"] for line in program.log_lines() if "http_port" in line))


class Watched:
    """A Prometheus, and what it has seen so far."""

    def __init__(self, prometheus: Prometheus) -> None:
        self.prometheus = prometheus

    def seen(self, selector: str) -> bool:
        return bool(self.prometheus.query(f"last_over_time({selector}[{PERIOD}])"))

    def until(self, selector: str) -> None:
        until(lambda: self.seen(selector), f"Prometheus has not seen {selector}", limit_s=LIMIT_S)

    def until_reason(self, reason: Reason) -> None:
        self.until(f'virtsync_virtualmachines{{reason="{reason}"}}')

    def until_answered(self, expressions: set[str]) -> None:
        """Wait until each expression has returned series at least once, not necessarily all at the same time."""
        unanswered = set(expressions)

        def ask() -> bool:
            unanswered.difference_update([it for it in unanswered if self.prometheus.query(it)])
            return not unanswered

        try:
            until(ask, "no series", limit_s=LIMIT_S)
        except LabError as error:
            error.add_note("\n".join(unanswered))
            raise

    def until_checks(self, matcher: str, checks: Collection[str]) -> None:
        """Wait for the series of the checks of /readyz of a process: these, and no others."""
        selector = f"virtsync_not_ready{{{matcher}}}"
        self.until(selector)
        assert {found["metric"]["check"] for found in self.prometheus.query(selector)} == set(checks)

    def until_raised(self, alert: str) -> None:
        self.until(f'ALERTS{{alertname="{alert}"}}')

    def check_every_expression(self) -> None:
        """Fail if Prometheus rejects a rule or an expression of a runbook, or one of their selectors had no series."""
        expressions = [rule["expr"] for rule in rules.every_rule()] + in_runbooks()
        for expression in expressions:
            self.prometheus.query(expression)
        asked = {found for expression in expressions for found in selectors(expression)}
        assert {found for found in asked if not self.seen(found)} == set()
        assert len(asked) > 30
        evaluated = self.prometheus.rules()
        assert len(evaluated) == len(rules.every_rule())
        assert [(it["name"], it.get("lastError")) for it in evaluated if it["health"] != "ok"] == []


@pytest.fixture
def other_host() -> Iterator[Libvirtd]:
    """A second machine, whose libvirtd may be killed."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder, Libvirtd(Path(folder)) as running:
        yield running


def failed_once(vm: Json) -> bool:
    return bool(vm.get("status", {}).get("backoff", {}).get("failures") == 1)


def host_identity(world: World, host: str) -> Path:
    """The kubeconfig of a host that is not a node, with its token. It has all rights: nothing is installed."""
    account = HOST_ACCOUNT_PREFIX + host
    world.kubectl("create", "serviceaccount", account)
    subject = f"--serviceaccount={world.name}:{account}"
    world.kubectl("create", "clusterrolebinding", account, "--clusterrole=cluster-admin", subject)
    token = world.kubectl("create", "token", account, "--duration=1h").strip()
    file = world.folder / f"{host}.kubeconfig"
    file.write_text(of_host(cluster_of(client.load(world.controlplane.kubeconfig).credentials.current()), host, token))
    return file


def agent_of(world: World, node: str, uri: str, kubeconfig: Path | None = None) -> Agent:
    agent = world.new_agent(
        node=node,
        uri=uri,
        kubeconfig=kubeconfig,
        lease_namespace=world.name,
        identity=node,
        lease_duration="20s",
        backoff_first="20s",
    )
    agent.start()
    return agent


def scraped(folder: Path, agents: list[Agent], manager: Manager) -> Prometheus:
    """The targets have the labels that the PodMonitors give them."""
    targets = [
        Target("virtsync-system/virtsync-agent", port_of(it), {"node": it.node, "pod": f"virtsync-agent-{it.node}"})
        for it in agents
    ]
    targets.append(Target("virtsync-system/virtsync-manager", port_of(manager), {"pod": "virtsync-manager-1"}))
    return Prometheus(folder, targets, rules.RENDERED)


# One run answers both questions, because each takes a dead agent and a silent node.
def test_each_selector_of_each_rule_returns_series_and_alerts_are_raised(
    other_host: Libvirtd, world: World, tmp_path: Path
) -> None:
    here, there = f"{world.name}-here", f"{world.name}-there"
    crashing, moved = world.start("crashing"), world.start("moved", libvirtd=other_host)
    world.define("moved", uuid=moved.uuid)
    held = world.define("held")
    world.apply(held, nodeName=here, powerState="Stopped")
    world.apply(crashing, nodeName=here, powerState="Running")
    world.apply(moved, nodeName=there, powerState="Running")
    identity = host_identity(world, here)
    agents = [agent_of(world, here, world.libvirtd.uri, identity), agent_of(world, there, other_host.uri)]
    manager = world.start_manager()
    try:
        with scraped(tmp_path / "prometheus", agents, manager) as prometheus:
            watched = Watched(prometheus)
            for guest in (crashing, moved):
                world.until(guest, runs, "running")
            watched.until_checks(f'node="{here}"', AGENT_CHECKS)
            watched.until_checks('pod="virtsync-manager-1"', MANAGER_CHECKS)
            crashing.kill()
            world.until(crashing, failed_once, "crashed")
            world.until(crashing, runs, "started again")
            crashing.kill()
            world.until_ready(crashing, "CrashLoopBackOff")
            watched.until_reason(Reason.CRASH_LOOP_BACK_OFF)

            asked_by_panels = of_dashboards(VmKey(world.name, held.name), here)
            in_maintenance = {it for it in asked_by_panels if "_held_" in it or "_maintenance_" in it}
            watched.until_answered(asked_by_panels - in_maintenance)
            maintenance = {"spec": {"maintenance": {"mode": "Hold", "reason": "a test"}}}
            world.controlplane.kubectl("patch", "kvmhost", here, "--type=merge", "-p", json.dumps(maintenance))
            watched.until(f'virtsync_hypervisor_maintenance_seconds{{node="{here}"}}')
            world.patch(held, powerState="Running")
            watched.until_answered(in_maintenance)
            world.controlplane.kubectl("patch", "kvmhost", here, "--type=merge", "-p", '{"spec":{"maintenance":null}}')

            other_host.halt()
            watched.until_raised("VirtsyncLibvirtUnreachable")
            agents[1].kill()
            watched.until_raised("VirtsyncAgentDown")
            watched.until(f'virtsync_monitor_marks_total{{kind="Hypervisor", node="{there}"}}')
            world.patch(moved, nodeName=here)
            watched.until_reason(Reason.HANDOVER_UNCONFIRMED)
            manager.stop()
            for alert in RAISED:
                watched.until_raised(alert)

            watched.check_every_expression()
    finally:
        other_host.start()  # for the removal of its guests
