"""Reads collections from the API server, whole or in pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from controller.api.json_mapping import Json, as_map, as_text
from controller.kube.client import Api
from controller.runtime import retry
from controller.runtime.errors import Transient

PAGE = 250
"""How many objects one response has at most. A Hypervisor with a full list of domains has 70 kB, so a response has at
most 18 MB."""


def items(answer: Json) -> list[Json]:
    """Return the objects in the answer to a list.

    Raises Transient if the answer is no list, as that of a proxy: it must not mean that all objects are gone.
    """
    kind, found = as_text(answer.get("kind")) or "", answer.get("items")
    if not kind.endswith("List") or not isinstance(found, list):
        raise Transient(f"the API server answered {kind or 'something'} instead of a list")
    return found


def objects(api: Api, path: str) -> Iterator[Json]:
    """Yield all objects of a collection, of all namespaces, as they were when the first page was read.

    Raises Transient, also if reading takes longer than the API server keeps the old state (5 minutes by default), and
    Rejected.
    """

    def request(method: str, path: str, **query: Any) -> Json:
        return retry.call(api.request, method, path, **query)

    for page in pages(request, path, limit=str(PAGE)):
        yield from items(page)


def pages(request: Callable[..., Json], path: str, **query: str) -> Iterator[Json]:
    """Yield the responses to a list, which have at most `limit` objects each. Sends a request for each.

    `request` has the parameters of `Api.request`. Raises what it raises.
    """
    token: str | None = None
    while True:
        page = request("GET", path, **query | ({"continue": token} if token else {}))
        yield page
        token = as_text(as_map(page.get("metadata")).get("continue"))
        if not token:
            return
