"""How fast, how big and how quiet the agent is; `make bench` runs it, `docs/performance.md` explains it.

Times are taken here, in one process, for the agent and for the floor (`tools/floor.py`) alike: from the callback of an
own connection to libvirt to the line of an own watch. Both take turns, and each event is alone.
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import queue
import random
import re
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import click
import libvirt
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from floor import POWER_STATES, READY
from lab import LabError, processes
from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.processes import Process, last_lines
from lab.trace import event_loop

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "build" / "bench.json"
NODE = "bench"
API = "virtsync.dev/v1alpha1"
EVENTS = 400
"""Measured for each reporter and driver."""
WARM_UP = 30
PAUSE_S = (0.01, 0.03)
"""Between two events: whoever reported the last one is still busy with the answer."""
IDLE_S = 60
HANG_LIMIT_S = 30
POLL_INTERVAL_S = 0.05
FLOOR_TO_HTTP_LIMIT = 1.5
"""A floor slower than this is no floor."""

REPORTERS = {
    "agent": "agent",
    "floor": "floor",
    "full": "floor, on objects as full as the agent's",
    "http": "floor, by http.client",
}
FLOORS = {"floor": "kubernetes", "full": "kubernetes", "http": "http.client"}
"""With their clients, as tools/floor.py calls them. The names of a reporter's VMs begin with its own."""

TEST_DOMAIN = (
    "<domain type='test'><name>{}</name><memory unit='MiB'>4</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain>"
)
STATUS_WRITES = re.compile(
    r'^apiserver_request_total\{.*resource="virtualmachines".*verb="(?:APPLY|PATCH|POST|PUT)".*\} (\S+)$', re.MULTILINE
)

console = Console(highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Observation:
    """Something seen of a VM: libvirt's event, or the status that the API server shows."""

    vm: str
    power: str
    at_s: float
    is_event: bool


class Witness:
    """libvirt's events and the API server's watch, with their times; and the hand that causes the events.

    Use it as a context manager while `event_loop` runs.
    """

    def __init__(self, controlplane: ControlPlane, libvirt_uri: str) -> None:
        self._seen: queue.SimpleQueue[Observation] = queue.SimpleQueue()
        # Two connections: an event that comes while its connection waits for an answer is called back later.
        self.hand = libvirt.open(libvirt_uri)
        self._ear = libvirt.open(libvirt_uri)
        self._callback = self._ear.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_event, None
        )
        self._api = http.client.HTTPSConnection(
            controlplane.url.removeprefix("https://"), context=ssl.create_default_context(cafile=controlplane.ca)
        )
        self._api.request(
            "GET",
            f"/apis/{API}/namespaces/default/virtualmachines?watch=true&timeoutSeconds=3600",
            headers={"Authorization": f"Bearer {controlplane.token}"},
        )
        self._watching = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        # The end of the connection ends the thread that reads from it.
        self._api.sock.shutdown(socket.SHUT_RDWR)
        self._watching.join()
        self._ear.domainEventDeregisterAny(self._callback)
        self._ear.close()
        self.hand.close()

    def time_s(self, vm: str) -> tuple[float, float]:
        """Pause the VM, or resume it if it is paused: seconds from the event, and from before the call, to its status.

        LabError if either is not seen within the hang limit.
        """
        domain = self.hand.lookupByName(vm)
        paused = domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
        power, act = ("Running", domain.resume) if paused else ("Paused", domain.suspend)
        called_s = time.monotonic()
        act()
        at_s: dict[bool, float] = {}
        while len(at_s) < 2:
            try:
                seen = self._seen.get(timeout=HANG_LIMIT_S)
            except queue.Empty:
                missing = "status" if True in at_s else "event"
                raise LabError(f"The {missing} of {vm}, now {power}, was not seen in {HANG_LIMIT_S} s.") from None
            if (seen.vm, seen.power) == (vm, power):
                at_s.setdefault(seen.is_event, seen.at_s)
        return at_s[False] - at_s[True], at_s[False] - called_s

    def _on_event(self, _connection: Any, domain: Any, event: int, _detail: int, _opaque: Any) -> None:
        at_s = time.monotonic()
        if event in POWER_STATES:
            self._seen.put(Observation(domain.name(), POWER_STATES[event], at_s, is_event=True))

    def _watch(self) -> None:
        # Should the watch end too early, what waits for it will say so.
        with suppress(OSError, http.client.HTTPException):
            for line in self._api.getresponse():
                at_s = time.monotonic()
                vm = json.loads(line)["object"]
                self._seen.put(Observation(vm["metadata"]["name"], vm["status"]["powerState"], at_s, is_event=False))


@dataclass(slots=True)
class Reporter:
    """Somebody who reports the events of VMs of its own, and how long that took each time."""

    name: str
    vms: list[str]
    from_event_ms: list[float] = field(default_factory=list)
    from_call_ms: list[float] = field(default_factory=list)

    def measure(self, witness: Witness, turn: int, *, keep: bool) -> None:
        """Let its next VM change, and time the report."""
        from_event_s, from_call_s = witness.time_s(self.vms[turn % len(self.vms)])
        if keep:
            self.from_event_ms.append(from_event_s * 1000)
            self.from_call_ms.append(from_call_s * 1000)

    def figures(self) -> dict[str, float]:
        """What is told of it, in ms."""
        return {
            "p50": statistics.median(self.from_event_ms),
            "p99": percentile(self.from_event_ms, 99),
            "max": max(self.from_event_ms),
            "from_call_p50": statistics.median(self.from_call_ms),
            "from_call_p99": percentile(self.from_call_ms, 99),
        }


@dataclass(frozen=True, slots=True)
class Driver:
    """A libvirt driver to measure on: where it is, and how many VMs each reporter has there."""

    name: str
    uri: str
    vms: Mapping[str, int]
    start: Callable[[list[str]], None]
    """Define and start domains of these names, and return when they run."""


def percentile(values: list[float], percent: int) -> float:
    """The value that so many percent of the values do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


# --- the parts -------------------------------------------------------------------------------------------------------


def start_on_test_driver(connection: Any, names: list[str]) -> None:
    """Define and start domains that exist only in libvirt's books."""
    for name in names:
        connection.defineXML(TEST_DOMAIN.format(name)).create()


def start_on_qemu(libvirtd: Libvirtd, names: list[str]) -> None:
    """Define and start real guests."""
    for name in names:
        libvirtd.define(name).start()


def apply_objects(controlplane: ControlPlane, reporters: list[Reporter]) -> None:
    """An object for each VM; only the agent's are bound to its node, and none wants anything: they are observed."""
    items = [
        {
            "apiVersion": API,
            "kind": "VirtualMachine",
            "metadata": {"name": vm},
            "spec": {"nodeName": NODE} if reporter.name == "agent" else {},
        }
        for reporter in reporters
        for vm in reporter.vms
    ]
    controlplane.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))


def fill_objects(controlplane: ControlPlane, *, like: str, vms: list[str]) -> None:
    """Give these objects the status of another: what a PATCH takes depends on what is there already."""
    status = json.loads(controlplane.kubectl("get", "kvm", like, "-o", "json").stdout)["status"]
    for vm in vms:
        patch = json.dumps({"status": status})
        controlplane.kubectl("patch", "kvm", vm, "--subresource=status", "--type=merge", "-p", patch)


def install_crd(controlplane: ControlPlane) -> None:
    """Teach the API server what a VirtualMachine is, and return when kubectl knows it."""
    controlplane.kubectl("apply", "-f", str(ROOT / "deploy" / "crds"))
    deadline = time.monotonic() + HANG_LIMIT_S
    while controlplane.kubectl("get", "kvm", check=False).returncode:
        if time.monotonic() > deadline:
            raise LabError(f"The API server did not serve VirtualMachines within {HANG_LIMIT_S} s.")
        time.sleep(POLL_INTERVAL_S)


@contextmanager
def running_floor(name: str, driver: Driver, controlplane: ControlPlane, log: Path) -> Iterator[None]:
    """One of the floors, a process that hears events when this is entered, and is gone when it is left."""
    words = [FLOORS[name], driver.uri, str(controlplane.kubeconfig), f"{name}-"]
    floor = Process(name, [sys.executable, str(ROOT / "tools" / "floor.py"), *words], log=log)
    try:
        floor.start()
        floor.wait_until(lambda: READY in log.read_text(), timeout_s=HANG_LIMIT_S)
        yield
    finally:
        floor.stop()


@contextmanager
def step(what: str) -> Iterator[None]:
    """Show that something is being started, and how long it took."""
    began_s = time.monotonic()
    with console.status(what):
        yield
    console.print(f"{time.monotonic() - began_s:6.1f} s  {what}")


# --- the measurements ------------------------------------------------------------------------------------------------


def measure_driver(
    driver: Driver, controlplane: ControlPlane, folder: Path, *, events: int, idle_s: float
) -> dict[str, Any]:
    """All figures of one driver; those of an idle agent only if there is time to be idle."""
    reporters = [Reporter(name, [f"{name}-{n:02}" for n in range(count)]) for name, count in driver.vms.items()]
    with ExitStack() as parts:
        witness = parts.enter_context(Witness(controlplane, driver.uri))
        with step(f"{driver.name}: {sum(driver.vms.values())} domains run"):
            for reporter in reporters:
                driver.start(reporter.vms)
        apply_objects(controlplane, reporters)
        logs = {name: folder / f"{driver.name}-{name}.log" for name in driver.vms}
        with step(f"{driver.name}: the agent is ready, and so are the floors"):
            agent = Agent(controlplane, driver.uri, NODE, log=logs["agent"])
            parts.callback(agent.stop)
            agent.start()
            fill_objects(
                controlplane, like="agent-00", vms=[vm for one in reporters for vm in one.vms if one.name == "full"]
            )
            for name in FLOORS:
                parts.enter_context(running_floor(name, driver, controlplane, logs[name]))
        try:
            take_turns(driver.name, witness, reporters, events)
        except LabError as error:
            ends = "\n".join(f"the end of {log}:\n{last_lines(log)}" for log in logs.values())
            raise LabError(f"{error}\n{ends}") from None
        figures: dict[str, Any] = {"events": events} | {reporter.name: reporter.figures() for reporter in reporters}
        if idle_s:
            figures["idle"] = measure_idle(agent, controlplane, idle_s)
    controlplane.kubectl("delete", "kvm", "--all")
    agent_ms, floor_ms, full_ms, http_ms = (figures[name] for name in REPORTERS)
    return figures | {
        "ratio_p50": agent_ms["p50"] / floor_ms["p50"],
        "ratio_p99": agent_ms["p99"] / floor_ms["p99"],
        "ratio_to_full_p50": agent_ms["p50"] / full_ms["p50"],
        "ratio_to_full_p99": agent_ms["p99"] / full_ms["p99"],
        "floor_to_http_client_p50": floor_ms["p50"] / http_ms["p50"],
    }


def take_turns(title: str, witness: Witness, reporters: list[Reporter], events: int) -> None:
    """So many events for each reporter, in rounds of mixed order, after some that are not kept."""
    mixing = random.Random(title)  # noqa: S311 - mixes, guards nothing
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"{title}: events", total=WARM_UP + events)
        for turn in range(WARM_UP + events):
            for reporter in mixing.sample(reporters, len(reporters)):
                reporter.measure(witness, turn, keep=turn >= WARM_UP)
                time.sleep(mixing.uniform(*PAUSE_S))
            progress.advance(task)
    console.print(f"          {title}: {events} events timed for each of {len(reporters)}")


def measure_idle(agent: Agent, controlplane: ControlPlane, idle_s: float) -> dict[str, float]:
    """What the agent writes while nothing happens, and how big it is at the end of that."""
    before, began_s = status_writes(controlplane), time.monotonic()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("idle", total=idle_s)
        while (passed_s := time.monotonic() - began_s) < idle_s:
            progress.update(task, completed=passed_s)
            time.sleep(min(1, idle_s - passed_s))
    writes = status_writes(controlplane) - before
    minutes = (time.monotonic() - began_s) / 60
    console.print(f"          idle for {minutes * 60:.0f} s")
    return {"patches_per_minute": writes / minutes, "rss_mib": rss_mib(agent.pid)}


def status_writes(controlplane: ControlPlane) -> float:
    """VirtualMachines that the API server has been told to write so far, by whomever."""
    return sum(map(float, STATUS_WRITES.findall(controlplane.kubectl("get", "--raw", "/metrics").stdout)))


def rss_mib(pid: int) -> float:
    """The resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)[0]) / 1024


# --- the outcome -----------------------------------------------------------------------------------------------------


def sum_up(drivers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures that have goals, of the slower driver each, and all that they come from."""
    idle = drivers["test"]["idle"]
    cpu = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "event_to_status_ratio_p50": round(max(figures["ratio_p50"] for figures in drivers.values()), 2),
        "event_to_status_ratio_p99": round(max(figures["ratio_p99"] for figures in drivers.values()), 2),
        "agent_rss_mib_50_vms": round(idle["rss_mib"], 1),
        "idle_patches_per_minute": round(idle["patches_per_minute"], 2),
        "drivers": drivers,
        "machine": {
            "cpus": os.cpu_count(),
            "cpu": cpu[0] if cpu else platform.machine(),
            "load_average": os.getloadavg()[0],
        },
    }


def show(results: dict[str, Any]) -> None:
    """Print the tables."""
    times = Table("driver", "reporter", title="From libvirt's event to the status that a watch shows, in ms")
    for column in ("p50", "p99", "max", "p50 from before the call"):
        times.add_column(column, justify="right")
    for driver, figures in results["drivers"].items():
        for name, words in REPORTERS.items():
            cells = (figures[name][key] for key in ("p50", "p99", "max", "from_call_p50"))
            times.add_row(driver, words, *(f"{cell:.2f}" for cell in cells))
    goals = Table("figure", title="Against the goals")
    for column in (*results["drivers"], "reported", "goal"):
        goals.add_column(column, justify="right")

    def row(words: str, key: str, result: str, goal: str) -> None:
        cells = (f"{figures[key]:.2f}" if key else "" for figures in results["drivers"].values())
        goals.add_row(words, *cells, str(results.get(result, "")), goal)

    row("event to status, agent : floor, p50", "ratio_p50", "event_to_status_ratio_p50", "<= 1.3")
    row("event to status, agent : floor, p99", "ratio_p99", "event_to_status_ratio_p99", "<= 2.0")
    row("agent's RSS with 50 VMs, MiB", "", "agent_rss_mib_50_vms", "<= 80")
    row("PATCHes a minute while idle", "", "idle_patches_per_minute", "0")
    row("agent : floor on full objects, p50", "ratio_to_full_p50", "", "")
    row("agent : floor on full objects, p99", "ratio_to_full_p99", "", "")
    row("floor : floor by http.client, p50", "floor_to_http_client_p50", "", f"<= {FLOOR_TO_HTTP_LIMIT}")
    console.print(times)
    console.print(goals)


def check_floor(drivers: dict[str, dict[str, Any]]) -> None:
    """LabError when the floor is too slow to hold anything against."""
    for name, figures in drivers.items():
        if (ratio := figures["floor_to_http_client_p50"]) > FLOOR_TO_HTTP_LIMIT:
            raise LabError(f"{name}: the floor is {ratio:.2f} times as slow as http.client; it is no measure.")


@click.command()
@click.option("--events", default=EVENTS, show_default=True, help="Events timed for each reporter and driver.")
@click.option("--idle", "idle_s", default=IDLE_S, show_default=True, help="Seconds for which the agent is left alone.")
def main(events: int, idle_s: int) -> None:
    """Measure the agent, print the figures, and write them to build/bench.json."""
    with (
        processes.terminating(),
        tempfile.TemporaryDirectory(prefix="virtsync-") as name,
        event_loop(),
        ExitStack() as parts,
    ):
        folder = Path(name)
        with step("an API server that knows VirtualMachines"):
            controlplane = parts.enter_context(ControlPlane(folder / "controlplane"))
            install_crd(controlplane)
        with step("a libvirtd"):
            libvirtd = parts.enter_context(Libvirtd(folder / "kvm"))
        # What the test driver knows lasts as long as its last connection.
        books = libvirt.open(libvirtd.test_uri)
        parts.callback(books.close)
        drivers = [
            Driver(
                "test",
                libvirtd.test_uri,
                {"agent": 50} | dict.fromkeys(FLOORS, 10),
                lambda names: start_on_test_driver(books, names),
            ),
            Driver(
                "qemu",
                libvirtd.uri,
                {"agent": 4} | dict.fromkeys(FLOORS, 2),
                lambda names: start_on_qemu(libvirtd, names),
            ),
        ]
        measured = {
            driver.name: measure_driver(
                driver, controlplane, folder, events=events, idle_s=idle_s if driver.name == "test" else 0
            )
            for driver in drivers
        }
    results = sum_up(measured)
    show(results)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"All figures are in {RESULTS.relative_to(ROOT)}.")
    check_floor(measured)


if __name__ == "__main__":
    main()
