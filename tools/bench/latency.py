"""One event at a time: from libvirt's callback to the status that a watch shows.

Times are taken here, in one process, for both the agent and the floor (`floor.py`): from the callback of this process's
own libvirt connection to the line of its own watch. Agent and floor take turns, and events do not overlap.
"""

from __future__ import annotations

import http.client
import json
import queue
import random
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import libvirt
from rich.progress import Progress

from bench.floor import POWER_STATES, READY
from bench.parts import (
    COLLECTION,
    NODE,
    Lab,
    Requests,
    agent_on,
    connect,
    cpu_s,
    create_objects,
    delete_objects,
    floor_command,
    memory_mib,
    percentile,
    progress,
    start_on_test_driver,
    step,
)
from lab import LabError
from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.processes import Process, last_lines

WARM_UP = 30
PAUSE_S = (0.01, 0.03)
"""The pause between two events: the reporter of the last event still processes the answer."""
HANG_LIMIT_S = 30
SIZE_TOLERANCE = 0.1
FLOOR_TO_HTTP_LIMIT = 1.5
"""A floor slower than this is not valid as a baseline."""

REPORTERS = {
    "agent": "agent",
    "floor": "floor",
    "full": "floor, on objects as full as the agent's",
    "http": "floor, by http.client",
}
JUDGED = "full"
"""The floor with which the agent is compared: what the API server takes for a whole status is no work of the agent."""
FLOORS = {"floor": "kubernetes", "full": "kubernetes", "http": "http.client"}
"""The floors and their clients in floor.py. The names of a reporter's VMs begin with the reporter's name."""


@dataclass(frozen=True, slots=True)
class Observation:
    """An observation of a VM: libvirt's event, or the status in the API server."""

    vm: str
    power: str
    at_s: float
    is_event: bool


class Witness:
    """Records libvirt's events and the API server's watch with their times, and causes the events.

    Use it as a context manager while `event_loop` runs.
    """

    def __init__(self, controlplane: ControlPlane, libvirt_uri: str) -> None:
        self._seen: queue.SimpleQueue[Observation] = queue.SimpleQueue()
        # Two connections, because libvirt delays an event's callback while its connection waits for an answer.
        self.hand = libvirt.open(libvirt_uri)
        self._ear = libvirt.open(libvirt_uri)
        self._callback = self._ear.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_event, None
        )
        self._api = connect(controlplane)
        self._api.request(
            "GET",
            f"{COLLECTION}?watch=true&timeoutSeconds=3600",
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

        LabError if event or status does not arrive within the hang limit.
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

    def first_shown_s(self) -> float:
        """The monotonic time of the first status from the watch; clears all observations."""
        shown_s = []
        with suppress(queue.Empty):
            while True:
                seen = self._seen.get_nowait()
                if not seen.is_event and seen.power != "Unknown":
                    shown_s.append(seen.at_s)
        return min(shown_s)

    def _on_event(self, _connection: Any, domain: Any, event: int, _detail: int, _opaque: Any) -> None:
        at_s = time.monotonic()
        if event in POWER_STATES:
            self._seen.put(Observation(domain.name(), POWER_STATES[event], at_s, is_event=True))

    def _watch(self) -> None:
        # If the watch ends too early, the code that waits for it reports that.
        with suppress(OSError, http.client.HTTPException):
            for line in self._api.getresponse():
                at_s = time.monotonic()
                vm = json.loads(line)["object"]
                self._seen.put(Observation(vm["metadata"]["name"], vm["status"]["powerState"], at_s, is_event=False))


@dataclass(slots=True)
class Reporter:
    """The agent or a floor, which reports the events of its own VMs, and the times that it took."""

    name: str
    vms: list[str]
    from_event_ms: list[float] = field(default_factory=list)
    from_call_ms: list[float] = field(default_factory=list)

    def measure(self, witness: Witness, turn: int, *, keep: bool) -> None:
        """Change the reporter's next VM, and time the report."""
        from_event_s, from_call_s = witness.time_s(self.vms[turn % len(self.vms)])
        if keep:
            self.from_event_ms.append(from_event_s * 1000)
            self.from_call_ms.append(from_call_s * 1000)

    def figures(self) -> dict[str, Any]:
        """The figures of the reporter, in ms."""
        return {
            "p50": statistics.median(self.from_event_ms),
            "p99": percentile(self.from_event_ms, 99),
            "max": max(self.from_event_ms),
            "from_call_p50": statistics.median(self.from_call_ms),
            "from_call_p99": percentile(self.from_call_ms, 99),
            "samples": [round(value, 2) for value in sorted(self.from_event_ms)],
        }


@dataclass(frozen=True, slots=True)
class Driver:
    """A libvirt driver to measure on: its URI, and how many VMs each reporter has there."""

    name: str
    uri: str
    vms: Mapping[str, int]
    start: Callable[[list[str]], None]
    """Define and start domains of these names, and return when they run."""


# --- the parts -------------------------------------------------------------------------------------------------------


def start_on_qemu(libvirtd: Libvirtd, names: list[str], ends: ExitStack) -> None:
    """Define and start real guests, which are removed at the end."""
    for name in names:
        guest = libvirtd.define(name)
        ends.callback(guest.remove)
        guest.start()


def fill_objects(controlplane: ControlPlane, *, like: str, vms: list[str]) -> None:
    """Give these objects the status of another: the duration of a PATCH depends on the existing object.

    They then have as many managed fields too. LabError if an object differs in size by more than `SIZE_TOLERANCE`.
    """
    pattern = read_object(controlplane, like)
    for vm in vms:
        patch = json.dumps({"status": pattern["status"]})
        controlplane.kubectl("patch", "kvm", vm, "--subresource=status", "--type=merge", "-p", patch)
    for part, text in ((part, json.dumps(pattern[part])) for part in ("metadata", "status")):
        for vm in vms:
            size = len(json.dumps(read_object(controlplane, vm)[part]))
            if abs(size - len(text)) > SIZE_TOLERANCE * len(text):
                raise LabError(f"The {part} of {vm} has {size} bytes, and that of {like} has {len(text)}.")


def read_object(controlplane: ControlPlane, vm: str) -> dict[str, Any]:
    """The object of a VM, with its managed fields."""
    answer: dict[str, Any] = json.loads(controlplane.kubectl("get", "--raw", f"{COLLECTION}/{vm}").stdout)
    return answer


@contextmanager
def running_floor(name: str, driver: Driver, controlplane: ControlPlane, log: Path) -> Iterator[None]:
    """Run one of the floors as a process, which receives events as soon as this is entered."""
    words = ["events", FLOORS[name], driver.uri, str(controlplane.kubeconfig), f"{name}-"]
    floor = Process(name, floor_command(*words), log=log)
    try:
        floor.start()
        floor.wait_until(lambda: READY in log.read_text(), timeout_s=HANG_LIMIT_S)
        yield
    finally:
        floor.stop()


# --- the measurements ------------------------------------------------------------------------------------------------


def measure(lab: Lab, *, events: int, idle_s: float) -> dict[str, Any]:
    """All figures of both drivers."""
    with ExitStack() as parts:
        # The test driver loses its state when its last connection closes.
        books = libvirt.open(lab.libvirtd.test_uri)
        parts.callback(books.close)
        drivers = [
            Driver(
                "test",
                lab.libvirtd.test_uri,
                {"agent": 50} | dict.fromkeys(FLOORS, 10),
                lambda names: start_on_test_driver(books, names),
            ),
            Driver(
                "qemu",
                lab.libvirtd.uri,
                {"agent": 4} | dict.fromkeys(FLOORS, 2),
                lambda names: start_on_qemu(lab.libvirtd, names, parts),
            ),
        ]
        measured = {
            driver.name: measure_driver(lab, driver, events=events, idle_s=idle_s if driver.name == "test" else 0)
            for driver in drivers
        }
    check_floor(measured)
    idle = measured["test"]["idle"]
    return {
        "event_to_status_ratio_p50": max(figures["ratio_p50"] for figures in measured.values()),
        "event_to_status_ratio_p99": max(figures["ratio_p99"] for figures in measured.values()),
        "event_to_status_ratio_to_empty_p50": max(figures["ratio_to_empty_p50"] for figures in measured.values()),
        "start_to_first_status_s": measured["test"]["first_status_s"],
        "agent_rss_mib_50_vms": idle["rss_mib"],
        "agent_private_mib_50_vms": idle["private_mib"],
        "idle_cpu_percent": idle["cpu_percent"],
        "idle_patches_per_minute": idle["patches_per_minute"],
        "drivers": measured,
    }


def measure_driver(lab: Lab, driver: Driver, *, events: int, idle_s: float) -> dict[str, Any]:
    """All figures of one driver; the figures of an idle agent only if `idle_s` is not 0."""
    reporters = [Reporter(name, [f"{name}-{n:02}" for n in range(count)]) for name, count in driver.vms.items()]
    with ExitStack() as parts:
        with step(f"{driver.name}: {sum(driver.vms.values())} domains run"):
            for reporter in reporters:
                driver.start(reporter.vms)
        # Only the agent's objects are bound to its node. Full objects are bound too, to a node without an agent.
        nodes = {"agent": {"nodeName": NODE}, JUDGED: {"nodeName": "floor"}}
        create_objects(
            lab.controlplane, {vm: nodes.get(reporter.name, {}) for reporter in reporters for vm in reporter.vms}
        )
        parts.callback(delete_objects, lab.controlplane)
        witness = parts.enter_context(Witness(lab.controlplane, driver.uri))
        logs = {name: lab.folder / f"{driver.name}-{name}.log" for name in driver.vms}
        with step(f"{driver.name}: the agent is ready, and so are the floors"):
            agent = agent_on(lab, driver.uri, f"{driver.name}-agent")
            parts.callback(agent.stop)
            launched_s = time.monotonic()
            agent.start()
            first_status_s = witness.first_shown_s() - launched_s
            fill_objects(
                lab.controlplane, like="agent-00", vms=[vm for one in reporters for vm in one.vms if one.name == "full"]
            )
            for name in FLOORS:
                parts.enter_context(running_floor(name, driver, lab.controlplane, logs[name]))
        try:
            take_turns(driver.name, witness, reporters, events)
        except LabError as error:
            ends = "\n".join(f"the end of {log}:\n{last_lines(log)}" for log in logs.values())
            raise LabError(f"{error}\n{ends}") from None
        figures: dict[str, Any] = {"events": events, "first_status_s": first_status_s}
        figures |= {reporter.name: reporter.figures() for reporter in reporters}
        if idle_s:
            figures["idle"] = measure_idle(agent, lab.controlplane, idle_s)
    agent_ms, floor_ms, judged_ms, http_ms = (figures[name] for name in ("agent", "floor", JUDGED, "http"))
    return figures | {
        "ratio_p50": agent_ms["p50"] / judged_ms["p50"],
        "ratio_p99": agent_ms["p99"] / judged_ms["p99"],
        "ratio_to_empty_p50": agent_ms["p50"] / floor_ms["p50"],
        "ratio_to_empty_p99": agent_ms["p99"] / floor_ms["p99"],
        "floor_to_http_client_p50": floor_ms["p50"] / http_ms["p50"],
    }


def take_turns(title: str, witness: Witness, reporters: list[Reporter], events: int) -> None:
    """Time `events` events for each reporter, in rounds of random order, after a warm-up that is not counted."""
    mixing = random.Random(title)
    with Progress(console=progress, transient=True) as bar:
        task = bar.add_task(f"{title}: events", total=WARM_UP + events)
        for turn in range(WARM_UP + events):
            for reporter in mixing.sample(reporters, len(reporters)):
                reporter.measure(witness, turn, keep=turn >= WARM_UP)
                time.sleep(mixing.uniform(*PAUSE_S))
            bar.advance(task)
    progress.print(f"          {title}: {events} events timed for each of {len(reporters)}")


def measure_idle(agent: Agent, controlplane: ControlPlane, idle_s: float) -> dict[str, float]:
    """The agent's writes and CPU time while nothing happens, and its memory at the end."""
    before, cpu_before_s, began_s = Requests.of(controlplane), cpu_s(agent.pid), time.monotonic()
    with Progress(console=progress, transient=True) as bar:
        task = bar.add_task("idle", total=idle_s)
        while (passed_s := time.monotonic() - began_s) < idle_s:
            bar.update(task, completed=passed_s)
            time.sleep(min(1, idle_s - passed_s))
    taken_s, lasted_s = cpu_s(agent.pid) - cpu_before_s, time.monotonic() - began_s
    writes = (Requests.of(controlplane) - before).writes
    progress.print(f"          idle for {lasted_s:.0f} s")
    return {
        "patches_per_minute": writes / lasted_s * 60,
        "cpu_percent": taken_s / lasted_s * 100,
        "rss_mib": memory_mib(agent.pid),
        "private_mib": memory_mib(agent.pid, "RssAnon"),
    }


def check_floor(drivers: dict[str, dict[str, Any]]) -> None:
    """LabError if the floor is too slow for a comparison."""
    for name, figures in drivers.items():
        if (ratio := figures["floor_to_http_client_p50"]) > FLOOR_TO_HTTP_LIMIT:
            raise LabError(f"{name}: the floor is {ratio:.2f} times as slow as http.client; it is no measure.")
