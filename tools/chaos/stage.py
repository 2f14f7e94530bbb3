"""The stage of the chaos: a control plane, three nodes with a libvirtd and an agent each, managers, VMs, objects."""

import json
import shutil
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from os import kill
from pathlib import Path
from typing import Any, Self
from uuid import NAMESPACE_URL, UUID, uuid5

import libvirt

from chaos.audit import Answer, Json, Span, answers, whole_lines
from chaos.certificates import LIFE_S, Certificates
from chaos.judge import RECORDED_S, Call, Judge, Verdict, by_whom, calls
from chaos.marks import Marks
from chaos.orders import LEASE_S, Orders
from chaos.relay import Relay
from chaos.runs import DoubleRun, Runs
from chaos.starts import Starts
from chaos.stories import NotReachedError
from chaos.wire import Wire
from kubernetes import client, config
from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.manager import Manager
from lab.processes import paused
from lab.program import Program
from lab.proxy import Proxy

NAMESPACE = "chaos"
OURS = "virtsync"
"""The namespace of the agents, of the managers and of their Leases."""

DRIVERS = {"node-a": "qemu", "node-b": "qemu", "node-test": "test"}
QEMU_NODES = ("node-a", "node-b")
MANAGERS = ("manager-a", "manager-b")
LOGS_IN_BY_CERTIFICATE = "node-b"
GROUP = ("virtsync.dev", "v1alpha1", NAMESPACE, "virtualmachines")
HYPERVISORS = ("virtsync.dev", "v1alpha1", "hypervisors")
HANG_LIMIT_S = 60
# Short waits, because the chaos lasts only seconds, and frequent relists, so that they are part of it.
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
    "boot-id": "boot-0",
    "lease-namespace": OURS,
    "lease-duration": f"{LEASE_S:g}s",
}
CLOCK = Path(__file__).with_name("clock.c")
TEST_DOMAIN = """
<domain type='test'>
  <name>{name}</name><uuid>{uuid}</uuid><memory unit='KiB'>1024</memory><vcpu>1</vcpu><os><type>hvm</type></os>
</domain>"""


@dataclass(slots=True, eq=False)
class Vm:
    """A domain and the object of the same name."""

    name: str
    node: str
    """The node that the object is bound to, or will be bound to in the quiet phase."""
    uuid: UUID
    guests: dict[str, Guest] = field(default_factory=dict)
    """The guests by the node on which they are defined; none on the test driver."""
    vouched: str = ""
    """The node in the last confirmation (the annotation virtsync.dev/confirmed-off), which stays on the object."""

    @property
    def guest(self) -> Guest | None:
        """The guest on the node that the VM is bound to."""
        return self.guests.get(self.node)

    @property
    def moves(self) -> bool:
        """Whether the VM is defined on both nodes, as on shared storage; only agents start it."""
        return len(self.guests) > 1

    @property
    def other_node(self) -> str:
        """The node that the VM can move to."""
        return next(node for node in self.guests if node != self.node)


@dataclass(frozen=True, slots=True)
class Guilt:
    """A double run, and the action that began it; None: not an agent's action."""

    double: DoubleRun
    act: Verdict | None


@dataclass(slots=True)
class Footprint:
    """The resources of a process that could leak."""

    threads: int
    descriptors: int
    rss_mib: float


@dataclass
class Stage:
    """All parts of the chaos. Any thread may use it; use it as a context manager."""

    folder: Path
    module: str = "controller"
    """The Python module that the agents run."""
    qemu_vms: int = 14
    """The number of VMs on node-a only."""
    moving_vms: int = 8
    """The number of VMs that are defined on node-a and on node-b, with the same UUID."""
    test_vms: int = 150
    certificate_life_s: float = LIFE_S
    """The validity of the client certificate with which one of the agents logs in."""
    vms: list[Vm] = field(default_factory=list)
    old_vouchings: int = 0
    """How many running VMs were handed over while an old confirmation for their node was still on the object."""

    unseen_migrations: int = 0
    """How many migrations that no agent has seen were listed by a manager before the agent came back."""

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            self.certificates = ends.enter_context(
                Certificates(
                    self.folder / "certificates", f"virtsync-{LOGS_IN_BY_CERTIFICATE}", self.certificate_life_s
                )
            )
            self.controlplane = ends.enter_context(
                ControlPlane(self.folder / "controlplane", audited=True, client_ca=self.certificates.ca)
            )
            self.starts = {node: Starts(self.folder / node) for node in QEMU_NODES}
            for starts in self.starts.values():
                starts.install()
            self.libvirtds = {node: ends.enter_context(Libvirtd(self.folder / node, logged=True)) for node in DRIVERS}
            self.wires = {node: ends.enter_context(Wire(libvirtd.socket)) for node, libvirtd in self.libvirtds.items()}
            self.runs = ends.enter_context(Runs({node: self.libvirtds[node] for node in QEMU_NODES}))
            self._lock = threading.Lock()
            self._told: list[Answer] = []
            self._own: dict[str, dict[tuple[str, str], list[Span]]] = {node: {} for node in DRIVERS}
            self._frozen: list[Span] = []
            self._jumped: dict[str, list[Span]] = {node: [] for node in DRIVERS}
            self._wrong_since_s: dict[str, float] = {}
            self._suspended: list[Span] = []
            self._stalled: dict[str, list[Span]] = {name: [] for name in (*DRIVERS, *MANAGERS)}
            self.orders = {node: Orders() for node in DRIVERS}
            self.marks = Marks()
            self._judges = {
                node: Judge(node, driver, self.orders[node], self.marks) for node, driver in DRIVERS.items()
            }
            self._made: dict[str, list[Call]] = {node: [] for node in DRIVERS}
            self._acts: dict[str, list[Verdict]] = {node: [] for node in DRIVERS}
            self._offsets = dict.fromkeys(("audit", *DRIVERS), 0)
            self._logs_read = dict.fromkeys((*DRIVERS, *MANAGERS), 0)
            self._boots = dict.fromkeys(DRIVERS, 0)
            self._clock = self.folder / "clock.so"
            subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", self._clock, CLOCK], check=True)
            self._prepare_api()
            ends.callback(self._close_books)
            self._books: libvirt.virConnect | None = None
            self._define()
            self.proxies: dict[str, Proxy] = {}
            self.relays: dict[str, Relay] = {}
            self.agents: dict[str, Agent] = {}
            self.managers: dict[str, Manager] = {}
            self.users: dict[str, str] = {}
            """The user of each agent, by node, and of each manager."""
            for node in DRIVERS:
                self._add_agent(node, ends)
            for name in MANAGERS:
                self._add_manager(name, ends)
            self._apply()
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    # --- objects

    def patch(self, vm: Vm, patch: Json) -> None:
        """Patch an object, as a user."""
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
        """All VirtualMachines by name."""
        items: list[Json] = self.api.list_namespaced_custom_object(*GROUP, _request_timeout=(2, 30))["items"]
        return {item["metadata"]["name"]: item for item in items}

    def declare(self, node: str, maintenance: Json | None) -> None:
        """Declare or end a maintenance of a node."""
        self.api.patch_cluster_custom_object(
            *HYPERVISORS,
            node,
            {"spec": {"maintenance": maintenance}},
            _content_type="application/merge-patch+json",
            _request_timeout=(2, 5),
        )

    def hypervisor(self, node: str) -> Json:
        """The Hypervisor of a node."""
        got: Json = self.api.get_cluster_custom_object(*HYPERVISORS, node, _request_timeout=(2, 5))
        return got

    def runs_elsewhere(self, vm: Vm, node: str) -> Json | None:
        """The entry of this VM in the list of the VMs that run elsewhere, of this node."""
        entries: list[Json] = self.hypervisor(node).get("status", {}).get("runsElsewhere", [])
        return next((entry for entry in entries if entry["uuid"] == str(vm.uuid)), None)

    # --- domains

    def uri(self, node: str) -> str:
        """The URI of a node's libvirt for all clients but its agent."""
        libvirtd = self.libvirtds[node]
        return libvirtd.uri if DRIVERS[node] == "qemu" else libvirtd.test_uri

    def where(self, vm: Vm) -> str:
        """The node on which the VM runs, or otherwise the node that it is bound to."""
        return next((run.node for run in self.runs.of(vm.uuid)), vm.node) if vm.guests else vm.node

    def qemu_pids(self, vm: Vm) -> list[int]:
        """The processes of the VM's QEMUs."""
        return [run.pid for run in self.runs.of(vm.uuid)]

    @contextmanager
    def domain(self, vm: Vm, node: str) -> Iterator[libvirt.virDomain]:
        """The domain of a VM on a node, on a new connection."""
        connection = libvirt.open(self.uri(node))
        try:
            yield connection.lookupByUUID(vm.uuid.bytes)
        finally:
            connection.close()

    @contextmanager
    def own_call(self, name: str, vm: Vm, node: str) -> Iterator[None]:
        """During this, one libvirt call of this name about this domain is ours, if it reached libvirtd."""
        begin_s = time.time()
        try:
            yield
        finally:
            with self._lock:
                self._own[node].setdefault((name, str(vm.uuid)), []).append(Span(begin_s, time.time()))

    def domains(self) -> dict[tuple[str, str], tuple[int, int, bool]]:
        """State, reason and whether memory is saved, for each domain by node and name."""
        seen = {}
        for node in DRIVERS:
            connection = libvirt.open(self.uri(node))
            try:
                for domain, stats in connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE):
                    saved = bool(domain.hasManagedSaveImage())
                    seen[node, domain.name()] = (stats["state.state"], stats["state.reason"], saved)
            finally:
                connection.close()
        return seen

    def migrate(self, vm: Vm, source: str, target: str) -> None:
        """Migrate a running VM, as an administrator. Raises NotReachedError if libvirt refuses."""
        words = ("migrate", "--live", "--unsafe", vm.name, self.uri(target), "--migrateuri", "tcp://127.0.0.1")
        done = self.libvirtds[source].virsh(*words, check=False)
        if done.returncode:
            raise NotReachedError(f"{vm.name} was not migrated: {done.stderr}")

    def define_test_domains(self) -> None:
        """Define the domains that the test driver lacks: it loses its state when its last connection closes."""
        self._close_books()
        self._books = libvirt.open(self.uri("node-test"))
        known = {domain.UUIDString() for domain in self._books.listAllDomains()}
        for vm in self.vms:
            if vm.node == "node-test" and str(vm.uuid) not in known:
                self._books.defineXML(TEST_DOMAIN.format(name=vm.name, uuid=vm.uuid))

    # --- faults

    @property
    def programs(self) -> dict[str, Program]:
        """The agents by node, and the managers by name."""
        return {**self.agents, **self.managers}

    def launch(self, name: str, **changes: str) -> None:
        """Start an agent or a manager again."""
        if name in self.orders:
            with self._lock:
                self.orders[name].launches.append(time.time())
        self.programs[name].launch(**changes)

    def kill_libvirtd(self, node: str) -> None:
        """Kill a libvirtd; its QEMUs keep running."""
        self.libvirtds[node].kill()
        self.wires[node].down()

    def start_libvirtd(self, node: str) -> None:
        """Start a libvirtd again; the test driver has lost its domains, so they are redefined."""
        self.libvirtds[node].start()
        self.wires[node].up()
        if DRIVERS[node] == "test":
            self.define_test_domains()

    def cut_power(self, node: str) -> None:
        """Kill the agent, libvirtd and all QEMUs of a node; when this returns, nothing runs there."""
        self.agents[node].kill()
        self.kill_libvirtd(node)
        while pids := self.libvirtds[node].orphans():
            for pid in pids:
                with suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
            time.sleep(RECORDED_S)
        self.starts[node].forget()

    def boot(self, node: str) -> None:
        """Start libvirtd and the agent of a node after a power failure: /run is empty, and the boot id is new."""
        self._boots[node] += 1
        shutil.rmtree(self.libvirtds[node].socket.parent / "qemu", ignore_errors=True)
        self.start_libvirtd(node)
        self.launch(node, boot_id=f"boot-{self._boots[node]}")

    @contextmanager
    def freezing(self, *pids: int) -> Iterator[None]:
        """Stop these processes (SIGSTOP) for a while; the judge does not count that time."""
        begin_s = time.time()
        try:
            with paused(*pids):
                yield
        finally:
            with self._lock:
                self._frozen.append(Span(begin_s, time.time()))

    @contextmanager
    def stalling(self, name: str) -> Iterator[None]:
        """Let the network between an agent or a manager and the API server drop everything for a while."""
        begin_s = time.time()
        self.proxies[name].stall()
        try:
            yield
        finally:
            self.proxies[name].pass_on()
            with self._lock:
                self._stalled[name].append(Span(begin_s, time.time()))

    @contextmanager
    def suspending(self, name: str) -> Iterator[None]:
        """Stop a manager (SIGSTOP) for a while."""
        begin_s = time.time()
        try:
            with paused(self.managers[name].pid):
                yield
        finally:
            with self._lock:
                self._suspended.append(Span(begin_s, time.time()))

    @contextmanager
    def jumping(self, node: str, by_s: int) -> Iterator[None]:
        """During this, the wall clock of a node's agent is wrong by `by_s`."""
        self.set_clock(node, by_s)
        try:
            yield
        finally:
            self.set_clock(node, 0)

    def set_clock(self, node: str, wrong_by_s: int) -> None:
        """Make the wall clock of a node's agent wrong by `by_s` from now on."""
        self._put_clock(node, wrong_by_s)
        with self._lock:
            since_s = self._wrong_since_s.pop(node, None)
            if since_s is not None:
                self._jumped[node].append(Span(since_s, time.time()))
            if wrong_by_s:
                self._wrong_since_s[node] = time.time()

    def _put_clock(self, node: str, wrong_by_s: int) -> None:
        # In place, because the agent has mapped the file.
        self._clock_of(node).touch()
        with self._clock_of(node).open("r+b") as clock:
            clock.write(struct.pack("q", wrong_by_s))

    def _clock_of(self, node: str) -> Path:
        return self.folder / f"clock-{node}"

    # --- for the judge

    def errors(self, name: str) -> list[str]:
        """The internal errors that an agent or a manager has logged since the last call."""
        lines, self._logs_read[name] = whole_lines(self.programs[name].log, self._logs_read[name])
        told = [json.loads(line) for line in lines if line.startswith("{") and '"error"' in line]
        return [line["event"] for line in told if line["level"] == "error" and line["logger"].startswith("controller")]

    def footprint(self, name: str) -> Footprint:
        """The current resources of an agent or a manager."""
        proc = Path(f"/proc/{self.programs[name].pid}")
        rss_kib = next(line.split()[1] for line in (proc / "status").read_text().splitlines() if "VmRSS" in line)
        return Footprint(len(list((proc / "task").iterdir())), len(list((proc / "fd").iterdir())), int(rss_kib) / 1024)

    def verdicts(self) -> tuple[list[Verdict], list[Guilt]]:
        """A verdict on each action of the agents, and the double runs, since the last call; only for quiet phases."""
        doubles = self.runs.doubles()
        # Read the calls first: the answer before each of them is then in the log, or will be in a moment.
        made = {}
        for node, libvirtd in self.libvirtds.items():
            made[node], self._offsets[node] = calls(libvirtd.calls_log, self._offsets[node])
        time.sleep(RECORDED_S)
        lost = {audit_id for relay in self.relays.values() for audit_id in relay.lost}
        told, self._offsets["audit"] = answers(
            self.controlplane.audit_log, self.users.values(), self._offsets["audit"], lost=lost
        )
        with self._lock:
            own, self._own = self._own, {node: {} for node in DRIVERS}
            frozen, suspended = list(self._frozen), list(self._suspended)
            stalled = {name: list(spans) for name, spans in self._stalled.items()}
        self._note(told, suspended)
        acts = {}
        for node, judge in self._judges.items():
            answered = [answer for answer in (*self._told, *told) if answer.user == self.users[node]]
            acts[node] = list(
                judge.verdicts(
                    made[node], own[node], answered, frozen=frozen, jumped=self._jumps_of(node), stalled=stalled[node]
                )
            )
        guilt = [
            Guilt(
                double,
                by_whom(
                    double,
                    [*self._made[double.second.node], *made[double.second.node]],
                    [*self._acts[double.second.node], *acts[double.second.node]],
                ),
            )
            for double in doubles
        ]
        # Calls that came during this are judged the next time, also with these answers.
        self._told, self._made, self._acts = told, made, acts
        return [verdict for verdicts in acts.values() for verdict in verdicts], guilt

    def _note(self, told: list[Answer], suspended: list[Span]) -> None:
        """Take in what agents have been told beside their VMs, and judge what the managers have written."""
        nodes = {self.users[node]: node for node in DRIVERS}
        for node in DRIVERS:
            self.orders[node].note(one for one in told if one.user == self.users[node] and one.name == node)
        self.marks.note_leases(told, nodes)
        self.marks.judge((one for one in told if one.user not in nodes), suspended)

    def _jumps_of(self, node: str) -> list[Span]:
        with self._lock:
            since_s = self._wrong_since_s.get(node)
            return [*self._jumped[node], *([Span(since_s, time.time())] if since_s is not None else [])]

    # --- set-up

    def _prepare_api(self) -> None:
        controlplane = self.controlplane
        controlplane.install_crds()
        controlplane.kubectl("create", "namespace", NAMESPACE)
        connected = config.new_client_from_config(str(controlplane.kubeconfig), persist_config=False)
        self.api: Any = client.CustomObjectsApi(connected)

    def _define(self) -> None:
        for number in range(self.qemu_vms):
            # A few domains are preserved after a crash, and a few have more disk than free space.
            guest = self.libvirtds["node-a"].define(
                f"qemu-{number}", on_crash="preserve" if number % 7 == 3 else "destroy", disk=number % 10 == 5
            )
            self.vms.append(Vm(guest.name, "node-a", guest.uuid, {"node-a": guest}))
        for number in range(self.moving_vms):
            name = f"moving-{number}"
            uuid = uuid5(NAMESPACE_URL, name)
            guests = {node: self.libvirtds[node].define(name, uuid=uuid) for node in QEMU_NODES}
            self.vms.append(Vm(name, QEMU_NODES[number % 2], uuid, guests))
        for number in range(self.test_vms):
            name = f"test-{number}"
            self.vms.append(Vm(name, "node-test", uuid5(NAMESPACE_URL, name)))
        self.define_test_domains()

    def _add_agent(self, node: str, ends: ExitStack) -> None:
        words = {"identity": f"pod-of-{node}"} | SETTINGS
        kubeconfig = self.controlplane.service_account(OURS, node, cluster_role="cluster-admin")
        self.users[node] = f"system:serviceaccount:{OURS}:{node}"
        if node == LOGS_IN_BY_CERTIFICATE:
            self.users[node] = f"virtsync-{node}"
            login = json.loads(kubeconfig.read_text())
            pem = str(self.certificates.pem)
            login["users"][0]["user"] = {"client-certificate": pem, "client-key": pem}
            kubeconfig.write_text(json.dumps(login))
        self._put_clock(node, 0)
        self.agents[node] = agent = Agent(
            self.controlplane,
            self.uri(node).replace(str(self.libvirtds[node].socket), str(self.wires[node].socket)),
            node,
            log=self.folder / f"agent-{node}.log",
            settings=words,
            kubeconfig=self._network(node, kubeconfig, ends),
            module=self.module,
            env={"LD_PRELOAD": str(self._clock), "CHAOS_CLOCK": str(self._clock_of(node))},
        )
        ends.callback(agent.stop)

    def _add_manager(self, name: str, ends: ExitStack) -> None:
        kubeconfig = self.controlplane.service_account(OURS, name, cluster_role="cluster-admin")
        self.users[name] = f"system:serviceaccount:{OURS}:{name}"
        self.managers[name] = manager = Manager(
            self.controlplane,
            OURS,
            name,
            log=self.folder / f"{name}.log",
            kubeconfig=self._network(name, kubeconfig, ends),
        )
        ends.callback(manager.stop)

    def _network(self, name: str, kubeconfig: Path, ends: ExitStack) -> Path:
        """A kubeconfig for the way to the API server that this client has alone, and on which faults happen."""
        port = int(self.controlplane.url.rpartition(":")[2])
        folder = self.controlplane.ca.parent
        self.relays[name] = relay = ends.enter_context(
            Relay(port, folder, self.certificates.ca, self.certificates.by_content)
        )
        self.proxies[name] = proxy = ends.enter_context(Proxy(relay.port))
        return proxy.kubeconfig(kubeconfig)

    def _apply(self) -> None:
        for vm in self.vms:
            self.create(vm, {"nodeName": vm.node, "powerState": "Running", "shutdown": {"gracePeriodSeconds": 3}})
        for name, program in self.programs.items():
            self.launch(name)
            program.wait_until_ready()

    def _close_books(self) -> None:
        if self._books is not None:
            with suppress(libvirt.libvirtError):
                self._books.close()
            self._books = None
