"""What the manager's lists ask the API server for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from controller.api.tables import TABLE
from controller.kube import paths
from controller.kube.client import TIMEOUT_S, Api
from controller.kube.collection import objects
from controller.kube.lists import FleetRequests
from controller.kube.live import Live
from controller.kube.reads import Reads
from controller.runtime.errors import Behind, Rejected, Transient

Json = dict[str, Any]
PRESENT = "4711"


class Server:
    """An API server with one VM and one host; it records what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.behind = False

    def request(self, _method: str, path: str, body: Json | None = None, **how: Any) -> Json:
        assert body is None
        self.asked.append((path, how))
        if "limit" in how:
            metadata = {"resourceVersion": PRESENT, "continue": "the rest"}
            return {"kind": "AnyList", "metadata": metadata, "items": [{}]}
        if self.behind:
            raise Behind("Too large resource version")
        if how["accept"] == TABLE:
            return {"kind": "Table", "columnDefinitions": [{"name": "Node"}], "rows": [{"cells": ["a"]}]}
        return {"kind": "HypervisorList", "items": [{"metadata": {"name": "a", "resourceVersion": "7"}}]}


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def fleet(server: Server) -> FleetRequests:
    return FleetRequests(cast("Api", server))


def test_all_objects_come_in_one_list_that_the_watch_cache_answers(server: Server, fleet: FleetRequests) -> None:
    """Pages are decoded from etcd; without a version, so is a list for which the watch cache is behind."""
    assert list(fleet.rows(["Node"])) == [("a",)]
    assert [host.name for host in fleet.hypervisors()] == ["a"]
    version, whole, *hosts = server.asked
    assert version == (paths.VIRTUAL_MACHINES, {"limit": "1"})
    assert whole[1]["resourceVersion"] == PRESENT
    assert whole[1]["resourceVersionMatch"] == "NotOlderThan"
    assert "limit" not in whole[1]
    assert [path for path, _ in hosts] == [paths.HYPERVISORS] * 2
    assert hosts[1][1]["resourceVersion"] == PRESENT


def test_a_list_of_all_objects_may_take_as_long_as_the_api_server_allows(server: Server, fleet: FleetRequests) -> None:
    list(fleet.rows(["Node"]))
    assert server.asked[1][1]["read_timeout_s"] == 60 > TIMEOUT_S[1]


def test_a_watch_cache_that_is_behind_is_told_and_not_bypassed(server: Server, fleet: FleetRequests) -> None:
    server.behind = True
    with pytest.raises(Behind):
        list(fleet.rows(["Node"]))
    with pytest.raises(Behind):
        list(fleet.hypervisors())
    assert len(server.asked) == 4


@pytest.mark.parametrize("answer", [{}, {"items": []}, {"kind": "Status"}, {"kind": "LeaseList"}])
def test_an_answer_that_is_no_list_is_an_error_and_does_not_mean_that_nothing_exists(answer: Json) -> None:
    """As that of a proxy, with status 200."""

    class Anything:
        def request(self, *_: Any, **_how: Any) -> Json:
            return answer

    api = cast("Api", Anything())
    fleet = FleetRequests(api)
    reads: list[Callable[[], object]] = [
        lambda: fleet.leases("virtsync-system"),
        lambda: list(fleet.hypervisors()),
        lambda: list(fleet.virtual_machines(node_name="a")),
        lambda: list(fleet.rows(["Node"])),
        lambda: list(objects(api, paths.HYPERVISORS)),
        lambda: list(Reads(api).virtual_machines(None)),
        lambda: Live(api, paths.HYPERVISORS, dict, lambda: None, page=1).__enter__(),
    ]
    for read in reads:
        with pytest.raises(Transient, match="instead of a list"):
            read()


def test_a_table_without_the_column_is_refused(fleet: FleetRequests) -> None:
    with pytest.raises(Rejected, match="Shoe"):
        list(fleet.rows(["Shoe"]))
