"""What chaos does to agents is really done, and its judge sees what there is to be seen: each part on real parts."""

import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from uuid import UUID, uuid4

import libvirt
import pytest

from chaos.audit import Answer, Json, Span, answers, overlap_s, unix_time
from chaos.certificates import Certificates
from chaos.checks import what_is_wrong_with_host, wrong_counts_of_host
from chaos.judge import Call, Judge, Verdict, by_whom, calls
from chaos.marks import Marks
from chaos.orders import Orders
from chaos.relay import Refusal, Relay
from chaos.runs import DoubleRun, Run, Runs
from chaos.starts import Starts
from chaos.wire import Wire
from lab.controlplane import COMPONENTS, ControlPlane
from lab.libvirtd import Libvirtd
from lab.processes import paused

HANG_LIMIT_S = 60
LIFE_S = 6.0
VMS = "/apis/virtsync.dev/v1alpha1/namespaces/default/virtualmachines"


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG_LIMIT_S
    while not true():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates") / "authority", "somebody", LIFE_S)


@pytest.fixture(scope="module")
def controlplane(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("controlplane"), audited=True, client_ca=certificates.ca) as running:
        running.install_crds()
        yield running


@pytest.fixture
def relay(controlplane: ControlPlane, certificates: Certificates) -> Iterator[Relay]:
    port = int(controlplane.url.rpartition(":")[2])
    with Relay(port, controlplane.ca.parent, certificates.ca, certificates.by_content) as relay:
        yield relay


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, Libvirtd]]:
    with ExitStack() as ends:
        folders = {name: Path(ends.enter_context(TemporaryDirectory(prefix="virtsync-"))) for name in ("a", "b")}
        Starts(folders["a"]).install()
        yield {name: ends.enter_context(Libvirtd(folder, logged=True)) for name, folder in folders.items()}


class Client:
    """One who asks the API server by way of a relay, by a token or by a certificate."""

    def __init__(self, controlplane: ControlPlane, relay: Relay, pem: Path | None = None) -> None:
        context = ssl.create_default_context(cafile=controlplane.ca)
        self.headers = {"Authorization": f"Bearer {controlplane.token}"}
        if pem:
            self.headers = {}
            context.load_cert_chain(pem)
        self.connection = http.client.HTTPSConnection("127.0.0.1", relay.port, context=context, timeout=HANG_LIMIT_S)
        self.retry_after: str | None = None

    def ask(self, method: str = "GET", path: str = "", body: object = None, content_type: str = "") -> int:
        headers = self.headers | {"Content-Type": content_type or "application/json"}
        self.connection.request(method, VMS + path, None if body is None else json.dumps(body).encode(), headers)
        response = self.connection.getresponse()
        response.read()
        self.retry_after = response.headers["Retry-After"]
        return response.status


@pytest.fixture
def client(controlplane: ControlPlane, relay: Relay) -> Iterator[Client]:
    client = Client(controlplane, relay)
    yield client
    client.connection.close()


def vm(name: str) -> dict[str, object]:
    return {"apiVersion": "virtsync.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": name}, "spec": {}}


def test_a_report_whose_answer_is_lost_is_written(controlplane: ControlPlane, relay: Relay, client: Client) -> None:
    assert client.ask("POST", "", vm("lost")) == HTTPStatus.CREATED
    relay.losing = True
    number = 0
    while not relay.lost:
        number += 1
        patch = {"status": {"restartCount": number}}
        try:
            client.ask("PATCH", "/lost/status", patch, "application/merge-patch+json")
        except (OSError, http.client.HTTPException):
            break
    assert len(relay.lost) == 1
    stored = json.loads(controlplane.kubectl("get", "kvm", "lost", "-o", "json").stdout)
    assert stored["status"]["restartCount"] == number
    recorded = [json.loads(line)["auditID"] for line in controlplane.audit_log.read_text().splitlines()]
    assert relay.lost <= set(recorded)


@pytest.mark.parametrize(
    ("status", "retry_after_s"), [(HTTPStatus.TOO_MANY_REQUESTS, 3), (HTTPStatus.SERVICE_UNAVAILABLE, None)]
)
def test_a_storm_refuses_and_tells_when_to_come_again(
    relay: Relay, client: Client, status: HTTPStatus, retry_after_s: int | None
) -> None:
    relay.refusal = Refusal(status, retry_after_s)
    until(lambda: client.ask() == status)
    assert client.retry_after == (str(retry_after_s) if retry_after_s else None)
    relay.refusal = None
    assert client.ask() == HTTPStatus.OK


def test_a_certificate_ends_for_the_api_server_and_its_successor_counts(
    controlplane: ControlPlane, relay: Relay, certificates: Certificates
) -> None:
    with certificates:
        first = Client(controlplane, relay, certificates.pem)
        assert first.ask() == HTTPStatus.OK
        until(lambda: certificates.ended)
        second = Client(controlplane, relay, certificates.pem)
        assert first.ask() == HTTPStatus.UNAUTHORIZED  # on the connection that it has had from the beginning
        assert second.ask() == HTTPStatus.OK
    for client in (first, second):
        client.connection.close()


def test_a_backup_of_a_frozen_etcd_takes_the_objects_back(controlplane: ControlPlane, tmp_path: Path) -> None:
    controlplane.kubectl("create", "-f", "-", input=json.dumps(vm("before")))
    with paused(controlplane.pid("etcd")):
        controlplane.back_up(tmp_path / "copy")
    controlplane.kubectl("create", "-f", "-", input=json.dumps(vm("after")))
    for name in reversed(COMPONENTS):
        controlplane.kill(name)
    controlplane.restore(tmp_path / "copy")
    controlplane.start()
    names = controlplane.kubectl("get", "kvm", "-o", "name").stdout
    assert "/before" in names
    assert "/after" not in names


def test_an_act_whose_answer_is_lost_is_done(nodes: dict[str, Libvirtd]) -> None:
    libvirtd = nodes["b"]
    guest = libvirtd.define("lost-answer")
    with Wire(libvirtd.socket) as wire:
        connection = libvirt.open(libvirtd.uri.replace(str(libvirtd.socket), str(wire.socket)))
        domain = connection.lookupByName(guest.name)
        wire.losing = True
        assert not domain.isActive()  # what is not an act is answered
        with pytest.raises(libvirt.libvirtError):
            domain.create()
        assert wire.lost == 1
    assert libvirtd.qemu_pid(guest.name)
    del domain
    connection.close()
    guest.remove()


def test_a_wire_without_libvirtd_refuses_as_a_dead_one_does(nodes: dict[str, Libvirtd]) -> None:
    libvirtd = nodes["b"]
    with Wire(libvirtd.socket) as wire:
        uri = libvirtd.uri.replace(str(libvirtd.socket), str(wire.socket))
        wire.down()
        with pytest.raises(libvirt.libvirtError, match="Connection refused"):
            libvirt.open(uri)
        wire.up()
        libvirt.open(uri).close()


def test_a_slow_start_waits_until_it_is_let_go(nodes: dict[str, Libvirtd]) -> None:
    libvirtd = nodes["a"]
    guest, starts = libvirtd.define("slow"), Starts(libvirtd.folder)
    with Runs(nodes) as runs, ExitStack() as ends:
        with starts.slow(guest.name):
            ends.enter_context(Called(libvirtd, guest.name))
            until(lambda: guest.name in starts.waiting())
            assert not runs.of(guest.uuid)
        until(lambda: runs.of(guest.uuid))
        assert not starts.waiting()
        assert starts.waited() == 1
    guest.remove()


class Called:
    """A start that somebody else waits for."""

    def __init__(self, libvirtd: Libvirtd, name: str) -> None:
        self.thread = Thread(target=libvirtd.virsh, args=("start", name))

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.thread.join()


def test_two_qemus_of_one_vm_at_a_time_are_a_double_run(nodes: dict[str, Libvirtd]) -> None:
    uuid = uuid4()
    guests = {name: libvirtd.define("twice", uuid=uuid) for name, libvirtd in nodes.items()}
    with Runs(nodes) as runs:
        guests["a"].start()
        until(lambda: [run.node for run in runs.of(uuid)] == ["a"])
        guests["a"].kill()
        until(lambda: not runs.of(uuid) and "shut off" in nodes["a"].virsh("domstate", "twice").stdout)
        guests["b"].start()
        until(lambda: [run.node for run in runs.of(uuid)] == ["b"])
        assert not runs.doubles()  # one after the other
        before_s = time.time()
        guests["a"].start()
        until(lambda: len(runs.of(uuid)) == len(nodes))
        time.sleep(0.2)
        (double,) = runs.doubles()
        assert (double.first.node, double.second.node) == ("b", "a")
        assert before_s - 1 < double.second.begin_s < time.time()
        assert not runs.doubles()  # told once
    made, _ = calls(nodes["a"].calls_log)
    last = [call for call in made if call.uuid == str(uuid)][-1]
    assert last.signature[0].startswith("virDomainCreate")
    acts = [Verdict(call, "START", 0.0, None) for call in made if call.uuid == str(uuid)]
    found = by_whom(double, made, acts)
    assert found is not None
    assert found.call is last
    for guest in guests.values():
        guest.remove()


RUN = DoubleRun(Run("a", str(UUID(int=1)), 10, 100.0), Run("b", str(UUID(int=1)), 11, 200.0), 200.5)


def create(at_s: float, uuid: int = 1) -> Call:
    return Call(at_s, "vm", str(UUID(int=uuid)), ("virDomainCreate", None))


@pytest.mark.parametrize(
    ("by_agent", "by_others", "guilty"),
    [
        ([create(199)], [], True),
        ([create(150), create(199)], [], True),
        ([create(200.05)], [], True),  # the kernel counts in hundredths of a second
        ([create(201)], [], False),  # called after the process had begun
        ([create(199, uuid=2)], [], False),
        ([], [create(199)], False),
        ([create(199)], [create(190)], False),  # one of the two, and nobody knows which
        ([create(199)], [create(90)], True),  # too long ago to be it
    ],
)
def test_a_double_run_is_the_agents_if_its_call_alone_can_have_begun_it(
    by_agent: list[Call], by_others: list[Call], *, guilty: bool
) -> None:
    acts = [Verdict(call, "START", 0.0, None) for call in by_agent]
    found = by_whom(RUN, sorted([*by_agent, *by_others], key=lambda call: call.at_s), acts)
    assert (found is not None) is guilty


def call(at_s: float, name: str, flags: str | None = None) -> Call:
    return Call(at_s, "vm", str(UUID(int=1)), (name, flags))


def answer(at_s: float, *, grace_s: int = 60, mode: str = "GracefulThenForce") -> Answer:
    """Bound to node-a, to be off, and its stop, with a grace of a minute, on record since the beginning."""
    spec = {
        "nodeName": "node-a",
        "powerState": "Stopped",
        "shutdown": {"mode": mode, "gracePeriodSeconds": grace_s},
    }
    stop = {"type": "Stop", "startTime": "2026-11-26T00:00:00Z", "deadline": "2026-11-26T00:01:00Z"}
    object_ = {"kind": "VirtualMachine", "metadata": {"name": "vm"}, "spec": spec, "status": {"operation": stop}}
    return Answer(at_s, at_s, "agent", object_)


def why_not(made: list[Call], told: list[Answer]) -> str | None:
    *_, last = Judge("node-a", "qemu").verdicts(made, {}, told, frozen=[], jumped=[], stalled=[])
    return last.why_not


FORCE = call(130.0, "virDomainDestroyFlags", "0x0")
START_PAUSED = call(90.0, "virDomainCreateWithFlags", "0x1")


def test_force_before_the_grace_is_over_is_found() -> None:
    told = [answer(100.0), answer(129.9)]
    assert why_not([FORCE], told) == "its grace of 60 s was not over, but 30.0 s of it"
    assert why_not([FORCE], [answer(60.0), answer(129.9)]) is None


def test_a_grace_that_was_shortened_meanwhile_counts_at_once() -> None:
    assert why_not([FORCE], [answer(100.0), answer(129.9, grace_s=20)]) is None
    assert why_not([FORCE], [answer(100.0), answer(129.9, grace_s=40)]) is not None


def test_a_domain_that_has_never_run_may_be_ended_at_once() -> None:
    told = [answer(100.0), answer(129.9, mode="Graceful")]
    assert why_not([START_PAUSED, FORCE], told) is None
    assert why_not([START_PAUSED, call(95.0, "virDomainResume"), FORCE], told) == "its object forbids force"
    assert why_not([FORCE], told) == "its object forbids force"


def test_the_grace_of_a_stop_counts_from_its_record_though_the_answer_to_it_was_lost() -> None:
    recorded = replace(answer(60.0), lost=True)
    assert why_not([FORCE], [recorded, answer(129.9)]) is None
    assert why_not([FORCE], [recorded]) == "its object was never asked for"


def test_the_grace_of_a_stop_counts_from_the_time_in_its_record_if_the_record_arrived_late() -> None:
    start_s = unix_time("2026-11-26T00:00:00Z")
    told = [answer(start_s + 1.3), answer(start_s + 60)]
    assert why_not([replace(FORCE, at_s=start_s + 60.1)], told) is None
    assert why_not([replace(FORCE, at_s=start_s + 59.9)], [answer(start_s + 1.3), answer(start_s + 59.8)]) is not None


def test_an_answer_is_not_old_that_a_stalled_network_has_delivered_late() -> None:
    """As chaos with the seed 301 did: the answers to reports came when the network let them through, 5.2 s later."""
    late, stalled, other = answer(124.0), Span(124.1, 129.8), Span(124.1, 126.0)
    for spans in ([stalled], [stalled, other]):
        (verdict,) = Judge("node-a", "qemu").verdicts(
            [call(130.0, "virDomainShutdownFlags", "0x1")], {}, [late], frozen=[], jumped=[], stalled=spans
        )
        assert verdict.why_not is None
        assert 0 < verdict.age_s < 1
    assert why_not([call(130.0, "virDomainShutdownFlags", "0x1")], [late]) is not None


def test_spans_that_overlap_count_once() -> None:
    whole = Span(0, 10)
    assert overlap_s(whole, [Span(8, 20), Span(2, 5), Span(3, 4), Span(4, 6)]) == 6
    assert overlap_s(whole, []) == 0


def test_an_answer_that_was_lost_is_marked(tmp_path: Path) -> None:
    record = {
        "auditID": "lost-one",
        "verb": "patch",
        "user": {"username": "agent"},
        "requestReceivedTimestamp": "2026-11-26T00:00:00Z",
        "stageTimestamp": "2026-11-26T00:00:01Z",
        "responseStatus": {"code": 200},
        "responseObject": {"kind": "VirtualMachine"},
    }
    nobody = record | {"user": {}}  # whoever could not log in
    log = tmp_path / "audit.log"
    log.write_text("".join(f"{json.dumps(line)}\n" for line in (record, nobody)))
    for lost in (set[str](), {"lost-one"}):
        (found,), _ = answers(log, ["agent"], lost=lost)
        assert found.lost is bool(lost)


UUID_TEXT = str(UUID(int=1))
AT_S = 1000.0
ENTRY = {"uuid": UUID_TEXT, "nodeName": "node-b", "since": "2026-11-26T08:20:13Z"}


def hypervisor(
    at_s: float,
    mode: str = "",
    *,
    generation: int = 1,
    observed: int = 1,
    quiesced: bool = False,
    elsewhere: bool = False,
    sent: Json | None = None,
) -> Answer:
    object_ = {
        "kind": "Hypervisor",
        "metadata": {"name": "node-a", "uid": "uid", "generation": generation},
        "spec": {"maintenance": {"mode": mode, "reason": "x"}} if mode else {},
        "status": {
            "observedGeneration": observed,
            "conditions": [{"type": "Quiesced", "status": str(quiesced)}],
            "runsElsewhere": [ENTRY] if elsewhere else [],
        },
    }
    return Answer(at_s, at_s, "agent", object_, sent)


def lease(at_s: float, *, holder: str = "pod", name: str = "node-a", user: str = "agent") -> Answer:
    return Answer(
        at_s, at_s, user, {"kind": "Lease", "metadata": {"name": name}, "spec": {"holderIdentity": holder}}, {}
    )


def forbidden(
    *told: Answer,
    verb: str = "START",
    wanted: str = "Running",
    confirmed: str = "",
    frozen: tuple[Span, ...] = (),
    launched_s: float = 0.0,
) -> str | None:
    """Why the agent was not allowed to do this at `AT_S`; it held its Lease unless `told` has one."""
    orders = Orders(launches=[launched_s])
    orders.note(told)
    if not orders.renewals:
        orders.note([lease(AT_S - 1)])
    vm = {"metadata": {"annotations": {"virtsync.dev/confirmed-off": confirmed}}, "spec": {"powerState": wanted}}
    return orders.why_not(verb, UUID_TEXT, vm, AT_S, list(frozen))


def test_an_act_needs_a_hypervisor_that_this_process_has_read() -> None:
    assert forbidden(hypervisor(900)) is None
    assert forbidden() == "the Hypervisor of its node had not been read"
    assert forbidden(hypervisor(900), launched_s=950) == "the Hypervisor of its node had not been read"
    assert forbidden(replace(hypervisor(900), lost=True)) == "the Hypervisor of its node had not been read"


def test_an_act_needs_the_lease() -> None:
    assert forbidden(hypervisor(900), lease(AT_S - 19)) is None
    assert forbidden(hypervisor(900), lease(AT_S - 25)) == "its Lease was renewed 25.0 s before"
    assert forbidden(hypervisor(900), lease(AT_S - 25), lease(AT_S - 10, holder="")) is not None
    assert forbidden(hypervisor(900), lease(AT_S - 25), frozen=(Span(AT_S - 10, AT_S - 2),)) is None


@pytest.mark.parametrize("verb", ["START", "RESUME", "SHUTDOWN", "DESTROY", "SUSPEND"])
def test_no_act_is_allowed_in_a_maintenance_with_mode_hold(verb: str) -> None:
    why = "its node was in a maintenance with mode Hold"
    assert forbidden(hypervisor(900, "Hold"), verb=verb, wanted="Stopped") == why


@pytest.mark.parametrize(
    ("verb", "wanted", "allowed"),
    [
        ("START", "Running", False),
        ("START_PAUSED", "Paused", False),
        ("SUSPEND", "Paused", False),
        ("RESUME", "Running", True),
        ("SHUTDOWN", "Running", True),
        ("DESTROY", "Stopped", True),
        ("SHUTDOWN", "Paused", False),
    ],
)
def test_a_maintenance_with_mode_shutdown_allows_only_to_stop(verb: str, wanted: str, *, allowed: bool) -> None:
    assert (forbidden(hypervisor(900, "Shutdown"), verb=verb, wanted=wanted) is None) is allowed


def test_a_maintenance_is_in_force_from_its_acknowledgment_to_its_end() -> None:
    declared = hypervisor(900, "Hold", generation=2)
    acknowledged = hypervisor(910, "Hold", generation=2, observed=2)
    ended = hypervisor(920, generation=3, observed=2)
    assert forbidden(declared) is None
    assert forbidden(declared, acknowledged) is not None
    assert forbidden(declared, replace(acknowledged, lost=True)) is not None
    assert forbidden(declared, acknowledged, ended) is None


def test_an_act_that_had_begun_before_the_acknowledgment_is_no_violation_unless_the_node_was_quiesced() -> None:
    a_moment_ago = AT_S - 1
    assert forbidden(hypervisor(a_moment_ago, "Hold")) is None
    assert forbidden(hypervisor(AT_S - 5, "Hold"), frozen=(Span(AT_S - 4.5, AT_S),)) is None
    why = "its node was quiesced, in a maintenance with mode Hold"
    assert forbidden(hypervisor(a_moment_ago, "Hold", quiesced=True)) == why


def test_no_vm_is_started_that_is_listed_as_running_elsewhere_unless_this_is_confirmed_as_over() -> None:
    listed = hypervisor(900, elsewhere=True)
    assert forbidden(listed) == "its node's Hypervisor said that it ran on node-b"
    assert forbidden(listed, verb="SHUTDOWN") is None
    assert forbidden(listed, confirmed="node-b 2026-11-26T08:20:13Z") is None
    assert forbidden(listed, confirmed="node-b 2026-11-26T08:00:00Z") is not None
    assert forbidden(listed, hypervisor(950)) is None


def test_a_stop_of_a_vm_that_should_run_needs_a_maintenance_with_mode_shutdown() -> None:
    told = answer(129.9)
    wants_on = replace(told, shown=told.shown | {"spec": told.shown["spec"] | {"powerState": "Running"}})
    stop = call(130.0, "virDomainShutdownFlags", "0x1")
    for mode, why in (("", "Running was wanted, and no restart"), ("Shutdown", None)):
        orders = Orders()
        orders.note([lease(120), hypervisor(100, mode)])
        (verdict,) = Judge("node-a", "qemu", orders).verdicts([stop], {}, [wants_on], frozen=[], jumped=[], stalled=[])
        assert verdict.why_not == why


def test_an_act_after_a_mark_needs_a_report_of_the_agent() -> None:
    told = answer(129.9)
    unreachable = {"type": "Ready", "status": "Unknown", "reason": "AgentUnreachable"}
    marked = replace(told, shown=told.shown | {"status": told.shown["status"] | {"conditions": [unreachable]}})
    stop = call(130.0, "virDomainShutdownFlags", "0x1")
    assert why_not([stop], [told]) is None
    assert why_not([stop], [marked]) == "its object was marked, so the last report was not the agent's"


def mark(at_s: float, *, kind: str = "VirtualMachine", **sent: object) -> Answer:
    status = {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "AgentUnreachable"}]}
    object_ = {"kind": kind, "metadata": {"name": "node-a"}, "spec": {"nodeName": "node-a"}, "status": status}
    return Answer(at_s, at_s, "manager", object_, {"status": status} | sent)


def wrong(written: Answer, *leases: Answer, stopped: tuple[Span, ...] = ()) -> list[str]:
    marks = Marks()
    marks.note_leases(leases, {"agent": "node-a"})
    marks.judge([written], list(stopped))
    return marks.wrong


@pytest.mark.parametrize("kind", ["VirtualMachine", "Hypervisor"])
def test_a_mark_needs_an_agent_that_was_silent_for_its_grace(kind: str) -> None:
    written = mark(AT_S, kind=kind)
    assert wrong(written) == []  # there is no agent
    assert wrong(written, lease(AT_S - 21)) == []
    (why,) = wrong(written, lease(AT_S - 40), lease(AT_S - 30), lease(AT_S - 19))
    assert why.endswith("but the agent of node-a was silent for 19.0 s only")


def test_a_mark_of_an_agent_that_has_left_in_order_comes_later() -> None:
    assert wrong(mark(AT_S), lease(AT_S - 30, holder=""))
    assert wrong(mark(AT_S), lease(AT_S - 41, holder="")) == []


def test_a_mark_can_come_a_moment_after_the_return_of_the_agent() -> None:
    assert wrong(mark(AT_S), lease(AT_S - 35), lease(AT_S - 10)) == []
    silent = (lease(AT_S - 80), lease(AT_S - 40), lease(AT_S - 25), lease(AT_S - 10))
    assert wrong(mark(AT_S), *silent)
    assert wrong(mark(AT_S), *silent, stopped=(Span(AT_S - 35, AT_S - 15),)) == []


def vm_marked(reason: str, **status: object) -> Json:
    metadata = {"name": "vm", "uid": "uid", "generation": 3}
    status = {"observedGeneration": 3, "decidedReason": reason, "lastStop": {"cause": "Guest"}} | status
    return {"kind": "VirtualMachine", "metadata": metadata, "spec": {"nodeName": "node-a"}, "status": status}


@pytest.mark.parametrize(
    ("marked", "found", "by_mark"),
    [
        (vm_marked("Completed"), vm_marked("Starting"), True),
        (vm_marked("Failed"), vm_marked("Starting"), True),
        (vm_marked("InSync"), vm_marked("Starting"), False),
        (vm_marked("Completed"), vm_marked("Starting", lastStop={"cause": "Crash"}), False),  # it has run since
        (vm_marked("Completed", observedGeneration=2), vm_marked("Starting"), False),  # it was asked for before
        (vm_marked("Completed"), vm_marked("Starting") | {"metadata": {"uid": "uid", "generation": 4}}, False),
        (vm_marked("Completed"), vm_marked("Starting") | {"spec": {"restartRequestTime": "now"}}, False),
    ],
)
def test_a_start_needs_another_reason_than_a_mark(marked: Json, found: Json, *, by_mark: bool) -> None:
    marks = Marks(vms={"vm": [replace(mark(AT_S), shown=marked)]})
    assert marks.begun_by_mark("vm", found, AT_S + 1) is by_mark
    assert not marks.begun_by_mark("vm", found, AT_S - 1)
    assert not Marks().begun_by_mark("vm", found, AT_S + 1)


def test_a_hypervisor_is_right_after_its_maintenance_is_over_and_its_mark_taken_back() -> None:
    ready = {"type": "Ready", "status": "True", "reason": "Active"}
    metadata = {"generation": 2}
    right = {"observedGeneration": 2, "conditions": [ready]}
    assert what_is_wrong_with_host({"metadata": metadata, "status": right}) is None
    for wrong_status in (
        right | {"observedGeneration": 1},
        right | {"maintenance": {"remaining": 0}},
        right | {"conditions": [ready, {"type": "Quiesced", "status": "True"}]},
        right | {"conditions": [ready | {"reason": "AgentUnreachable"}]},
    ):
        assert what_is_wrong_with_host({"metadata": metadata, "status": wrong_status})


def test_the_counts_of_a_host_are_compared_with_its_domains() -> None:
    status = {
        "domains": {"total": 5},
        "virtualMachines": {"total": 3},
        "unmanaged": {"total": 2, "running": 1},
    }
    assert wrong_counts_of_host(status, vms=3, others=2, running=1) is None
    assert wrong_counts_of_host(status, vms=3, others=2, running=0)
    assert wrong_counts_of_host(status, vms=4, others=1, running=1)
    assert wrong_counts_of_host(status | {"runsElsewhere": [ENTRY]}, vms=3, others=2, running=1)


def test_a_manager_that_writes_more_than_conditions_and_the_list_is_found() -> None:
    assert wrong(mark(AT_S, spec={"nodeName": "node-b"}))
    assert wrong(mark(AT_S, status={"powerState": "Stopped"}))
    assert wrong(mark(AT_S, status={"runsElsewhere": []}))
    assert wrong(mark(AT_S, kind="Hypervisor", status={"runsElsewhere": []})) == []
    assert wrong(lease(AT_S, name="node-a", user="manager")) == ["manager wrote the Lease node-a"]
