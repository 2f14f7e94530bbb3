"""Code that the measurements share: the objects, the watch, and the resources of a process."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import NAMESPACE_URL, uuid5

import libvirt
from rich.console import Console

from lab import LabError
from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / "build" / "installed" / "bin" / "python"
"""Python with the packages of an installed agent. In a development environment, structlog finds rich and imports it,
which takes 3.5 MiB and 0.1 s more."""
NODE = "bench"
API = "virtsync.dev/v1alpha1"
COLLECTION = f"/apis/{API}/namespaces/default/virtualmachines"
HANG_LIMIT_S = 120
POLL_INTERVAL_S = 0.02
WRITERS = 4
"""The threads that create objects, each with its own connection."""

TEST_DOMAIN = """
<domain type='test'>
  <name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>4</memory><vcpu>1</vcpu><os><type>hvm</type></os>
</domain>"""
WRITES = re.compile(
    r'^apiserver_request_total\{.*resource="virtualmachines".*verb="(?:APPLY|PATCH|POST|PUT)".*\} (\S+)$', re.MULTILINE
)
READS = re.compile(
    r'^apiserver_request_total\{.*resource="virtualmachines".*verb="(?:GET|LIST)".*\} (\S+)$', re.MULTILINE
)
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

Json = dict[str, Any]
Told = tuple[str, str]
"""powerState, and the reason of Ready."""

# Results are printed to standard output; progress is printed here.
progress = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Lab:
    """The real parts that all measurements run on."""

    folder: Path
    controlplane: ControlPlane
    libvirtd: Libvirtd


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print the step, and how long it took."""
    began_s = time.monotonic()
    with progress.status(what):
        yield
    progress.print(f"{time.monotonic() - began_s:6.1f} s  {what}")


def until(holds: Callable[[], bool], what: str, *, timeout_s: float = HANG_LIMIT_S) -> float:
    """Wait until this holds; the monotonic time of that observation. LabError if it does not hold in time."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline_s:
            raise LabError(f"{what}: not within {timeout_s:g} s.")
        time.sleep(POLL_INTERVAL_S)
    return time.monotonic()


def percentile(values: list[float], percent: int) -> float:
    """The percentile: the value that this many percent of the values do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


# --- the API server --------------------------------------------------------------------------------------------------


def connect(controlplane: ControlPlane) -> http.client.HTTPSConnection:
    """A connection to the API server."""
    context = ssl.create_default_context(cafile=controlplane.ca)
    return http.client.HTTPSConnection(controlplane.url.removeprefix("https://"), context=context)


def ask(
    connection: http.client.HTTPSConnection,
    controlplane: ControlPlane,
    method: str,
    path: str,
    body: Json | None = None,
) -> bytes:
    """Send one request as the administrator; its answer. LabError if it is refused."""
    merge = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
    headers = {"Authorization": f"Bearer {controlplane.token}", "Content-Type": "application/json"} | merge
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status >= http.HTTPStatus.BAD_REQUEST:
        raise LabError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
    return text


def create_objects(controlplane: ControlPlane, specs: Mapping[str, Json]) -> None:
    """Create an object for each name, with its spec; in parallel, because kubectl would take minutes for a thousand."""

    def create(part: list[str]) -> None:
        connection = connect(controlplane)
        for name in part:
            vm = {"apiVersion": API, "kind": "VirtualMachine", "metadata": {"name": name}, "spec": specs[name]}
            ask(connection, controlplane, "POST", COLLECTION, vm)
        connection.close()

    names = list(specs)
    with ThreadPoolExecutor(WRITERS) as writers:
        list(writers.map(create, (names[n::WRITERS] for n in range(WRITERS))))


def statuses(controlplane: ControlPlane) -> dict[str, Json]:
    """The status of each object that has one, by name."""
    connection = connect(controlplane)
    items = json.loads(ask(connection, controlplane, "GET", COLLECTION))["items"]
    connection.close()
    return {item["metadata"]["name"]: item["status"] for item in items if item.get("status")}


def observed(names: Iterable[str]) -> dict[str, Json]:
    """Specs that bind objects to the agent's node without a desired power state, so the agent only reports."""
    return {name: {"nodeName": NODE} for name in names}


def delete_objects(controlplane: ControlPlane) -> None:
    """Delete all objects, and return when they are gone."""
    connection = connect(controlplane)
    ask(connection, controlplane, "DELETE", COLLECTION)
    until(
        lambda: not json.loads(ask(connection, controlplane, "GET", f"{COLLECTION}?limit=1"))["items"],
        "the objects are gone",
    )
    connection.close()


@dataclass(frozen=True, slots=True)
class Requests:
    """The API server's request counters for VirtualMachines, over all clients."""

    writes: float
    reads: float

    @classmethod
    def of(cls, controlplane: ControlPlane) -> Requests:
        """The requests until now."""
        text = controlplane.kubectl("get", "--raw", "/metrics").stdout
        return cls(*(sum(map(float, one.findall(text))) for one in (WRITES, READS)))

    def __sub__(self, earlier: Requests) -> Requests:
        return Requests(self.writes - earlier.writes, self.reads - earlier.reads)


@dataclass(slots=True)
class _Shown:
    told: Told
    at_s: float
    """When the watch first showed this."""


class Board:
    """The status of each VM in a watch, and since when. A context manager; it survives restarts of the API server."""

    def __init__(self, controlplane: ControlPlane) -> None:
        self._controlplane = controlplane
        self._lock = threading.Lock()
        self._shown: dict[str, _Shown] = {}
        self.versions = 0
        """The number of object versions from the watch."""
        self._closing = threading.Event()
        self._open()
        self._thread = threading.Thread(target=self._watch, name="board", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        while self._thread.is_alive():
            if connection := self._connection.sock:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._thread.join(POLL_INTERVAL_S)

    def wrong(self, expected: Mapping[str, Told]) -> list[str]:
        """The VMs whose status differs from this."""
        with self._lock:
            return [vm for vm, told in expected.items() if vm not in self._shown or self._shown[vm].told != told]

    def reason(self, vm: str) -> str:
        """The VM's reason of Ready, or an empty string."""
        with self._lock:
            return self._shown[vm].told[1] if vm in self._shown else ""

    def right_since_s(self, expected: Mapping[str, Told], *, timeout_s: float = HANG_LIMIT_S) -> float:
        """Wait until all VMs have this status; the monotonic time of the last line that was necessary."""
        deadline_s = time.monotonic() + timeout_s
        while wrong := self.wrong(expected):
            if time.monotonic() > deadline_s:
                with self._lock:
                    told = [f"{vm}: {self._shown.get(vm)}, not {expected[vm]}" for vm in wrong[:5]]
                raise LabError("\n".join((f"{len(wrong)} statuses are wrong after {timeout_s:g} s:", *told)))
            time.sleep(POLL_INTERVAL_S)
        with self._lock:
            return max(self._shown[vm].at_s for vm in expected)

    def first_s(self, vms: Iterable[str], told: Told) -> float:
        """The monotonic time at which the first of these VMs had this status."""
        with self._lock:
            return min(self._shown[vm].at_s for vm in vms if vm in self._shown and self._shown[vm].told == told)

    def _open(self) -> None:
        self._connection = connect(self._controlplane)
        self._connection.request(
            "GET",
            f"{COLLECTION}?watch=true&timeoutSeconds=3600",
            headers={"Authorization": f"Bearer {self._controlplane.token}"},
        )
        self._answer = self._connection.getresponse()
        if self._answer.status != http.HTTPStatus.OK:  # an API server that has only just been started
            raise ConnectionRefusedError(self._answer.status)

    def _watch(self) -> None:
        while not self._closing.is_set():
            with suppress(OSError, http.client.HTTPException):
                for line in self._answer:
                    self._take(line, time.monotonic())
            self._connection.close()
            # A new connection first shows all existing objects.
            while not self._closing.wait(POLL_INTERVAL_S):
                with suppress(OSError, http.client.HTTPException):
                    self._open()
                    break

    def _take(self, line: bytes, at_s: float) -> None:
        if not line.endswith(b"\n"):  # what a killed API server had still to say
            return
        change = json.loads(line)
        vm, status = change["object"], change["object"].get("status", {})
        ready: Json = next((one for one in status.get("conditions", ()) if one["type"] == "Ready"), {})
        told = status.get("powerState", ""), ready.get("reason", "")
        name = vm["metadata"]["name"]
        with self._lock:
            self.versions += change["type"] == "MODIFIED"
            if change["type"] == "DELETED":
                self._shown.pop(name, None)
            elif name not in self._shown or self._shown[name].told != told:
                self._shown[name] = _Shown(told, at_s)


# --- the agent, from outside -----------------------------------------------------------------------------------------


def agent_on(
    lab: Lab,
    uri: str,
    log: str,
    *,
    kubeconfig: Path | None = None,
    module: str = "controller",
    env: Mapping[str, str] | None = None,
    **settings: str,
) -> Agent:
    """An agent for the bench's node, not started; with default settings except the named ones."""
    return Agent(
        lab.controlplane,
        uri,
        NODE,
        log=lab.folder / f"{log}.log",
        settings={name.replace("_", "-"): value for name, value in settings.items()},
        kubeconfig=kubeconfig,
        module=module,
        python=INSTALLED,
        env=env,
    )


def samples(agent: Agent, *names: str) -> dict[str, float]:
    """These metric series, with labels or summed over them. Requests only these, because each VM has a dozen."""
    asked = {name.partition("{")[0] for name in names}
    text = agent.ask("/metrics?" + "&".join(f"name[]={name}" for name in asked))[1]
    found = dict.fromkeys(names, 0.0)
    for line in text.splitlines():
        series, _, value = line.rpartition(" ")
        for name in {series, series.partition("{")[0]} & found.keys():
            found[name] += float(value)
    return found


def memory_mib(pid: int, what: str = "VmRSS") -> float:
    """The resident memory of a process: now, its maximum (VmHWM), or what no other process can share (RssAnon)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)[0]) / 1024


def cpu_s(pid: int) -> float:
    """The CPU time that a process has used until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def busy_s() -> float:
    """The CPU time that all processes of the machine have used until now, and the kernel for them."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / CLOCK_TICKS


# --- libvirt ---------------------------------------------------------------------------------------------------------


def start_on_test_driver(connection: libvirt.virConnect, names: Iterable[str]) -> None:
    """Define and start domains of the test driver; each name always has the same UUID."""
    for name in names:
        connection.defineXML(TEST_DOMAIN.format(name=name, uuid=uuid5(NAMESPACE_URL, name))).create()


def floor_command(*words: str) -> list[str]:
    """The command that runs `floor.py`."""
    return [sys.executable, "-m", "bench.floor", *words]
