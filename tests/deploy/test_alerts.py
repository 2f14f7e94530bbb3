"""Alerts, asked of what agent and manager serve: only comparisons with a number; test_rules.py has the rest."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from controller.agent.metrics import Metrics
from controller.api.conditions import READINESS, Readiness
from controller.api.virtualmachine import (
    Condition,
    DesiredPowerState,
    PowerState,
    Reason,
    Status,
    VirtualMachine,
    VmKey,
)
from controller.manager.metrics import FINDINGS
from controller.manager.metrics import Metrics as ManagerMetrics
from controller.policy.view import Action
from manifests import rules

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
VM = VirtualMachine(VmKey("default", "web"), "uid", 1, "1", CREATED, "node-a", desired=DesiredPowerState.RUNNING)


def fires(alert: str, registry: CollectorRegistry) -> bool:
    """Whether the comparison that is the alert's expression holds for any series."""
    (rule,) = (rule for rule in rules.alerts() if rule["alert"] == alert)
    compared = re.fullmatch(r'(?:max(?: by \(\w+\) )?\()?(\w+)(?:{(\w+)="(\w*)"})?\)? > (\d+)', rule["expr"])
    assert compared, rule["expr"]
    name, label, value, limit = compared.groups()
    return any(
        sample.value > float(limit)
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name and (not label or sample.labels[label] == value)
    )


def told(reason: Reason, since: datetime) -> Status:
    ready, _ = READINESS[reason].value
    condition = Condition("Ready", ready, reason, "", since, 1)
    return Status(power_state=PowerState.PAUSED, conditions=(condition,))


@pytest.mark.parametrize("reason", list(Reason))
def test_the_drift_alert_is_about_what_virtsync_should_mend_and_does_not(reason: Reason) -> None:
    metrics = Metrics()
    metrics.observed(VM, told(reason, datetime.now(UTC) - timedelta(minutes=31)))
    assert fires("VirtsyncVirtualMachineDrift", metrics.registry) is (
        READINESS[reason] in {Readiness.RECONCILING, Readiness.STALLED}
    )


def test_the_drift_alert_comes_half_an_hour_after_a_hold_is_released_and_not_at_once() -> None:
    metrics, held_since = Metrics(), datetime.now(UTC) - timedelta(hours=2)
    for reason in (Reason.HELD, Reason.SETTLING):
        metrics.observed(VM, told(reason, held_since))
        assert not fires("VirtsyncVirtualMachineDrift", metrics.registry)


@pytest.mark.parametrize("hanging", [0, 1])
def test_an_alert_is_about_acts_that_hang(hanging: int) -> None:
    metrics = Metrics()
    metrics.watch_actions(lambda verb: hanging if verb is Action.START else 0)
    assert fires("VirtsyncPowerOperationHangs", metrics.registry) is bool(hanging)


@pytest.mark.parametrize(("mode", "nodes", "fired"), [("", 1, True), ("", 0, False), ("Hold", 1, False)])
def test_an_alert_is_about_silent_nodes_that_are_not_in_maintenance(mode: str, nodes: int, *, fired: bool) -> None:
    metrics = ManagerMetrics()
    metrics.silent_nodes.labels(mode).set(nodes)
    assert fires("VirtsyncNodeSilent", metrics.registry) is fired


@pytest.mark.parametrize("kind", FINDINGS)
def test_an_alert_is_about_a_domain_that_has_vms_on_two_nodes(kind: str) -> None:
    metrics = ManagerMetrics()
    metrics.found(**{kind: 1})
    assert fires("VirtsyncDomainConflict", metrics.registry) is (kind == "uuid_on_two_nodes")


@pytest.mark.parametrize(("hours", "fired"), [(23, False), (25, True)])
def test_an_alert_is_about_a_maintenance_of_more_than_a_day(hours: int, *, fired: bool) -> None:
    metrics = ManagerMetrics()
    metrics.maintenances({"node-a": hours * 3600})
    assert fires("VirtsyncMaintenanceForgotten", metrics.registry) is fired
