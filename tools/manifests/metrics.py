"""Renders docs/metrics.md from the metrics that agent and manager define: `python -m manifests.metrics`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from controller.agent.metrics import CHECKS as AGENT_CHECKS
from controller.agent.metrics import RESYNCED
from controller.agent.metrics import Metrics as AgentMetrics
from controller.api.hypervisor import MaintenanceMode
from controller.api.virtualmachine import PowerState, Reason
from controller.manager.metrics import CHECKS as MANAGER_CHECKS
from controller.manager.metrics import FINDINGS
from controller.manager.metrics import Metrics as ManagerMetrics
from controller.policy.view import Action, Result

RENDERED = Path(__file__).parents[2] / "docs" / "metrics.md"
HEAD = """\
<!-- Rendered by `make manifests` from controller/*/metrics.py: change it there. -->

# Metrics

The agent and the manager serve their metrics at `/metrics` on `--http-port` (8080), in the text format of Prometheus
and in OpenMetrics. A scraper that needs only some of them can ask for `/metrics?name[]=NAME`. The alerts that use them
have [a page each](runbooks/README.md), and [operations.md](operations.md#what-to-watch) says how to have Prometheus
scrape them.

The unit is part of the name (`_seconds`, `_bytes`). *0 or 1* is a flag, and *number* counts things. A counter begins at
0 when its process starts: use `rate()` or `increase()`.
"""
AGENT = """\
Each agent serves these metrics. The label `node` is not among them: the scraper adds it
([PodMonitor](../deploy/overlays/prometheus/podmonitor.yaml)).

`--vm-metrics` limits the series of each VM. With `drift`, `virtsync_virtualmachine_power_state` is not served. With
`off`, `virtsync_drift_seconds` and `virtsync_held_seconds` are not served either; `virtsync_longest_drift_seconds` and
`virtsync_virtualmachines` still show that a VM of the node needs somebody, but not which one.
"""
MANAGER = "Each manager serves these metrics, whether or not it leads.\n"
LABELS = """\
Every label has a limited set of values, except for the names of objects. `node` is served only by the manager, and only
for the nodes that it has marked or that are in maintenance.
"""
PER_VM = "one for each VM"
PER_NODE = "one for each node"
ELSEWHERE = "those of libvirt's events"
LABEL_VALUES: dict[str, tuple[str, Iterable[str] | str]] = {
    "check": (
        "The name of a check in the response of `/readyz`",
        dict.fromkeys((*AGENT_CHECKS, *MANAGER_CHECKS)),
    ),
    "controller": ("The name of the controller", ("virtualmachine",)),
    "host": ("The name with which the host of the agent was enrolled", "one"),
    "event": ("libvirt's name of the event", ELSEWHERE),
    "kind": (
        "What the sweep has found ([fleet.md](fleet.md#the-sweep)), or the kind of the marked objects",
        (*FINDINGS, "Hypervisor", "VirtualMachine"),
    ),
    "maintenance": ("The mode of the maintenance; empty: none", ("", *MaintenanceMode)),
    "managed": ("Whether a VirtualMachine refers to the domain", ("true", "false")),
    "name": ("The name of the VirtualMachine; of the work queue: `virtualmachine`", PER_VM),
    "namespace": ("The namespace of the VirtualMachine", PER_VM),
    "node": ("The node that the metric is about", PER_NODE),
    "on": ("Whether the domain has a QEMU", ("true", "false")),
    "operation": ("The action on a domain", [action.name.lower() for action in Action]),
    "power_state": ("`status.powerState`", PowerState),
    "reason": ("The reason of `Ready` ([api.md](api.md#ready-and-why))", Reason),
    "result": (
        "How the action or the reconcile pass has ended",
        (*(result.value for result in Result), "success", "error"),
    ),
    "source": ("What was listed", RESYNCED),
    "version": ("The version of virtsync", "one"),
}
"""For each label, what it says and which values it has; a text: how many it has."""


@dataclass(frozen=True, slots=True)
class Documented:
    """One row of the table."""

    name: str
    """As Prometheus queries it: a counter ends in `_total`; a histogram also has `_bucket`, `_sum` and `_count`."""
    type: str
    labels: tuple[str, ...]
    unit: str
    meaning: str


def documented(registry: CollectorRegistry) -> list[Documented]:
    """The metrics of a registry, by name, with those that have no sample yet."""
    found = (_row(metric, labels) for collector in _collectors(registry) for metric, labels in _described(collector))
    return sorted(found, key=lambda row: (not row.name.startswith("virtsync_"), row.name))


def _collectors(registry: CollectorRegistry) -> list[Collector]:
    # prometheus_client has no public way to ask for the collectors of a registry or for the labels of a metric.
    return list(registry._collector_to_names)  # noqa: SLF001


def _described(collector: Collector) -> Iterator[tuple[Metric, tuple[str, ...]]]:
    if isinstance(collector, MetricWrapperBase):
        for metric in collector.describe():
            yield metric, tuple(collector._labelnames)  # noqa: SLF001
    else:
        for metric in collector.collect():
            yield metric, tuple(getattr(metric, "_labelnames", ()))


def _row(metric: Metric, labels: tuple[str, ...]) -> Documented:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    return Documented(name, metric.type, labels, _unit(metric), metric.documentation)


def _unit(metric: Metric) -> str:
    for unit in ("seconds", "bytes"):
        if unit in metric.name.split("_"):
            return unit
    return "0 or 1" if metric.documentation.startswith(("1 while", "Always 1", "1 for")) else "number"


def registries() -> dict[str, CollectorRegistry]:
    """What an agent serves, with all series of its VMs, and what a manager serves."""
    return {"agent": AgentMetrics().registry, "manager": ManagerMetrics().registry}


def render() -> str:
    """The page as it is to be."""
    rows = {process: documented(registry) for process, registry in registries().items()}
    used = {label for process in rows.values() for row in process for label in row.labels}
    parts = [
        HEAD,
        "## The agent\n",
        AGENT,
        _metrics_table(rows["agent"]),
        "## The manager\n",
        MANAGER,
        _metrics_table(rows["manager"]),
        "## Labels\n",
        LABELS,
        _table(("Label", "Meaning", "Values"), (_label(name) for name in sorted(used))),
    ]
    return "\n".join(parts)


def _metrics_table(rows: Iterable[Documented]) -> str:
    head = ("Metric", "Type", "Labels", "Unit", "Meaning")
    cells = (
        (f"`{row.name}`", row.type, ", ".join(f"`{label}`" for label in row.labels), row.unit, row.meaning)
        for row in rows
    )
    return _table(head, cells)


def _label(name: str) -> tuple[str, str, str]:
    meaning, values = LABEL_VALUES[name]
    told = values if isinstance(values, str) else ", ".join(f"`{value}`" if value else "empty" for value in values)
    return f"`{name}`", meaning, told


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    RENDERED.write_text(render())
