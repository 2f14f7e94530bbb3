"""What kubelet and Prometheus are answered, over a real socket."""

import http.client
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace

import pytest
from prometheus_client import Metric
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from controller.agent.metrics import Metrics
from controller.api.hypervisor import DomainCounts
from controller.api.virtualmachine import Condition, DesiredPowerState, PowerState, Status, VirtualMachine, VmKey
from controller.policy.view import Action, Result
from controller.runtime import exposition
from controller.runtime import health as health_module
from controller.runtime.errors import Rejected
from controller.runtime.exposition import CLIENTS_LIMIT, SHARE
from controller.runtime.health import Health
from controller.runtime.server import CONNECTIONS_LIMIT

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
WEB = VmKey("default", "web")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def health(metrics: Metrics) -> Iterator[Health]:
    with closing(Health("127.0.0.1", 0, metrics)) as one:
        yield one


def ask(port: int, path: str, *, address: str = "127.0.0.1", accept: str = "*/*") -> tuple[int, str, str]:
    with closing(http.client.HTTPConnection(address, port, timeout=60)) as connection:
        connection.request("GET", path, headers={"Accept": accept})
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read().decode()


def samples(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample, read as Prometheus reads it."""
    status, content_type, text = ask(port, "/metrics", accept=OPENMETRICS)
    assert status == 200
    assert content_type.startswith(OPENMETRICS)
    families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def vm(status: Status | None = None, desired: DesiredPowerState | None = DesiredPowerState.RUNNING) -> VirtualMachine:
    created = datetime(2026, 1, 1, tzinfo=UTC)
    return VirtualMachine(WEB, "uid", 1, "1", created, "node-a", desired=desired, status=status or Status())


def reported(power_state: PowerState, ready: str, since: datetime, reason: str = "Settling") -> Status:
    return Status(power_state=power_state, conditions=(Condition("Ready", ready, reason, "Wait.", since, 1),))


def test_alive_means_that_all_threads_live(health: Health) -> None:
    dead: set[str] = set()
    health.alive("event loop", lambda: "event loop" not in dead)
    health.alive("watch", lambda: "watch" not in dead)
    health.alive("workers", lambda: "workers" not in dead)
    port = health.start()
    assert ask(port, "/livez")[::2] == (200, "ok\n")
    dead |= {"event loop", "workers"}
    assert ask(port, "/livez") == (500, "text/plain; charset=utf-8", "dead: event loop\ndead: workers\n")


def test_not_ready_says_why_and_is_alive_all_the_same(health: Health) -> None:
    faults = {"libvirt": "libvirt does not answer."}
    health.ready("libvirt", lambda: faults.get("libvirt"))
    health.ready("objects", lambda: None)
    port = health.start()
    assert ask(port, "/readyz?verbose")[::2] == (500, "libvirt: libvirt does not answer.\n")
    assert ask(port, "/livez")[0] == 200
    faults.clear()
    assert ask(port, "/readyz")[::2] == (200, "ok\n")


def test_a_check_that_fails_is_not_taken_for_health(health: Health) -> None:
    def check() -> bool:
        raise ValueError

    health.alive("watch", check)
    assert ask(health.start(), "/livez")[0] == 500


def test_other_paths_are_told_which_there_are(health: Health) -> None:
    assert ask(health.start(), "/")[::2] == (404, "The paths are /livez, /readyz and /metrics.\n")


def test_every_address_is_both_kinds(metrics: Metrics) -> None:
    with closing(Health("*", 0, metrics)) as health:
        port = health.start()
        kinds = ["127.0.0.1", "::1"] if socket.has_dualstack_ipv6() else ["127.0.0.1"]
        assert [ask(port, "/livez", address=one)[0] for one in kinds] == [200] * len(kinds)


def test_one_ipv6_address(metrics: Metrics) -> None:
    with closing(Health("::1", 0, metrics)) as health:
        port = health.start()
        assert ask(port, "/livez", address="::1")[0] == 200
        with pytest.raises(ConnectionRefusedError):
            ask(port, "/livez")


def test_a_port_that_is_taken_is_refused_and_one_that_was_given_back_is_not(health: Health, metrics: Metrics) -> None:
    port = health.start()
    other = Health("127.0.0.1", port, metrics)
    with pytest.raises(Rejected, match=rf"port {port} of 127\.0\.0\.1: Address already in use\.$"):
        other.start()
    assert ask(port, "/livez")[0] == 200
    health.close()
    with closing(other):
        assert other.start() == port


def test_closing_one_that_never_served_is_nothing(metrics: Metrics) -> None:
    Health("127.0.0.1", 0, metrics).close()


def test_old_scrapers_get_the_old_format(health: Health) -> None:
    status, content_type, text = ask(health.start(), "/metrics", accept="text/plain;version=0.0.4")
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "# EOF" not in text


def test_who_asks_for_some_metrics_gets_those(health: Health, metrics: Metrics) -> None:
    metrics.libvirt_event("lifecycle")
    text = ask(health.start(), "/metrics?name[]=virtsync_libvirt_events_total&name[]=workqueue_depth")[2]
    names = {line.split("{")[0] for line in text.splitlines() if not line.startswith("#")}
    assert names == {"virtsync_libvirt_events_total", "workqueue_depth"}


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=1.x", "text/plain; version=new", ";=,"])
def test_an_accept_header_that_makes_no_sense_gets_the_old_format(health: Health, accept: str) -> None:
    assert ask(health.start(), "/metrics", accept=accept)[:2] == (200, "text/plain; version=0.0.4; charset=utf-8")


class Slow(Collector):
    """A metric whose value takes until `free` is set."""

    def __init__(self) -> None:
        self.free, self.asked, self.at_once, self.most_at_once = threading.Event(), 0, 0, 0

    def describe(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("slow", "A test.")

    def collect(self) -> Iterator[Metric]:
        self.asked, self.at_once = self.asked + 1, self.at_once + 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.free.wait()
        self.at_once -= 1
        yield GaugeMetricFamily("slow", "A test.", value=self.asked)


@pytest.mark.parametrize("path", ["/metrics", "/metrics?name[]=slow"])
def test_many_who_ask_for_metrics_at_once_keep_no_probe_from_its_answer(
    health: Health, metrics: Metrics, path: str
) -> None:
    slow, clients = Slow(), 20
    metrics.registry.register(slow)
    port = health.start()
    answers: queue.Queue[int] = queue.Queue()
    threads = [threading.Thread(target=lambda: answers.put(ask(port, path)[0])) for _ in range(clients)]
    for thread in threads:
        thread.start()
    refused = [answers.get(timeout=60) for _ in range(clients - CLIENTS_LIMIT)]
    assert refused == [503] * len(refused)
    assert ask(port, "/livez")[0] == 200
    slow.free.set()
    for thread in threads:
        thread.join()
    assert slow.most_at_once == 1


@pytest.mark.parametrize("path", ["/metrics", "/metrics?name[]=slow"])
def test_who_asks_for_metrics_all_the_time_occupies_a_share_of_a_processor(
    health: Health, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """As with thousands of VMs: each text takes 10 s of processor time."""
    slept_s: list[float] = []
    slow = Slow()
    clock = SimpleNamespace(
        thread_time=lambda: 10.0 * slow.asked, monotonic=lambda: 1000.0 + sum(slept_s), sleep=slept_s.append
    )
    monkeypatch.setattr(exposition, "time", clock)
    slow.free.set()
    metrics.registry.register(slow)
    port = health.start()
    assert [ask(port, path)[0] for _ in range(3)] == [200] * 3
    assert slept_s == [0.0, 10.0 * SHARE, 10.0 * SHARE]


def test_who_asks_beside_many_others_gets_the_last_text(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "KEPT_S", float("inf"))
    monkeypatch.setattr(exposition, "WAIT_S", 60.0)
    texts, slow = exposition.Exposition(metrics.registry), Slow()
    assert texts.text("text/plain", [])
    metrics.registry.register(slow)
    threads = [threading.Thread(target=texts.text, args=("", ["slow"])) for _ in range(CLIENTS_LIMIT)]
    for thread in threads:
        thread.start()
    while texts._clients.acquire(blocking=False):  # until all of them wait
        texts._clients.release()
    kept = texts.text("text/plain", [])
    assert kept
    assert (b"workqueue_depth" in kept[1], b"slow" in kept[1]) == (True, False)
    assert texts.text(OPENMETRICS, []) is None, "of this format there is no text"
    assert texts.text("text/plain", ["slow"]) is None
    slow.free.set()
    for thread in threads:
        thread.join()


def test_a_client_that_sends_a_byte_at_a_time_is_closed(health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "REQUEST_TIMEOUT_S", 1.0)
    port, began = health.start(), time.monotonic()
    with closing(socket.create_connection(("127.0.0.1", port))) as slow:
        slow.settimeout(0.1)
        while True:
            assert time.monotonic() - began < 60
            try:
                slow.sendall(b"G")
                if slow.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
    assert time.monotonic() - began >= 1.0
    assert ask(port, "/livez")[0] == 200


def test_idle_connections_do_not_keep_a_probe_from_its_answer(health: Health) -> None:
    port, limit, threads = health.start(), CONNECTIONS_LIMIT, threading.active_count()
    with ExitStack() as idle:
        clients = [
            idle.enter_context(closing(socket.create_connection(("127.0.0.1", port)))) for _ in range(limit + 20)
        ]
        assert ask(port, "/livez")[0] == 200
        clients[0].settimeout(60)
        assert clients[0].recv(1) == b"", "the oldest connection is closed"
        clients[-1].sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert clients[-1].recv(12) == b"HTTP/1.0 200", "the newest connection is served"
        ended_by = time.monotonic() + 60
        while threading.active_count() > threads + limit:
            assert time.monotonic() < ended_by
            time.sleep(0.01)


def test_a_vm_has_one_power_state_until_it_is_forgotten(health: Health, metrics: Metrics) -> None:
    port, now = health.start(), datetime.now(UTC)
    metrics.observed(vm(), reported(PowerState.STOPPED, "False", now))
    metrics.reported(vm(), reported(PowerState.RUNNING, "True", now), None)
    states = {
        dict(labels)["power_state"]: value
        for (name, labels), value in samples(port).items()
        if name == "virtsync_virtualmachine_power_state" and ("name", "web") in labels
    }
    assert states == {state: float(state == "Running") for state in PowerState}
    metrics.forgotten(WEB)
    assert not [labels for _, labels in samples(port) if ("name", "web") in labels]


@pytest.mark.parametrize("served", [None, *DesiredPowerState])
@pytest.mark.parametrize(
    ("ready", "desired", "drifts"),
    [("False", "Running", True), ("True", "Running", False), ("Unknown", "Running", False), ("False", None, False)],
)
def test_drift_is_counted_while_a_vm_is_not_as_wanted(
    health: Health,
    metrics: Metrics,
    ready: str,
    desired: str | None,
    served: DesiredPowerState | None,
    *,
    drifts: bool,
) -> None:
    """A VM whose spec has never been served drifts, too: it has no domain, or its start has always failed."""
    status = reported(PowerState.STOPPED, ready, datetime.now(UTC) - timedelta(hours=1))
    metrics.observed(vm(desired=DesiredPowerState(desired) if desired else None), replace(status, desired=served))
    found = samples(health.start())["virtsync_drift_seconds", frozenset({("namespace", "default"), ("name", "web")})]
    assert found >= 3600 if drifts else found == 0


def seconds(port: int) -> tuple[float | None, float | None]:
    """For how long the VM has drifted, and for how long it has been held."""
    labels, found = frozenset({("namespace", "default"), ("name", "web")}), samples(port)
    return found.get(("virtsync_drift_seconds", labels)), found.get(("virtsync_held_seconds", labels))


@pytest.mark.parametrize("reason", ["Held", "ObserveOnly"])
def test_what_somebody_keeps_as_it_is_does_not_drift(health: Health, metrics: Metrics, reason: str) -> None:
    port, since = health.start(), datetime.now(UTC) - timedelta(hours=1)
    metrics.observed(vm(), reported(PowerState.PAUSED, "False", since, reason=reason))
    drift_s, held_s = seconds(port)
    assert drift_s == 0
    assert held_s is not None
    assert held_s >= 3600
    # Released: from now on it drifts, though Ready has been False for an hour. Whatever is told of it next.
    for reason_now in ("Settling", "Resuming"):
        metrics.observed(vm(), reported(PowerState.PAUSED, "False", since, reason=reason_now))
        drift_s, held_s = seconds(port)
        assert drift_s is not None
        assert 0 < drift_s < 1800
        assert held_s is None
    metrics.observed(vm(), reported(PowerState.PAUSED, "False", since, reason=reason))
    assert (seconds(port)[1] or 3600) < 1800


@pytest.mark.parametrize(
    ("choice", "served"),
    [
        ("all", {"virtsync_virtualmachine_power_state", "virtsync_drift_seconds", "virtsync_held_seconds"}),
        ("drift", {"virtsync_drift_seconds", "virtsync_held_seconds"}),
        ("off", set()),
    ],
)
def test_the_series_of_each_vm_can_be_left_out(choice: str, served: set[str]) -> None:
    metrics = Metrics(choice)
    metrics.observed(vm(), reported(PowerState.PAUSED, "False", datetime.now(UTC), reason="Held"))
    samples = [sample for metric in metrics.registry.collect() for sample in metric.samples]
    assert {sample.name for sample in samples if "namespace" in sample.labels} == served


@pytest.mark.parametrize("choice", ["all", "drift", "off"])
def test_the_series_of_a_node_are_served_whatever_is_left_out_of_its_vms(choice: str) -> None:
    metrics, now = Metrics(choice), datetime.now(UTC)
    for name, reason, hours in (("a", "CrashLoopBackOff", 2), ("b", "CrashLoopBackOff", 1), ("c", "Held", 9)):
        one = replace(vm(), key=VmKey("default", name))
        metrics.observed(one, reported(PowerState.STOPPED, "False", now - timedelta(hours=hours), reason=reason))
    value = metrics.registry.get_sample_value
    assert value("virtsync_virtualmachines", {"reason": "CrashLoopBackOff"}) == 2
    assert value("virtsync_virtualmachines", {"reason": "Held"}) == 1
    assert value("virtsync_virtualmachines", {"reason": "InSync"}) is None
    assert 7200 <= (value("virtsync_longest_drift_seconds") or 0) < 9000


def test_the_oldest_event_without_a_report_has_an_age(metrics: Metrics) -> None:
    at_s: float | None = None
    metrics.watch_events(lambda: at_s)
    assert metrics.registry.get_sample_value("virtsync_oldest_unreported_event_seconds") == 0
    at_s = time.monotonic() - 90
    assert (metrics.registry.get_sample_value("virtsync_oldest_unreported_event_seconds") or 0) >= 90


def test_a_readiness_check_that_fails_is_a_series_with_its_name(health: Health, metrics: Metrics) -> None:
    faults = {"libvirt": "libvirt does not answer."}
    for name in ("libvirt", "lease"):
        health.ready(name, partial(faults.get, name))
    value = metrics.registry.get_sample_value
    assert value("virtsync_not_ready", {"check": "libvirt"}) == 1
    assert value("virtsync_not_ready", {"check": "lease"}) == 0
    faults.clear()
    assert value("virtsync_not_ready", {"check": "libvirt"}) == 0


def test_each_domain_of_the_host_is_counted_once(health: Health, metrics: Metrics) -> None:
    metrics.inventory(DomainCounts(10, 6), DomainCounts(7, 5))
    found = {labels: value for (name, labels), value in samples(health.start()).items() if name == "virtsync_domains"}
    assert found == {
        frozenset({("managed", "true"), ("on", "true")}): 5,
        frozenset({("managed", "true"), ("on", "false")}): 2,
        frozenset({("managed", "false"), ("on", "true")}): 1,
        frozenset({("managed", "false"), ("on", "false")}): 2,
    }


def test_a_drift_that_begins_anew_counts_anew(health: Health, metrics: Metrics) -> None:
    port, began = health.start(), datetime.now(UTC) - timedelta(hours=2)
    metrics.observed(vm(), reported(PowerState.STOPPED, "False", began))
    metrics.observed(vm(), reported(PowerState.STOPPED, "False", began + timedelta(hours=1)))
    assert 3600 <= (seconds(port)[0] or 0) < 7200


def test_acts_that_hang_are_counted_when_they_are_asked_for(health: Health, metrics: Metrics) -> None:
    port, hanging = health.start(), {Action.START: 2}
    metrics.watch_actions(lambda action: hanging.get(action, 0))
    for starts in (2, 0):
        hanging[Action.START] = starts
        found = {
            dict(labels)["operation"]: value
            for (name, labels), value in samples(port).items()
            if name == "virtsync_power_operations_hanging"
        }
        assert found == {action.name.lower(): starts if action is Action.START else 0 for action in Action}


def test_what_happens_is_counted(health: Health, metrics: Metrics) -> None:
    port = health.start()
    before = samples(port)
    metrics.libvirt_up()
    metrics.libvirt_down()
    metrics.libvirt_up()
    metrics.libvirt_event("lifecycle")
    metrics.acted(Action.START, Result.REFUSED)
    metrics.reported(vm(), Status(), 0.0)
    metrics.reported(vm(), Status(), None)
    with metrics.pass_timed():
        pass
    with pytest.raises(ValueError, match="a bug"), metrics.pass_timed():
        raise ValueError("a bug")
    metrics.pass_failed()
    after = samples(port)
    changed = {
        (name, *sorted(value for _, value in labels)): after[name, labels] - before.get((name, labels), 0)
        for name, labels in after
        if after[name, labels] != before.get((name, labels), 0)
        and not name.startswith("process_")
        and not name.endswith(("_bucket", "_sum", "_power_state"))
    }
    assert changed == {
        ("virtsync_libvirt_connected",): 1,
        ("virtsync_libvirt_reconnects_total",): 1,
        ("virtsync_libvirt_events_total", "lifecycle"): 1,
        ("virtsync_power_operations_total", "refused", "start"): 1,
        ("virtsync_status_writes_total",): 2,
        ("virtsync_virtualmachines", "Pending"): 1,
        ("virtsync_event_to_status_seconds_count",): 1,
        ("controller_runtime_reconcile_total", "success", "virtualmachine"): 1,
        ("controller_runtime_reconcile_total", "error", "virtualmachine"): 1,
        ("controller_runtime_reconcile_errors_total", "virtualmachine"): 1,
        ("controller_runtime_reconcile_time_seconds_count", "virtualmachine"): 2,
        ("virtsync_pass_errors_total",): 1,
    }
