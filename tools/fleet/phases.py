"""What is done to the fleet, one phase after another, and the figures of each."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from controller.api.names import MANAGER
from controller.fleet.findings import COLUMNS
from controller.fleet.mass import LEAST, MASS_WAITS_S, SHARE, VM_BURST
from controller.kube.client import load
from controller.kube.lists import FleetRequests
from fleet.agent import Agent
from fleet.agents import Agents
from fleet.client import Client, Ended, Failed, Tally
from fleet.manager import Manager
from fleet.marks import Marks
from fleet.objects import LEASE_NAMESPACE
from fleet.readings import Gauge, Used, used
from fleet.stage import MANAGER_ACCOUNT, Stage
from lab import LabError

MASS_SILENCE_S = 100.0
"""How long the agents of `mass_silence` are silent: more than their grace, and less than VMs wait in a mass."""
STALLED_S = 120.0
POLL_INTERVAL_S = 0.1

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """The size of the fleet, and how long the phases last."""

    nodes: int
    vms: int
    writes_per_s: float
    seconds: float
    """Of each phase that only measures a rate."""
    outage_s: float
    rights_s: float
    lease_duration_s: float
    relist_spread_s: float
    starting_at_once: int
    """How many agents start at a time."""


@dataclass(slots=True)
class Fleet:
    """All parts, and the figures that later phases compare with."""

    options: Options
    stage: Stage
    administrator: Client
    agents: Agents
    marks: Marks
    gauge: Gauge
    tally: Tally
    manager: Manager | None
    idle_cores: float = 0.0
    before: Figures = field(default_factory=dict)
    """The latencies of renewals and writes while nothing else happens."""


@dataclass(slots=True)
class Window:
    """What happened within `measured`; complete after its end."""

    used: Used = field(init=False)
    ended: dict[str, Ended] = field(init=False)

    def statuses(self, kind: str, status: int) -> int:
        """How many requests of a kind had this status."""
        return self.ended[kind].statuses[status]

    def figures(self, *kinds: str) -> Figures:
        """For the results: the use of resources, and these kinds of requests."""
        return self.used.figures() | {kind: self.ended[kind].figures() for kind in kinds}


@asynccontextmanager
async def measured(fleet: Fleet) -> AsyncIterator[Window]:
    """Measure what is used, and which requests end, within the block."""
    window = Window()
    before = await fleet.gauge.read()
    fleet.tally.take()
    yield window
    window.ended = fleet.tally.take()
    window.used = used(before, await fleet.gauge.read())


async def recovered(fleet: Fleet) -> None:
    """Wait until all agents renew, watch and have listed: what a phase has overloaded must not spoil the next one."""
    now_s = time.monotonic()
    await fleet.agents.until(lambda agent: agent.right_since(now_s), "all renew and watch before the next phase")


async def idle(fleet: Fleet) -> Figures:
    """Nothing but renewals, watches that end and begin, and the manager's lists."""
    async with measured(fleet) as window:
        await asyncio.sleep(fleet.options.seconds)
    fleet.idle_cores = window.used.server_cores
    reading = await fleet.gauge.read()
    memory = {
        "server_rss_mib": reading.server_rss_mib,
        "etcd_rss_mib": reading.etcd_rss_mib,
        "etcd_size_mib": reading.etcd_size_mib,
        "manager_rss_mib": reading.manager_rss_mib,
    }
    return window.figures("renew", "watch") | memory


async def writes(fleet: Fleet) -> Figures:
    """The agents report changes, as a Poisson process."""
    async with measured(fleet) as window, fleet.agents.writing(fleet.options.writes_per_s):
        await asyncio.sleep(fleet.options.seconds)
    figures = window.figures("write", "renew")
    fleet.before = {kind: figures[kind]["p99_ms"] for kind in ("write", "renew")}
    return figures | {"cost_ms": _cost_ms(fleet, window, len(window.ended["write"].latencies_ms))}


async def lists(fleet: Fleet) -> Figures:
    """One list after another: the VMs of a node, then those of the manager, by the manager's own code."""
    agents = fleet.agents.running
    kubeconfig = await asyncio.to_thread(fleet.stage.kubeconfig, MANAGER_ACCOUNT)
    manager = FleetRequests(load(kubeconfig, program=MANAGER))
    asked: dict[str, Callable[[], Iterable[object]]] = {
        "leases": lambda: manager.leases(LEASE_NAMESPACE),
        "table": lambda: manager.rows(COLUMNS),
        "hypervisors": manager.hypervisors,
    }
    figures = {"filtered": await _repeat(fleet, lambda: random.choice(agents).list_once())}
    for kind, ask in asked.items():
        figures[kind] = await _repeat(fleet, partial(asyncio.to_thread, _ask, ask))
    return figures


def _ask(ask: Callable[[], Iterable[object]]) -> None:
    deque(ask(), maxlen=0)


async def _repeat(fleet: Fleet, do: Callable[[], Awaitable[object]]) -> Figures:
    until_s = time.monotonic() + fleet.options.seconds / 4
    took_s: list[float] = []
    async with measured(fleet) as window:
        while not took_s or time.monotonic() < until_s:
            began_s = time.monotonic()
            await do()
            took_s.append(time.monotonic() - began_s)
    cost_ms = _cost_ms(fleet, window, len(took_s))
    return {"lists": len(took_s), "cost_ms": cost_ms, "p50_ms": 1000 * statistics.median(took_s)}


def _cost_ms(fleet: Fleet, window: Window, count: int) -> float:
    """The CPU time of the API server for each of these requests, without what the idle fleet uses."""
    return 1000 * (window.used.server_cpu_s - fleet.idle_cores * window.used.seconds) / max(1, count)


async def herd(fleet: Fleet) -> Figures:
    """All agents list at once and twice, as after an outage without jitter: with and without the flow control."""
    figures = {"with": await _herd(fleet)}
    if await asyncio.to_thread(fleet.stage.set_flow_control, on=False):
        figures["without"] = await _herd(fleet)
        await asyncio.to_thread(fleet.stage.set_flow_control, on=True)
    else:
        figures = {"without": figures["with"]}
    return figures


async def _herd(fleet: Fleet) -> Figures:
    began_s = time.monotonic()
    async with measured(fleet) as window:
        listed = await asyncio.gather(*(_listed(agent) for agent in fleet.agents.running for _ in range(2)))
        took_s = time.monotonic() - began_s
        await fleet.agents.until(lambda agent: agent.renewed_since(began_s), "all Leases are renewed after the lists")
    extra_s = window.used.server_cpu_s - fleet.idle_cores * window.used.seconds
    requests = {"lists": len(listed), "failed": listed.count(False), "seconds": took_s, "core_s": extra_s}
    return requests | {"renew": window.ended["renew"].figures(), "rejected": window.used.rejected}


async def _listed(agent: Agent) -> bool:
    """List once; whether that succeeded."""
    try:
        await agent.list_once()
    except Failed:
        return False
    return True


async def mass_silence(fleet: Fleet) -> Figures:
    """A third of the agents is silent for 100 s, as after a fault of the network: the manager writes no VM."""
    silent = _third(fleet)
    if not fleet.manager or not _is_mass(silent):
        return {"skipped": f"there is no manager, or {_vms_of(silent)} VMs are no mass, which has more than {VM_BURST}"}
    made = dict(fleet.marks.made)
    async with measured(fleet) as window:
        await fleet.agents.silence(silent)
        await asyncio.sleep(MASS_SILENCE_S)
        hosts = len(fleet.marks.since_s["hypervisors"])
        back_s = await fleet.agents.start(silent)
    return {
        "silent": len(silent),
        "vm_marks": fleet.marks.made["vms"] - made["vms"],
        "hypervisors_marked": hosts,
        "back_s": back_s,
    } | window.figures("renew")


async def mark_storm(fleet: Fleet) -> Figures:
    """A third of the agents is silent for good: the manager marks all their VMs, and nobody else notices."""
    silent = _third(fleet)
    expected, made = _vms_of(silent), fleet.marks.made["vms"]
    if not fleet.manager or not expected:
        return {"skipped": "there is no manager, or no VM"}
    async with measured(fleet) as window, fleet.agents.writing(fleet.options.writes_per_s):
        began_s = time.monotonic()
        await fleet.agents.silence(silent)
        await _until_marked(fleet, expected)
    times_s = sorted(at_s - began_s for at_s in fleet.marks.since_s["vms"].values())
    async with measured(fleet) as back:
        back_s = await fleet.agents.start(silent)
        await _until_unmarked(fleet)
    paced_s = times_s[-1] - times_s[0]
    return {
        "silent": len(silent),
        "marks": fleet.marks.made["vms"] - made,
        "first_s": times_s[0],
        "last_s": times_s[-1],
        "marks_per_s": max(0, expected - VM_BURST) / paced_s if paced_s > 1 else 0.0,
        "renewals_429": window.statuses("renew", 429),
        "p99_ratio": {
            kind: window.ended[kind].percentile_ms(99) / (before or 1) for kind, before in fleet.before.items()
        },
        "back_s": back_s,
        "back_renewals_429": back.statuses("renew", 429),
    } | window.figures("write", "renew")


async def outage(fleet: Fleet) -> Figures:
    """The API server is killed, and started again later: nobody is dead because of that."""
    controlplane, made = fleet.stage.controlplane, dict(fleet.marks.made)
    fleet.tally.take()
    controlplane.kill("kube-apiserver")
    await asyncio.sleep(fleet.options.outage_s)
    requests = fleet.tally.take()
    await asyncio.to_thread(controlplane.start, "kube-apiserver")
    back_s = time.monotonic()
    await fleet.agents.until(lambda agent: agent.renewed_since(back_s), "all renew and watch after the outage")
    renewed_s = time.monotonic() - back_s
    await fleet.agents.until(lambda agent: agent.right_since(back_s), "all have listed after the outage")
    right_s = time.monotonic() - back_s
    ended = fleet.tally.take()
    reading = await fleet.gauge.read()
    if fleet.manager:  # a wrong mark would come when the agents have been silent for the grace since the outage
        await asyncio.sleep(max(0.0, back_s + fleet.options.lease_duration_s + 10 - time.monotonic()))
    return {
        "outage_s": fleet.options.outage_s,
        "requests_per_s": sum(one.statuses.total() for one in requests.values()) / fleet.options.outage_s,
        "renewed_s": renewed_s,
        "right_s": right_s,
        "server_core_s": reading.server_cpu_s,
        "server_rss_mib": reading.server_rss_mib,
        "lists": ended["list"].statuses.total(),
        "renewals_429": ended["renew"].statuses[429],
        "marked_vms": await fleet.marks.marked_vms(),
        "marks_made": sum(fleet.marks.made.values()) - sum(made.values()),
    }


async def rights(fleet: Fleet) -> Figures:
    """The agents lose all their rights, and get them back."""
    made = dict(fleet.marks.made)
    async with measured(fleet) as window:
        await asyncio.to_thread(fleet.stage.set_agents_rights, on=False)
        await asyncio.sleep(fleet.options.rights_s)
    await asyncio.to_thread(fleet.stage.set_agents_rights, on=True)
    back_s = time.monotonic()
    await fleet.agents.until(lambda agent: agent.renewed_since(back_s), "all renew and watch with their rights")
    return {
        "without_s": fleet.options.rights_s,
        "refused_per_s": sum(one.statuses[403] for one in window.ended.values()) / window.used.seconds,
        "server_cores": window.used.server_cores,
        "right_s": time.monotonic() - back_s,
        "marks_made": sum(fleet.marks.made.values()) - sum(made.values()),
    }


PHASES: dict[str, Callable[[Fleet], Awaitable[Figures]]] = {
    "idle": idle,
    "writes": writes,
    "lists": lists,
    "herd": herd,
    "mass_silence": mass_silence,
    "mark_storm": mark_storm,
    "outage": outage,
    "rights": rights,
}


def _third(fleet: Fleet) -> list[Agent]:
    return fleet.agents.all[:: round(1 / SHARE)]


def _vms_of(agents: list[Agent]) -> int:
    return sum(len(agent.vms) for agent in agents)


def _is_mass(agents: list[Agent]) -> bool:
    return len(agents) >= LEAST and _vms_of(agents) > VM_BURST


async def _until_marked(fleet: Fleet, expected: int) -> None:
    """Wait until so many VMs are marked. LabError if no VM is marked for a while, once the first mark is due."""
    marked = fleet.marks.since_s["vms"]
    last, changed_s = 0, time.monotonic() + MASS_WAITS_S + fleet.options.lease_duration_s
    while len(marked) < expected:
        if len(marked) != last:
            last, changed_s = len(marked), time.monotonic()
        if time.monotonic() > changed_s + STALLED_S:
            raise LabError(f"Only {len(marked)} of {expected} VMs of silent nodes are marked, and no more are.")
        await asyncio.sleep(POLL_INTERVAL_S)


async def _until_unmarked(fleet: Fleet) -> None:
    """Wait until no object is marked. LabError if the number of marks does not fall for a while."""
    last, changed_s = 0, time.monotonic()
    while left := sum(map(len, fleet.marks.since_s.values())):
        if left != last:
            last, changed_s = left, time.monotonic()
        if time.monotonic() > changed_s + STALLED_S:
            raise LabError(f"{left} objects are still marked, although their agents are back.")
        await asyncio.sleep(POLL_INTERVAL_S)
