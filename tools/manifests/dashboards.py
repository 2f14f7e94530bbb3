"""Renders the dashboards of deploy/grafana: `python -m manifests.dashboards`."""

import json
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from manifests.panels import WIDTH, choice, lines, new, number, rows, states

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
AGENTS_UP = '(up{job=~".*virtsync-agent.*"} or up{pod=~"virtsync-agent-.+"})'
READY = "InSync|Observed|Completed|SuspendedByGuest"
"""The reasons for which the condition Ready is True."""
RATE = "$__rate_interval"
HOST = 'node="$node"'
VM = 'namespace="$namespace", name="$name"'
TO_VM = (
    "/d/virtsync-vm?var-namespace=${__data.fields.namespace}&var-name=${__data.fields.name}&${datasource:queryparam}"
)
TO_HOST = "/d/virtsync-host?var-node=${__data.fields.node}&${datasource:queryparam}"

Json = dict[str, Any]


def quantile(share: float, selector: str, by: str = "le") -> str:
    """The time from event to status that this share of the events did not exceed."""
    rate = f"rate(virtsync_event_to_status_seconds_bucket{selector}[{RATE}])"
    return f"histogram_quantile({share}, sum by ({by}) ({rate}))"


def fleet() -> dashboard.Dashboard:
    """All agents and managers: is anything wrong, and where."""
    late = f'sum(rate(virtsync_event_to_status_seconds_bucket{{le="1.0"}}[{RATE}]))'
    shown = new("virtsync-fleet", "virtsync / Fleet", "All hosts and VMs that virtsync manages.")
    for panel in (
        number("Agents", f"sum({AGENTS_UP})"),
        number("Agents that do not answer", f"count({AGENTS_UP}) - sum({AGENTS_UP})", bad=1),
        number("Silent nodes", "max(sum by (instance) (virtsync_monitor_silent_nodes))", bad=1),
        number("libvirt away", "count(virtsync_libvirt_connected) - sum(virtsync_libvirt_connected)", bad=1),
        number("Managers without a leader", "1 - max(virtsync_manager_leader)", bad=1),
        number("VMs not Ready", f'sum(virtsync_virtualmachines{{reason!~"{READY}"}}) or vector(0)', bad=1),
        lines("VMs by reason", ("sum by (reason) (virtsync_virtualmachines)", "{{reason}}"), stacked=True),
        lines("Longest drift", ("topk(10, max by (node) (virtsync_longest_drift_seconds))", "{{node}}"), unit="s"),
        rows(
            "VMs that differ from their spec",
            "topk(50, virtsync_drift_seconds > 0)",
            ["namespace", "name", "node"],
            "for",
            unit="s",
            link=("Show the VM", TO_VM),
        ),
        rows(
            "VMs that are held",
            "topk(50, virtsync_held_seconds)",
            ["namespace", "name", "node"],
            "for",
            unit="s",
            link=("Show the VM", TO_VM),
        ),
        rows(
            "Hosts in maintenance",
            "max by (node) (virtsync_hypervisor_maintenance_seconds)",
            ["node"],
            "for",
            span=8,
            unit="s",
            link=("Show the host", TO_HOST),
        ),
        rows("Found by the sweep", "max by (kind) (virtsync_sweep_findings)", ["kind"], "found", span=8),
        rows("Versions", "count by (version) (virtsync_build_info)", ["version"], "processes", span=8),
        lines("Event to status", (quantile(0.5, ""), "p50"), (quantile(0.99, ""), "p99"), unit="s"),
        lines(
            "Events that take more than a second",
            (f"1 - {late} / sum(rate(virtsync_event_to_status_seconds_count[{RATE}]))", "late"),
            unit="percentunit",
        ),
        lines(
            "Actions on VMs",
            (
                f"sum by (operation, result) (rate(virtsync_power_operations_total[{RATE}])) > 0",
                "{{operation}} {{result}}",
            ),
            unit="ops",
        ),
        lines(
            "Actions that hang",
            ("sum by (operation) (virtsync_power_operations_hanging)", "{{operation}}"),
            stacked=True,
        ),
        lines(
            "Requests of the agents",
            (f"sum(rate(virtsync_status_writes_total[{RATE}]))", "status writes"),
            (f"sum(rate(virtsync_api_throttled_total[{RATE}]))", "answered with 429"),
            (f"sum(rate(virtsync_events_dropped_total[{RATE}]))", "Events dropped"),
            unit="reqps",
        ),
        lines(
            "Silent nodes, by maintenance",
            ("max by (maintenance) (virtsync_monitor_silent_nodes)", "maintenance: {{maintenance}}"),
            ("max(virtsync_monitor_marks_waiting)", "not all marked"),
            stacked=True,
        ),
        lines("Domains", ("sum by (managed, on) (virtsync_domains)", "managed: {{managed}}, on: {{on}}"), stacked=True),
        lines(
            "Managers that do not see the Leases",
            (f"rate(virtsync_monitor_blind_seconds_total[{RATE}])", "{{pod}}"),
            unit="percentunit",
        ),
    ):
        shown = shown.with_panel(panel)
    return shown


def host() -> dashboard.Dashboard:
    """One host: its agent, its libvirt, and its VMs."""
    of_agent = "and on (instance) virtsync_libvirt_connected"
    shown = new("virtsync-host", "virtsync / Host", "One host: its agent, its libvirt, and its VMs.").with_variable(
        choice("node", "Node", "label_values(virtsync_libvirt_connected, node)")
    )
    on_host = f"{{{HOST}}}"
    listed_s = f"rate(virtsync_resync_seconds_sum{on_host}[{RATE}])"
    for panel in (
        number("libvirt away", f"1 - virtsync_libvirt_connected{on_host}", bad=1),
        number("Without the Lease", f"1 - virtsync_lease_held{on_host}", bad=1),
        number("Checks that fail", f"sum(virtsync_not_ready{on_host})", bad=1),
        number("VMs", f"sum(virtsync_virtualmachines{on_host})"),
        number("VMs not Ready", f'sum(virtsync_virtualmachines{{{HOST}, reason!~"{READY}"}}) or vector(0)', bad=1),
        number("Longest drift", f"virtsync_longest_drift_seconds{on_host}", unit="s", bad=1800),
        lines("VMs by reason", (f"virtsync_virtualmachines{on_host}", "{{reason}}"), stacked=True),
        lines("Domains", (f"virtsync_domains{on_host}", "managed: {{managed}}, on: {{on}}"), stacked=True),
        rows(
            "VMs that differ from their spec, or are held",
            f"topk(50, virtsync_drift_seconds{on_host} > 0 or virtsync_held_seconds{on_host})",
            ["namespace", "name"],
            "for",
            unit="s",
            link=("Show the VM", TO_VM),
        ),
        lines("/readyz: checks that fail", (f"virtsync_not_ready{on_host}", "{{check}}"), stacked=True),
        lines(
            "Event to status",
            (quantile(0.5, on_host), "p50"),
            (quantile(0.99, on_host), "p99"),
            (f"virtsync_oldest_unreported_event_seconds{on_host}", "oldest without a report"),
            unit="s",
        ),
        lines("Events of libvirt", (f"rate(virtsync_libvirt_events_total{on_host}[{RATE}])", "{{event}}"), unit="ops"),
        lines(
            "Actions on VMs",
            (f"rate(virtsync_power_operations_total{on_host}[{RATE}]) > 0", "{{operation}} {{result}}"),
            (f"virtsync_power_operations_hanging{on_host} > 0 or vector(0)", "hanging {{operation}}"),
        ),
        lines(
            "Time of a list of everything",
            (f"{listed_s} / rate(virtsync_resync_seconds_count{on_host}[{RATE}])", "{{source}}"),
            unit="s",
        ),
        lines(
            "Work queue",
            (f"workqueue_depth{{{HOST}, name='virtualmachine'}}", "waiting"),
            (f"controller_runtime_active_workers{on_host}", "in progress"),
            (f"rate(workqueue_retries_total{{{HOST}, name='virtualmachine'}}[{RATE}])", "retries a second"),
        ),
        lines("CPU of the agent", (f"rate(process_cpu_seconds_total{on_host}[{RATE}]) {of_agent}", "cores")),
        lines("Memory of the agent", (f"process_resident_memory_bytes{on_host} {of_agent}", "RSS"), unit="bytes"),
        lines(
            "Starts of the agent, and connections to libvirt",
            (f"changes(process_start_time_seconds{on_host}[1h]) {of_agent}", "starts in an hour"),
            (f"increase(virtsync_libvirt_reconnects_total{on_host}[1h])", "reconnects in an hour"),
        ),
    ):
        shown = shown.with_panel(panel)
    return shown


def vm() -> dashboard.Dashboard:
    """One VM: what it did, and for how long it was not as wanted."""
    of_vm = f"{{{VM}}}"
    shown = (
        new("virtsync-vm", "virtsync / VM", "One VM. Needs --vm-metrics all; with drift, the power states are missing.")
        .with_variable(choice("namespace", "Namespace", "label_values(virtsync_drift_seconds, namespace)"))
        .with_variable(choice("name", "VM", 'label_values(virtsync_drift_seconds{namespace="$namespace"}, name)'))
    )
    for panel in (
        number("Differs from its spec for", f"max(virtsync_drift_seconds{of_vm})", span=6, unit="s", bad=1800),
        number("Held for", f"max(virtsync_held_seconds{of_vm}) or vector(0)", span=6, unit="s"),
        rows("Node", f"count by (node) (virtsync_drift_seconds{of_vm})", ["node"], "agents", span=6),
        rows(
            "libvirt of its node",
            f"virtsync_libvirt_connected and on (node) virtsync_drift_seconds{of_vm}",
            ["node"],
            "answers",
            span=6,
        ),
        states("Power state", f"virtsync_virtualmachine_power_state{of_vm} == 1", "{{power_state}}"),
        lines(
            "Differs from its spec, and held",
            (f"virtsync_drift_seconds{of_vm}", "differs"),
            (f"virtsync_held_seconds{of_vm}", "held"),
            unit="s",
        ),
        lines(
            "Share of the last hour in each power state",
            (f"avg_over_time(virtsync_virtualmachine_power_state{of_vm}[1h]) > 0", "{{power_state}}"),
            unit="percentunit",
            stacked=True,
        ),
    ):
        shown = shown.with_panel(panel)
    return shown


def every() -> dict[str, Json]:
    """The dashboards, by the name of their file."""
    return {f"{name}.json": _encoded(it) for name, it in _built().items()}


def expressions(shown: Json) -> list[str]:
    """What the panels of a dashboard ask Prometheus for."""
    return [target["expr"] for panel in shown["panels"] for target in panel["targets"]]


def render(shown: Json) -> str:
    """The text of the file."""
    return json.dumps(shown, indent=1, sort_keys=True) + "\n"


def _built() -> dict[str, dashboard.Dashboard]:
    return {"virtsync-fleet": fleet(), "virtsync-host": host(), "virtsync-vm": vm()}


def _encoded(shown: dashboard.Dashboard) -> Json:
    found: Json = json.loads(JSONEncoder().encode(shown.build()))
    for number_, panel in enumerate(found["panels"], start=1):
        panel["id"] = number_
        assert 0 < panel["gridPos"]["w"] <= WIDTH  # noqa: S101 - a panel without a place is not shown
    return found


if __name__ == "__main__":
    for file, content in every().items():
        (FOLDER / file).write_text(render(content))
