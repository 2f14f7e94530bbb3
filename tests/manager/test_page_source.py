"""What feeds the page recovers by itself, and the page shows why it is out of date until then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from controller.kube import client
from controller.manager.page_source import Source
from lab.world import until
from tests.kube.server import Request, kubeconfig_of, serving


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    """A source that finds one host and no VMs."""

    def answer(request: Request) -> None:
        if "watch=true" in request.path:
            request.reply({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "5"}}})
            return
        hosts = "hypervisors" in request.path
        kind, items = ("Hypervisor", [{"metadata": {"name": "a"}}]) if hosts else ("VirtualMachine", [])
        request.reply({"kind": f"{kind}List", "metadata": {"resourceVersion": "5"}, "items": items})

    with serving(answer) as url, closing(Source(client.load(kubeconfig_of(url, tmp_path)))) as source:
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
