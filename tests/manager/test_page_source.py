"""What feeds the page recovers by itself, and the page shows why it is out of date until then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from controller.kube import client
from controller.kube.client import Api
from controller.manager import page_source
from controller.manager.page_source import Source
from lab.world import until
from tests.kube.server import Request, kubeconfig_of, serving


@pytest.fixture
def away() -> threading.Event:
    """Set: the API server answers nothing."""
    return threading.Event()


@pytest.fixture
def api(away: threading.Event, tmp_path: Path) -> Iterator[Api]:
    """The client of a cluster that has one host and no VMs."""

    def answer(request: Request) -> None:
        if away.is_set():
            request.hang_up()
            return
        if "watch=true" in request.path:
            request.reply({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "5"}}})
            return
        hosts = "hypervisors" in request.path
        kind, items = ("Hypervisor", [{"metadata": {"name": "a"}}]) if hosts else ("VirtualMachine", [])
        request.reply({"kind": f"{kind}List", "metadata": {"resourceVersion": "5"}, "items": items})

    with serving(answer) as url:
        yield client.load(kubeconfig_of(url, tmp_path))


@pytest.fixture
def source(api: Api) -> Iterator[Source]:
    with closing(Source(api)) as source:
        yield source


@pytest.mark.parametrize("name", ["page-source", "live "])
def test_a_thread_that_cannot_be_started_is_told_and_tried_again(
    source: Source, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, full = threading.Thread.start, threading.Event()
    full.set()

    def start_if_there_is_room(thread: threading.Thread) -> None:
        if thread.name.startswith(name) and full.is_set():
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_there_is_room)
    source.look()
    until(lambda: "can't start new thread" in source.fleet().trouble, "It does not say why it does not read.")
    full.clear()
    source.look()
    source.wait(60)
    fleet = source.fleet()
    assert (len(fleet.hosts), fleet.complete, fleet.trouble) == (1, True, "")


def test_it_reads_as_soon_as_the_api_server_is_back(
    source: Source, api: Api, away: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if nobody but the page uses this client: then no other request closes its circuit."""
    monkeypatch.setattr(page_source, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(page_source, "RETRY_MAX_S", 0.05)
    away.set()
    source.look()
    until(lambda: api.circuit_open, "The circuit is not open.")
    away.clear()
    source.wait(60)
    fleet = source.fleet()
    assert (len(fleet.hosts), fleet.complete, fleet.trouble) == (1, True, "")
