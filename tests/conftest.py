"""The real parts that tests share; what a fixture here starts ends with the test run."""

import gc
import hashlib
import os
import re
import signal
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, settings

from cluster.cluster import Cluster
from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.proxy import Proxy
from lab.world import World
from tests.workers import SchedulingByFile

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")  # on a busy machine an example takes longer, and that is no fault
SENT = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP)
"""The signals that tests send to programs."""
NAME_LIMIT = 40
"""The length of the names of namespaces, nodes and guests: a path of a socket has the name of a guest."""


@pytest.fixture(autouse=True, scope="module")
def _what_is_left_open_is_told_where_it_was() -> Iterator[None]:
    """An unclosed socket is an error when Python collects it, and else that is in any test that comes later."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def controlplane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One real API server for the whole run: a test names its objects, or its namespace, after itself."""
    with ControlPlane(tmp_path_factory.mktemp("controlplane")) as running:
        yield running


@pytest.fixture(scope="session")
def libvirtd() -> Iterator[Libvirtd]:
    """One real libvirtd for the whole run: a test names its domains after itself, and may not kill or pause it."""
    # The folders of pytest are too long for the sockets of a session libvirtd.
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder, Libvirtd(Path(folder)) as running:
        yield running


@pytest.fixture(scope="session")
def crd(controlplane: ControlPlane) -> ControlPlane:
    """The API server of the run, once it serves and explains VirtualMachines."""
    controlplane.install_crds()
    return controlplane


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server of a module's own with virtsync installed, because its policies hold for everybody."""
    with ControlPlane(tmp_path_factory.mktemp("installed")) as running:
        running.install()
        yield running


@pytest.fixture
def proxy(crd: ControlPlane) -> Iterator[Proxy]:
    """Between programs and the API server: passes bytes on, and counts connections."""
    port = urlsplit(crd.url).port
    assert port
    with Proxy(port) as running:
        yield running


@pytest.fixture
def world(crd: ControlPlane, libvirtd: Libvirtd, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A namespace, a node name and guests of the test's own, all named after it."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_")).strip("-")
    if len(name) > NAME_LIMIT:
        # What is cut off would tell the parameters apart.
        name = f"{name[: NAME_LIMIT - 7].strip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    with World(crd, libvirtd, name, tmp_path) as entered:
        yield entered


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SchedulingByFile | None:
    """Give out the tests by file where the command line says so."""
    return SchedulingByFile(config, log) if config.getvalue("dist") == "loadfile" else None


# --- how many tests really ran on real parts ------------------------------------------------------------------------

ON_REAL_PARTS = pytest.StashKey[set[str]]()
API_WRITES = re.compile(
    r'^apiserver_request_total\{.*resource="virtualmachines".*verb="(?:APPLY|PATCH|POST|PUT)".*\} (\S+)$', re.MULTILINE
)


@pytest.fixture(autouse=True)
def _real_parts_are_counted(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[None]:
    """Count the test if, while it ran, libvirtd was asked something and a VirtualMachine was written."""
    if "cluster" in request.fixturenames:
        cluster: Cluster = request.getfixturevalue("cluster")
        libvirtds, controlplane = [node.libvirtd for node in cluster.nodes.values()], cluster.controlplane
    elif {"libvirtd", "controlplane"} <= set(request.fixturenames):
        libvirtds, controlplane = [request.getfixturevalue("libvirtd")], request.getfixturevalue("controlplane")
    else:
        yield
        return
    heard, written = _heard(libvirtds), _written(controlplane)
    yield
    if _grew(heard, _heard(libvirtds)) and _grew(written, _written(controlplane)):
        pytestconfig.stash.setdefault(ON_REAL_PARTS, set()).add(request.node.nodeid)


def pytest_configure() -> None:
    """A program in the background (`&`, nohup) ignores signals, and so does all that it starts: but tests send them.

    This process goes on to ignore them, except Ctrl-C. What it starts does not inherit the handler of a signal.
    """
    for number in SENT:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else lambda *_: None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that need root for other users."""
    if os.geteuid() == 0:
        return
    needing_root = [item for item in items if item.get_closest_marker("root")]
    items[:] = [item for item in items if item not in needing_root]
    config.hook.pytest_deselected(items=needing_root)


# --- what is printed when all is over -------------------------------------------------------------------------------

AT_THE_END = pytest.StashKey[dict[str, list[str]]]()


@pytest.fixture(scope="session")
def at_the_end(pytestconfig: pytest.Config) -> dict[str, list[str]]:
    """Lines to be printed when all is over, by the title of their section."""
    return pytestconfig.stash.setdefault(AT_THE_END, {})


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of pytest-xdist tells the main process what is to be printed."""
    if hasattr(session.config, "workeroutput"):
        counted: set[str] = session.config.stash.get(ON_REAL_PARTS, set())
        session.config.workeroutput["on real parts"] = sorted(counted)
        session.config.workeroutput["at the end"] = session.config.stash.get(AT_THE_END, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a process of pytest-xdist has told; one that crashed has told nothing."""
    told = getattr(node, "workeroutput", {})
    node.config.stash.setdefault(ON_REAL_PARTS, set()).update(told.get("on real parts", []))
    node.config.stash.setdefault(AT_THE_END, {}).update(told.get("at the end", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say it at the end."""
    for title, lines in config.stash.get(AT_THE_END, {}).items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
    count = len(config.stash.get(ON_REAL_PARTS, set()))
    terminalreporter.write_line(f"tests that switched or watched real VMs through a real API server: {count}")


def _heard(libvirtds: Collection[Libvirtd]) -> dict[int, float]:
    """Bytes that each libvirtd has read so far, by process: it reads only what it is asked, and what comes of that."""
    counted = {libvirtd.pid: Path(f"/proc/{libvirtd.pid}/io").read_text() for libvirtd in libvirtds}
    return {pid: float(re.findall(r"rchar: (\d+)", io)[0]) for pid, io in counted.items()}


def _written(controlplane: ControlPlane) -> dict[int, float]:
    """VirtualMachines that the API server has been told to write so far, by process."""
    metrics = controlplane.kubectl("get", "--raw", "/metrics").stdout
    return {controlplane.pid("kube-apiserver"): sum(map(float, API_WRITES.findall(metrics)))}


def _grew(before: dict[int, float], after: dict[int, float]) -> bool:
    """Whether more has been counted; one that was killed meanwhile has begun anew."""
    return any(count > before.get(pid, 0) for pid, count in after.items())
