"""Reads a whole collection from the API server, in pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controller.api.names import GROUP, HYPERVISOR_PLURAL, PLURAL, VERSION
from controller.kube.client import Api
from controller.runtime import retry

HYPERVISORS = f"/apis/{GROUP}/{VERSION}/{HYPERVISOR_PLURAL}"
VIRTUAL_MACHINES = f"/apis/{GROUP}/{VERSION}/{PLURAL}"
PAGE = 250
"""How many objects one response has at most. A Hypervisor with a full list of domains has 70 kB, so a response has at
most 18 MB."""

Json = dict[str, Any]


def objects(api: Api, path: str) -> Iterator[Json]:
    """Yield all objects of a collection, of all namespaces, as they were when the first page was read.

    Raises Transient, also if reading takes longer than the API server keeps the old state (5 minutes by default), and
    Rejected.
    """
    query: dict[str, Any] = {"limit": str(PAGE)}
    while True:
        page = retry.call(api.request, "GET", path, **query)
        yield from page.get("items", [])
        query["continue"] = page.get("metadata", {}).get("continue")
        if not query["continue"]:
            return
