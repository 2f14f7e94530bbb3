"""A thousand VMs on libvirt's test driver behind libvirtd: start, storm, resync, reconnect, outage.

Each is compared with the time that libvirt or the API server alone takes in the same run: one bulk call, or one bare
PATCH for each VM, with as many threads as the agent has workers (`floor.py`).
"""

from __future__ import annotations

import json
import random
import statistics
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import libvirt
from rich.progress import Progress

from bench import threads
from bench.parts import (
    HANG_LIMIT_S,
    NODE,
    Board,
    Json,
    Lab,
    Requests,
    Told,
    agent_on,
    busy_s,
    cpu_s,
    create_objects,
    delete_objects,
    floor_command,
    memory_mib,
    observed,
    progress,
    samples,
    start_on_test_driver,
    statuses,
    step,
    until,
)
from controller.agent.settings import Settings
from lab.agent import Agent
from lab.processes import Process
from lab.proxy import Proxy

VMS = 1000
STORM_EVENTS = 10_000
WORKERS = Settings(node_name=NODE, boot_id="").workers
"""The workers of the agent, and the threads of the floor."""
HANDS = 4
"""The threads that cause the events of a storm, each with its own connection."""
ONLY_EVENTS: dict[str, Any] = {"resync_libvirt": "1h", "resync_api": "1h"}
"""No resync: a lost event stays lost."""
WATCH_INTERVAL_S = 0.1
RESYNC_S = 1.0
RESYNCS = 30
RESYNC_COUNT = 'virtsync_resync_seconds_count{source="libvirt"}'
RESYNC_SERIES = (RESYNC_COUNT, 'virtsync_resync_seconds_sum{source="libvirt"}')
CHANGED = 100
"""The VMs that are paused while libvirtd is down; the same number is stopped."""
CHANGES_PER_S = 20
SIZES = 20
"""How often the agent's memory is measured in an outage."""

STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "Running",
    libvirt.VIR_DOMAIN_PAUSED: "Paused",
    libvirt.VIR_DOMAIN_SHUTOFF: "Stopped",
}
# The possible calls for a domain in each state, and the state after the call.
DEEDS: dict[str, tuple[tuple[Callable[[libvirt.virDomain], object], str], ...]] = {
    "Running": ((libvirt.virDomain.suspend, "Paused"), (libvirt.virDomain.destroy, "Stopped")),
    "Paused": ((libvirt.virDomain.resume, "Running"), (libvirt.virDomain.destroy, "Stopped")),
    "Stopped": ((libvirt.virDomain.create, "Running"),),
}


@dataclass(frozen=True, slots=True)
class Floor:
    """What a burst of bare PATCHes took, in seconds."""

    s: float
    client_s: float
    """Processor time of the client, without its imports."""
    server_s: float
    """Processor time of the API server."""
    machine_s: float
    """Processor time of all processes, without the imports of the client."""


@dataclass(slots=True)
class Thousand:
    """The VMs, their objects, the watch over them, and as many objects for the floor."""

    lab: Lab
    uri: str
    books: libvirt.virConnect
    """The test driver loses its state when its last connection closes."""
    board: Board
    vms: list[str]
    floor_vms: list[str]
    floors: list[Floor] = field(default_factory=list)
    """The bursts of bare PATCHes."""

    def close(self) -> None:
        """Undefine the VMs in the test driver."""
        self.books.close()

    def expected(self) -> dict[str, Told]:
        """The status that each VM must have, according to libvirt."""
        stats = self.books.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0)
        powers = {domain.name(): STATES[stat["state.state"]] for domain, stat in stats}
        return {vm: (powers[vm], "Observed") for vm in self.vms}

    def server_s(self) -> float:
        """The processor time that the API server has used until now."""
        return cpu_s(self.lab.controlplane.pid("kube-apiserver"))

    def burst_s(self) -> float:
        """The duration of one bare PATCH for each VM, with as many threads as the agent has workers."""
        power = ("Running", "Paused")[len(self.floors) % 2]
        self.floors.append(self.burst({vm: {"powerState": power} for vm in self.floor_vms}))
        return self.floors[-1].s

    def burst(self, wanted: Mapping[str, Json]) -> Floor:
        """What a PATCH of the status takes for each of these VMs, with as many threads as the agent has workers."""
        log, file = self.lab.folder / "burst.log", self.lab.folder / "statuses.json"
        file.write_text(json.dumps(wanted))
        words = ["burst", str(self.lab.controlplane.kubeconfig), str(WORKERS), str(file)]
        burst = Process("floor", floor_command(*words), log=log)
        server_s, machine_s = self.server_s(), busy_s()
        try:
            burst.start()
            burst.wait_until_ended(timeout_s=HANG_LIMIT_S)
        finally:
            burst.stop()
        took_s, client_s, imports_s = map(float, log.read_text().splitlines()[-1].split())
        server_s, machine_s = self.server_s() - server_s, busy_s() - machine_s - imports_s
        return Floor(took_s, client_s, server_s, machine_s)

    def same_statuses(self) -> Floor:
        """What it takes to write the agent's statuses, without an agent, to as many objects that have no status."""
        found = statuses(self.lab.controlplane)
        same = {f"same-{vm}": found[vm] for vm in self.vms}
        create_objects(self.lab.controlplane, {vm: {} for vm in same})
        return self.burst(same)


@contextmanager
def thousand(lab: Lab) -> Iterator[Thousand]:
    """Running domains, and objects without a status yet."""
    with ExitStack() as parts:
        books = libvirt.open(lab.libvirtd.test_uri)
        vms = [f"load-{n:04}" for n in range(VMS)]
        floor_vms = [f"floor-{n:04}" for n in range(VMS)]
        with step(f"{VMS} domains run"):
            start_on_test_driver(books, vms)
        with step(f"{VMS} objects about them, and {VMS} for the floor"):
            parts.callback(delete_objects, lab.controlplane)
            create_objects(lab.controlplane, observed(vms) | {vm: {} for vm in floor_vms})
        board = parts.enter_context(Board(lab.controlplane))
        load = Thousand(lab, lab.libvirtd.test_uri, books, board, vms, floor_vms)
        parts.callback(load.close)
        yield load


def measure_start(load: Thousand) -> dict[str, Any]:
    """From the start of the agent's process to the last status, with the interpreter's own start."""
    before_s = load.burst_s()
    times = load.lab.folder / "threads.json"
    agent = agent_on(load.lab, load.uri, "start", module="bench.threads", env={threads.FILE: str(times)})
    with step(f"start: {VMS} VMs are reported by an agent that has just been started"):
        server_s, machine_s, launched_s = load.server_s(), busy_s(), time.monotonic()
        agent.launch()
        try:
            right_s = load.board.right_since_s(load.expected()) - launched_s
            server_s, machine_s = load.server_s() - server_s, busy_s() - machine_s
            agent.signal(threads.SIGNAL)
            first_s = load.board.first_s(load.vms, ("Running", "Observed")) - launched_s
            rss_mib = memory_mib(agent.pid)
            until(times.exists, "the agent has written the times of its threads")
        finally:
            agent.stop()
    floor_s = statistics.mean([before_s, load.burst_s()])
    with step(f"start: {VMS} PATCHes write the same statuses"):
        same = load.same_statuses()
    return {
        "start_ratio": right_s / floor_s,
        "start_ratio_to_same": right_s / same.s,
        "start": {
            "all_s": right_s,
            "first_s": first_s,
            "floor_s": floor_s,
            "rss_mib": rss_mib,
            "threads_s": json.loads(times.read_text()),
            "server_s": server_s,
            "machine_s": machine_s,
            "floor_client_s": statistics.mean(floor.client_s for floor in load.floors),
            "floor_server_s": statistics.mean(floor.server_s for floor in load.floors),
            "floor_machine_s": statistics.mean(floor.machine_s for floor in load.floors),
            "same": asdict(same),
        },
    }


# --- storm -----------------------------------------------------------------------------------------------------------


def measure_storm(load: Thousand) -> dict[str, Any]:
    """Changes as fast as libvirtd makes them, which the agent learns only from events."""
    before_s = load.burst_s()
    agent = agent_on(load.lab, load.uri, "storm", **ONLY_EVENTS)
    try:
        with step("storm: an agent is ready"):
            agent.start()
            load.board.right_since_s(load.expected())
        with step(f"storm: {STORM_EVENTS} events"):
            figures = _storm(load, agent)
    finally:
        agent.stop()
    floor_s = statistics.mean([before_s, load.burst_s()])
    return {
        "storm_ratio": figures["after_last_s"] / floor_s,
        "storm_total_ratio": figures["all_s"] / floor_s,
        "storm_lost": figures["lost"],
        "storm_event_lag_s": figures["event_lag_s"],
        "storm": figures | {"floor_s": floor_s},
    }


def _storm(load: Thousand, agent: Agent) -> dict[str, Any]:
    versions, rss_mib = load.board.versions, memory_mib(agent.pid)
    with Gauge(agent) as gauge:
        began_s = time.monotonic()
        with ThreadPoolExecutor(HANDS) as hands:
            times = list(
                hands.map(
                    lambda n: _cause_events(load.uri, load.vms[n::HANDS], STORM_EVENTS // HANDS, random.Random(n)),
                    range(HANDS),
                )
            )
        last_s = time.monotonic()
        expected = load.expected()
        right_s = load.board.right_since_s(expected)
    # What comes later would show that it was right by chance.
    time.sleep(1)
    return {
        "events": STORM_EVENTS,
        "events_s": last_s - began_s,
        "after_last_s": right_s - last_s,
        "all_s": right_s - began_s,
        "lost": len(load.board.wrong(expected)),
        "patches": load.board.versions - versions,
        "queue_depth": gauge.depth,
        "event_lag_s": gauge.lag_s(sorted(at_s for hand in times for at_s in hand)),
        "rss_before_mib": rss_mib,
        "rss_peak_mib": memory_mib(agent.pid, "VmHWM"),
    }


def _cause_events(uri: str, vms: list[str], events: int, dice: random.Random) -> list[float]:
    """Switch these running domains at random, one event each time; the monotonic times of the switches."""
    connection = libvirt.open(uri)
    domains = [connection.lookupByName(vm) for vm in vms]
    states = ["Running"] * len(vms)
    done_s = []
    for _ in range(events):
        which = dice.randrange(len(vms))
        deed, states[which] = dice.choice(DEEDS[states[which]])
        deed(domains[which])
        done_s.append(time.monotonic())
    connection.close()
    return done_s


# --- resync ----------------------------------------------------------------------------------------------------------


def measure_resync(load: Thousand) -> dict[str, Any]:
    """Relists that find no difference, compared with the one bulk call that each needs at least."""
    agent = agent_on(load.lab, load.uri, "resync", resync_libvirt=f"{RESYNC_S}s")
    try:
        with step("resync: an agent is ready"):
            agent.start()
            load.board.right_since_s(load.expected())
            _until_resyncs(agent, after=0)
        with step(f"resync: {RESYNCS} relists"):
            requests, before = Requests.of(load.lab.controlplane), samples(agent, *RESYNC_SERIES)
            bulk_s: list[float] = []
            while not bulk_s or samples(agent, RESYNC_COUNT)[RESYNC_COUNT] < before[RESYNC_COUNT] + RESYNCS:
                began_s = time.monotonic()
                load.books.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0)
                bulk_s.append(time.monotonic() - began_s)
                time.sleep(RESYNC_S / 2)
            after = samples(agent, *RESYNC_SERIES)
            requests = Requests.of(load.lab.controlplane) - requests
    finally:
        agent.stop()
    count, sum_s = (after[name] - before[name] for name in RESYNC_SERIES)
    return {
        "resync_ratio": sum_s / count / statistics.mean(bulk_s),
        "resync_patches": requests.writes,
        "resync_gets": requests.reads,
        "resync": {"relists": count, "relist_ms": sum_s / count * 1000, "bulk_ms": statistics.mean(bulk_s) * 1000},
    }


def _until_resyncs(agent: Agent, *, after: float) -> float:
    """Wait until libvirt has been listed more often than this; the monotonic time of that observation."""
    return until(lambda: samples(agent, RESYNC_COUNT)[RESYNC_COUNT] > after, "libvirt has been listed once more")


# --- reconnect -------------------------------------------------------------------------------------------------------


def measure_reconnect(load: Thousand) -> dict[str, Any]:
    """libvirtd dies and returns with changed VMs; the agent's own socket returns when all VMs are ready."""
    gate = load.lab.folder / "gate" / "libvirt-sock"
    gate.parent.mkdir()
    gate.symlink_to(load.lab.libvirtd.socket)
    agent = agent_on(load.lab, f"test+unix:///default?socket={gate}", "reconnect", **ONLY_EVENTS)
    before_s = load.burst_s()
    try:
        with step("reconnect: an agent is ready"):
            agent.start()
            load.board.right_since_s(load.expected())
        unknown = {vm: (power, "LibvirtUnreachable") for vm, (power, _) in load.expected().items()}
        with step("reconnect: libvirtd is killed, and all VMs are told to be out of sight"):
            gate.unlink()
            load.lab.libvirtd.kill()
            killed_s = time.monotonic()
            told_s = load.board.right_since_s(unknown) - killed_s
        load.close()
        load.lab.libvirtd.start()
        load.books = libvirt.open(load.uri)
        start_on_test_driver(load.books, load.vms)
        for vm in load.vms[:CHANGED]:
            load.books.lookupByName(vm).suspend()
        for vm in load.vms[CHANGED : 2 * CHANGED]:
            load.books.lookupByName(vm).destroy()
        expected = load.expected()
        resyncs = samples(agent, RESYNC_COUNT)[RESYNC_COUNT]
        with step("reconnect: its socket is back, and all is right"):
            gate.symlink_to(load.lab.libvirtd.socket)
            returned_s = time.monotonic()
            resync_s = _until_resyncs(agent, after=resyncs) - returned_s
            right_s = load.board.right_since_s(expected) - returned_s
    finally:
        agent.stop()
    floor_s = statistics.mean([before_s, load.burst_s()])
    return {
        "reconnect_resync_s": resync_s,
        "reconnect_right_ratio": right_s / floor_s,
        "reconnect": {"told_s": told_s, "right_s": right_s, "floor_s": floor_s},
    }


# --- outage ----------------------------------------------------------------------------------------------------------


def measure_outage(load: Thousand, outage_s: float) -> dict[str, Any]:
    """kube-apiserver dies and returns, while VMs change all the time."""
    controlplane = load.lab.controlplane
    with Proxy(int(controlplane.url.rpartition(":")[2])) as proxy:
        agent = agent_on(load.lab, load.uri, "outage", kubeconfig=proxy.kubeconfig(controlplane.kubeconfig))
        try:
            with step("outage: an agent is ready"):
                agent.start()
                load.board.right_since_s(load.expected())
            accepted, rss_mib, cpu = proxy.accepted, memory_mib(agent.pid), cpu_s(agent.pid)
            with _changes(load), step(f"outage: kube-apiserver is gone for {outage_s:.0f} s"):
                controlplane.kill("kube-apiserver")
                rss = [rss_mib, *_sizes(agent.pid, outage_s)]
                requests, cpu = proxy.accepted - accepted, cpu_s(agent.pid) - cpu
                controlplane.start("kube-apiserver")
                returned_s = time.monotonic()
            with step("outage: it is back, and all is right"):
                right_s = load.board.right_since_s(load.expected())
        finally:
            agent.stop()
    return {
        "outage_rss_growth_mib": max(rss) - rss_mib,
        "outage_requests_per_s": requests / outage_s,
        "outage_recovery_s": max(0.0, right_s - returned_s),
        "outage": {"lasted_s": outage_s, "rss_mib": rss, "cpu_percent": cpu / outage_s * 100},
    }


def _sizes(pid: int, lasts_s: float) -> list[float]:
    """Measure the process's memory periodically during this."""
    end_s, sizes = time.monotonic() + lasts_s, []
    with Progress(console=progress, transient=True) as bar:
        task = bar.add_task("outage", total=lasts_s)
        while (left_s := end_s - time.monotonic()) > 0:
            bar.update(task, completed=lasts_s - left_s)
            time.sleep(min(lasts_s / SIZES, left_s))
            sizes.append(memory_mib(pid))
    return sizes


@contextmanager
def _changes(load: Thousand) -> Iterator[None]:
    """Pause and resume VMs one after another during this."""
    ended, dice = threading.Event(), random.Random(0)
    domains = [load.books.lookupByName(vm) for vm in load.vms]

    def change() -> None:
        while not ended.wait(1 / CHANGES_PER_S):
            domain = dice.choice(domains)
            (domain.suspend if domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING else domain.resume)()

    with ThreadPoolExecutor(1) as hand:
        changing = hand.submit(change)
        try:
            yield
        finally:
            ended.set()
            changing.result()


# --- the agent's metrics ---------------------------------------------------------------------------------------------


class Gauge:
    """Reads the agent's metrics many times a second, as a context manager."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauge", daemon=True)
        self._events: list[tuple[float, int]] = []
        """The times of the answers, and the number of libvirt's event callbacks until then."""
        self.depth = 0.0

    def __enter__(self) -> Gauge:
        self._read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def lag_s(self, done_s: list[float]) -> float:
        """The maximum age of the oldest event that had not been called back yet."""
        begin = self._events[0][1]
        lags = [0.0]
        for answered_s, events in self._events:
            heard = events - begin
            if heard < bisect_right(done_s, answered_s):
                lags.append(answered_s - done_s[heard])
        return max(lags)

    def _run(self) -> None:
        while not self._ended.wait(WATCH_INTERVAL_S):
            self._read()

    def _read(self) -> None:
        found = samples(self._agent, "virtsync_libvirt_events_total", "workqueue_depth")
        self._events.append((time.monotonic(), int(found["virtsync_libvirt_events_total"])))
        self.depth = max(self.depth, found["workqueue_depth"])
