"""Which objects show that their agent is silent (`AgentUnreachable`), and since when a watch shows it."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import Any, Self

from controller.api.virtualmachine import Reason
from fleet.client import Client, Failed
from fleet.objects import HYPERVISORS, VIRTUAL_MACHINES, ready_reason

KINDS = {VIRTUAL_MACHINES: "vms", HYPERVISORS: "hypervisors"}
RETRY_S = 0.2

Json = dict[str, Any]


class Marks:
    """Watches all objects of the cluster, as the administrator; use it as an asynchronous context manager.

    It survives restarts of the API server, and then misses only what has come and gone in between.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.since_s: dict[str, dict[str, float]] = {kind: {} for kind in KINDS.values()}
        """Per kind (`vms`, `hypervisors`), the objects that are marked now, and the monotonic time of the mark."""
        self.made = dict.fromkeys(KINDS.values(), 0)
        """Per kind, how many marks the watches have shown."""
        self._tasks: list[asyncio.Task[None]] = []
        self._open = {path: asyncio.Event() for path in KINDS}

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._watch(path)) for path in KINDS]
        await asyncio.gather(*(opened.wait() for opened in self._open.values()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def marked_vms(self) -> int:
        """How many VMs are marked, by a LIST of all of them. Raises Failed."""
        return len(_marked(await self._client.ask_table("table", VIRTUAL_MACHINES)))

    async def _watch(self, path: str) -> None:
        version = ""
        while True:
            try:
                if not version:
                    table = await self._client.ask_table("table", path)
                    version = table["metadata"]["resourceVersion"]
                    self._reconcile(KINDS[path], _marked(table))
                async for change in self._client.watch(path, resourceVersion=version, allowWatchBookmarks="true"):
                    self._open[path].set()
                    if change:
                        version = change["object"]["metadata"]["resourceVersion"]
                        self._take(KINDS[path], change)
            except Failed as failed:
                if failed.status == HTTPStatus.GONE:
                    version = ""
                await asyncio.sleep(RETRY_S)

    def _reconcile(self, kind: str, marked: set[str]) -> None:
        """Take over what a list shows, which includes what happened while nobody watched."""
        for name in marked ^ self.since_s[kind].keys():
            self._note(kind, name, marked=name in marked)

    def _take(self, kind: str, change: Json) -> None:
        if change["type"] != "BOOKMARK":
            item = change["object"]
            self._note(kind, item["metadata"]["name"], marked=ready_reason(item) == Reason.AGENT_UNREACHABLE)

    def _note(self, kind: str, name: str, *, marked: bool) -> None:
        since_s = self.since_s[kind]
        if not marked:
            since_s.pop(name, None)
        elif name not in since_s:
            since_s[name] = time.monotonic()
            self.made[kind] += 1


def _marked(table: Json) -> set[str]:
    """The names of the marked objects in a Table. The names of the fleet's VMs are unique across namespaces."""
    name, reason = ([one["name"] for one in table["columnDefinitions"]].index(column) for column in ("Name", "Reason"))
    return {row["cells"][name] for row in table["rows"] if row["cells"][reason] == Reason.AGENT_UNREACHABLE}
