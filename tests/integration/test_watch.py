"""The watch by itself, on a real API server."""

import asyncio
import getpass
import queue
import threading

import pytest

from controller.kube.config import load
from controller.kube.watch import Watch
from lab.world import HANG_LIMIT_S, Json, World


def test_it_needs_no_name_of_the_user(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 65532")

    monkeypatch.setattr(getpass, "getuser", unknown)
    seen: queue.Queue[Json] = queue.Queue()
    watch = Watch(load(world.controlplane.kubeconfig), world.node, on_object=seen.put, on_gone=lambda _: None)
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(watch.run(stop),))
    thread.start()
    try:
        guest = world.define()
        world.apply(guest)
        assert seen.get(timeout=HANG_LIMIT_S)["metadata"]["name"] == guest.name
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
