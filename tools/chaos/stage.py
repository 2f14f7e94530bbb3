"""The stage of the chaos: a control plane, two nodes with a libvirtd and an agent each, VMs and their objects."""

import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import NAMESPACE_URL, UUID, uuid5

import libvirt

from chaos.judge import RECORDED_S, Answer, Judge, Span, Verdict, answers, calls
from kubernetes import client, config
from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.processes import paused
from lab.proxy import Proxy

CRDS = Path(__file__).parents[2] / "deploy" / "crds"
NAMESPACE = "chaos"
Json = dict[str, Any]

DRIVERS = {"node-qemu": "qemu", "node-test": "test"}
GROUP = ("virtsync.dev", "v1alpha1", NAMESPACE, "virtualmachines")
HANG_LIMIT_S = 60
# As short as an answer to chaos that goes on for seconds must be, and relists often enough to be part of it.
SETTINGS = {
    "settle-power": "1s",
    "settle-pause": "2s",
    "brake-window": "2s",
    "brake-hold": "3s",
    "backoff-first": "500ms",
    "backoff-max": "3s",
    "backoff-forget": "5s",
    "acpi-resend": "1s",
    "force-wait": "1s",
    "start-parallel": "4",
    "start-interval": "20ms",
    "schedule-confirm": "1s",
    "resync-libvirt": "15s",
    "resync-api": "30s",
    "boot-id": "chaos",
}
CLOCK = Path(__file__).with_name("clock.c")
TEST_DOMAIN = """
<domain type='test'>
  <name>{name}</name><uuid>{uuid}</uuid><memory unit='KiB'>1024</memory><vcpu>1</vcpu><os><type>hvm</type></os>
</domain>"""


@dataclass(frozen=True, slots=True)
class Vm:
    """A domain and the object of the same name."""

    name: str
    node: str
    uuid: UUID
    guest: Guest | None = None


@dataclass(slots=True)
class Footprint:
    """What a process has of what could leak."""

    threads: int
    descriptors: int
    rss_mib: float


@dataclass
class Stage:
    """All that the chaos plays with. Any thread may use it; use it as a context manager."""

    folder: Path
    module: str = "controller"
    """What the agents run."""
    qemu_vms: int = 20
    test_vms: int = 200
    vms: list[Vm] = field(default_factory=list)

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            self.controlplane = ends.enter_context(ControlPlane(self.folder / "controlplane", audited=True))
            self.libvirtds = {
                node: ends.enter_context(Libvirtd(self.folder / driver, logged=True))
                for node, driver in DRIVERS.items()
            }
            self._lock = threading.Lock()
            self._told: list[Answer] = []
            self._own: dict[tuple[str, str], list[Span]] = {}
            self._frozen: list[Span] = []
            self._jumped: dict[str, list[Span]] = {node: [] for node in DRIVERS}
            self._offsets = dict.fromkeys(("audit", *DRIVERS), 0)
            self._clock = self.folder / "clock.so"
            subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", self._clock, CLOCK], check=True)
            self._prepare_api()
            self._uris = {"node-qemu": self.qemu.uri, "node-test": self.libvirtds["node-test"].test_uri}
            ends.callback(self._close_books)
            self._books: libvirt.virConnect | None = None
            self._define()
            self.proxies: dict[str, Proxy] = {}
            self.agents: dict[str, Agent] = {}
            self.users: dict[str, str] = {}
            for node in DRIVERS:
                self._add_agent(node, ends)
            self._apply()
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    @property
    def qemu(self) -> Libvirtd:
        """The libvirtd whose domains are QEMUs."""
        return self.libvirtds["node-qemu"]

    # --- objects

    def patch(self, vm: Vm, patch: Json) -> None:
        """Merge into an object, as a user."""
        self.api.patch_namespaced_custom_object(
            *GROUP, vm.name, patch, _content_type="application/merge-patch+json", _request_timeout=(2, 5)
        )

    def recreate(self, vm: Vm) -> None:
        """Delete an object and create it again, as Git does."""
        spec = self.get(vm)["spec"]
        self.api.delete_namespaced_custom_object(*GROUP, vm.name, _request_timeout=(2, 5))
        self.create(vm, spec)

    def create(self, vm: Vm, spec: Json) -> None:
        """Create the object of a VM."""
        body = {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": vm.name}}
        self.api.create_namespaced_custom_object(*GROUP, body | {"spec": spec}, _request_timeout=(2, 5))

    def get(self, vm: Vm) -> Json:
        """The object of a VM."""
        got: Json = self.api.get_namespaced_custom_object(*GROUP, vm.name, _request_timeout=(2, 5))
        return got

    def objects(self) -> dict[str, Json]:
        """All objects by name."""
        items: list[Json] = self.api.list_namespaced_custom_object(*GROUP, _request_timeout=(2, 30))["items"]
        return {item["metadata"]["name"]: item for item in items}

    # --- domains

    @contextmanager
    def domain(self, vm: Vm) -> Iterator[libvirt.virDomain]:
        """The domain of a VM, on a connection of its own."""
        connection = libvirt.open(self._uris[vm.node])
        try:
            yield connection.lookupByUUID(vm.uuid.bytes)
        finally:
            connection.close()

    @contextmanager
    def own_call(self, name: str, vm: Vm) -> Iterator[None]:
        """Within it, one call of libvirt by this name about this domain is ours, if libvirtd has heard of it."""
        begin_s = time.time()
        try:
            yield
        finally:
            with self._lock:
                self._own.setdefault((name, str(vm.uuid)), []).append(Span(begin_s, time.time()))

    def domains(self) -> dict[str, tuple[int, int, bool]]:
        """State, reason and whether memory is saved, of each domain by its name."""
        seen = {}
        for uri in self._uris.values():
            connection = libvirt.open(uri)
            try:
                for domain, stats in connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE):
                    saved = bool(domain.hasManagedSaveImage())
                    seen[domain.name()] = (stats["state.state"], stats["state.reason"], saved)
            finally:
                connection.close()
        return seen

    def define_test_domains(self) -> None:
        """Define those that the test driver does not know: it forgets with its last connection."""
        self._close_books()
        self._books = libvirt.open(self._uris["node-test"])
        known = {domain.UUIDString() for domain in self._books.listAllDomains()}
        for vm in self.vms:
            if vm.node == "node-test" and str(vm.uuid) not in known:
                self._books.defineXML(TEST_DOMAIN.format(name=vm.name, uuid=vm.uuid))

    # --- faults

    @contextmanager
    def freezing(self, *pids: int) -> Iterator[None]:
        """Processes that are there and do nothing; that time counts for nobody."""
        begin_s = time.time()
        try:
            with paused(*pids):
                yield
        finally:
            with self._lock:
                self._frozen.append(Span(begin_s, time.time()))

    @contextmanager
    def jumping(self, node: str, by_s: int) -> Iterator[None]:
        """The wall clock of a node's agent is wrong by so much."""
        begin_s = time.time()
        self._put_clock(node, by_s)
        try:
            yield
        finally:
            self._put_clock(node, 0)
            with self._lock:
                self._jumped[node].append(Span(begin_s, time.time()))

    def _put_clock(self, node: str, wrong_by_s: int) -> None:
        # In place: the agent has it mapped.
        with self._clock_of(node).open("r+b") as clock:
            clock.write(struct.pack("q", wrong_by_s))

    def _clock_of(self, node: str) -> Path:
        return self.folder / f"clock-{node}"

    # --- what is judged

    def footprint(self, node: str) -> Footprint:
        """What the agent of a node has now."""
        proc = Path(f"/proc/{self.agents[node].pid}")
        rss_kib = next(line.split()[1] for line in (proc / "status").read_text().splitlines() if "VmRSS" in line)
        return Footprint(len(list((proc / "task").iterdir())), len(list((proc / "fd").iterdir())), int(rss_kib) / 1024)

    def verdicts(self) -> list[Verdict]:
        """A verdict on each act of the agents since the last time; to be called when all is quiet."""
        # The calls first: what an agent was answered before each of them is then on record, or will be in a moment.
        made = {}
        for node, libvirtd in self.libvirtds.items():
            made[node], self._offsets[node] = calls(libvirtd.calls_log, self._offsets[node])
        time.sleep(RECORDED_S)
        told, self._offsets["audit"] = answers(self.controlplane.audit_log, self.users.values(), self._offsets["audit"])
        with self._lock:
            own, self._own = self._own, {}
            frozen = list(self._frozen)
        verdicts: list[Verdict] = []
        for node, driver in DRIVERS.items():
            answered = [answer for answer in (*self._told, *told) if answer.user == self.users[node]]
            verdicts += Judge(node, driver).verdicts(
                made[node], own, answered, frozen=frozen, jumped=self._jumped[node]
            )
        # Acts that came meanwhile are judged the next time, by these as well.
        self._told = told
        return verdicts

    # --- setting it up

    def _prepare_api(self) -> None:
        controlplane = self.controlplane
        controlplane.kubectl("apply", "-f", str(CRDS))
        controlplane.kubectl("wait", "crd/virtualmachines.virtsync.dev", "--for=condition=Established", "--timeout=60s")
        controlplane.kubectl("create", "namespace", NAMESPACE)
        connected = config.new_client_from_config(str(controlplane.kubeconfig), persist_config=False)
        self.api: Any = client.CustomObjectsApi(connected)

    def _define(self) -> None:
        for number in range(self.qemu_vms):
            # A few preserve what crashed, a few reboot where others go off, a few have a disk that is too small.
            guest = self.qemu.define(
                f"qemu-{number}", on_crash="preserve" if number % 7 == 3 else "destroy", disk=number % 10 == 5
            )
            self.vms.append(Vm(guest.name, "node-qemu", guest.uuid, guest))
        for number in range(self.test_vms):
            name = f"test-{number}"
            self.vms.append(Vm(name, "node-test", uuid5(NAMESPACE_URL, name)))
        self.define_test_domains()

    def _add_agent(self, node: str, ends: ExitStack) -> None:
        port = int(self.controlplane.url.rpartition(":")[2])
        self.proxies[node] = proxy = ends.enter_context(Proxy(port))
        account = self.controlplane.service_account("virtsync", node, cluster_role="cluster-admin")
        self._clock_of(node).write_bytes(struct.pack("q", 0))
        self.users[node] = f"system:serviceaccount:virtsync:{node}"
        agent = Agent(
            self.controlplane,
            self._uris[node],
            node,
            log=self.folder / f"agent-{node}.log",
            settings=SETTINGS,
            kubeconfig=proxy.kubeconfig(account),
            module=self.module,
            env={"LD_PRELOAD": str(self._clock), "CHAOS_CLOCK": str(self._clock_of(node))},
        )
        self.agents[node] = agent
        ends.callback(agent.stop)

    def _apply(self) -> None:
        for vm in self.vms:
            self.create(vm, {"nodeName": vm.node, "powerState": "Running", "shutdown": {"gracePeriodSeconds": 3}})
        for agent in self.agents.values():
            agent.start()

    def _close_books(self) -> None:
        if self._books is not None:
            with suppress(libvirt.libvirtError):
                self._books.close()
            self._books = None


def condition(vm: Json) -> Json:
    """The condition Ready."""
    conditions: list[Json] = vm.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == "Ready"), {})
