"""The watch by itself, on a real API server."""

import getpass
import queue
from urllib.parse import urlsplit

import pytest

from controller.kube.client import load
from controller.kube.watch import Watch
from lab.proxy import Proxy
from lab.world import HANG_LIMIT_S, Json, World, until
from tests.integration.watching import running


def test_it_needs_no_name_of_the_user_and_leaves_nothing_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 65532")

    monkeypatch.setattr(getpass, "getuser", unknown)
    seen: queue.Queue[Json] = queue.Queue()
    watch = Watch(load(world.controlplane.kubeconfig), world.node, on_object=seen.put, on_gone=lambda _: None)
    with running(watch):
        guest = world.define()
        world.apply(guest)
        assert seen.get(timeout=HANG_LIMIT_S)["metadata"]["name"] == guest.name


def test_each_ends_after_a_while_and_the_next_needs_no_list_and_no_connection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it ends shows that it lives: thousands of agents do so all the time."""
    monkeypatch.setattr("controller.kube.watch.WATCH_S", (1.0, 1.0))
    port = urlsplit(world.controlplane.url).port
    assert port
    with Proxy(port) as proxy:
        api = load(proxy.kubeconfig(world.controlplane.kubeconfig))
        seen: queue.Queue[Json] = queue.Queue()
        watch = Watch(api, world.node, on_object=seen.put, on_gone=lambda _: None)
        with running(watch):
            until(lambda: watch.health.open, "it does not begin")
            accepted, asked = proxy.accepted, {watch.health.last_request_s}

            def again() -> bool:
                asked.add(watch.health.last_request_s)
                return len(asked) > 5

            until(again, "it does not end")
            assert proxy.accepted == accepted
            assert watch.health.listings == 1
            guest = world.define()
            world.apply(guest)
            assert seen.get(timeout=HANG_LIMIT_S)["metadata"]["name"] == guest.name
