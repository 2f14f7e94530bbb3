"""A simulated agent: it sends the requests of a real agent at the same times, and has no libvirt.

What it shares with the real one: two lists of its VMs at its start (its own and kopf's), a watch of these VMs and one
of its Hypervisor, each for 45 to 50 s at a time, the renewals of its Lease, and after an outage its probes, one list
within `relist_spread_s`. After a watch with 410, kopf lists again. It takes back what the manager has marked.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from controller.agent.outage import FIRST_S, MAX_S, Outage
from controller.api.virtualmachine import PowerState, Reason
from controller.kube.lease import ATTEMPTS, RENEWALS, RETRY_MAX_S
from controller.kube.paths import ANY_VERSION
from controller.kube.watch import BACKOFF_MAX_S, WATCH_S
from controller.runtime.retry import Backoff
from fleet.client import NO_ANSWER, Client, Failed, Login, Tally
from fleet.objects import (
    HYPERVISORS,
    LEASES,
    VIRTUAL_MACHINES,
    hypervisor_status,
    lease,
    ready_reason,
    vm_path,
    vm_status,
)

WORKERS = 8
"""How many statuses a real agent writes at a time."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rhythm:
    """The settings of the agents that matter here, as of `virtsync agent --help`."""

    lease_duration_s: float = 40.0
    relist_spread_s: float = 10.0


class Agent:
    """One agent. `run` ends only by cancellation, like a host that loses power; it can then be run again."""

    def __init__(self, name: str, vms: list[str], login: Login, tally: Tally, rhythm: Rhythm) -> None:
        """`vms`: the VMs of this node, as `namespace/name`."""
        self.name, self.vms = name, vms
        self._login, self._tally, self._rhythm = login, tally, rhythm
        self._versions: dict[str, str] = {}
        """The resource version of each VM, as the agent knows it."""
        self._watches_open = 0
        self._renewed_s = float("-inf")
        self._list_due = True
        """Whether it has just started, or an outage has ended, and it has not listed its VMs since."""
        self._taking_back: set[asyncio.Task[None]] = set()
        self._writers = asyncio.Semaphore(WORKERS)

    def renewed_since(self, moment_s: float) -> bool:
        """Whether it has renewed its Lease since this monotonic time, both watches are open, and no write is due."""
        return self._renewed_s > moment_s and self._watches_open == 2 and not self._taking_back

    def right_since(self, moment_s: float) -> bool:
        """The same, and whether it has also listed its VMs, if a list was due."""
        return self.renewed_since(moment_s) and not self._list_due

    async def run(self) -> None:
        """Be an agent, until this is cancelled."""
        self._watches_open, self._list_due = 0, True
        self._renewed_s = float("-inf")
        self._versions.clear()
        try:
            async with Client(self._login, self._tally) as client, asyncio.TaskGroup() as parts:
                self._client = client
                parts.create_task(self._renew())
                parts.create_task(self._list_when_due())
                selector = f"spec.nodeName={self.name}"
                parts.create_task(self._watch(VIRTUAL_MACHINES, selector))
                parts.create_task(self._watch(HYPERVISORS, f"metadata.name={self.name}"))
        finally:
            self._watches_open = 0
            for task in self._taking_back:
                task.cancel()
            self._taking_back.clear()

    async def write(self, vm: str, power: PowerState) -> None:
        """Report a power state of a VM that the agent has listed, as after an event of libvirt. Raises Failed."""
        if vm in self._versions:
            await self._patch_vm(vm, power, kind="write")

    # --- Lease

    async def _renew(self) -> None:
        known: Json = {}
        failures = 0
        while True:
            try:
                if not known:
                    known = await self._client.ask("renew", "GET", f"{LEASES}/{self.name}")
                body = lease(self.name, self._rhythm.lease_duration_s, known)
                known = await self._client.ask("renew", "PUT", f"{LEASES}/{self.name}", body)
            except Failed as failed:
                if failed.status == HTTPStatus.CONFLICT:
                    known = {}
                    continue
                if failed.status == NO_ANSWER:
                    await self._probe_until_answered()
                    continue
                failures += 1
                wait_s = min(self._rhythm.lease_duration_s / ATTEMPTS, RETRY_MAX_S) * 2 ** min(failures, 3)
                await asyncio.sleep(min(wait_s, self._rhythm.lease_duration_s / RENEWALS) * random.uniform(0.7, 1.0))
            else:
                failures, self._renewed_s = 0, time.monotonic()
                await asyncio.sleep(self._rhythm.lease_duration_s / RENEWALS * random.uniform(0.9, 1.0))

    async def _probe_until_answered(self) -> None:
        """Probe an API server that cannot be reached, and return when it answers."""
        backoff = Backoff(FIRST_S, MAX_S)
        while True:
            try:
                await self._client.send("probe", "GET", "/version")
            except Failed as failed:
                if failed.status == NO_ANSWER:
                    await asyncio.sleep(backoff.wait_s())
                    continue
            self._list_due = True
            return

    # --- lists and watches

    async def _list_when_due(self) -> None:
        """The lists of the agent itself: at its start, and once after each outage."""
        backoff = Backoff(FIRST_S, BACKOFF_MAX_S)
        outage = Outage(self._rhythm.relist_spread_s)
        while True:
            try:
                await self.list_once()
            except Failed:
                await asyncio.sleep(backoff.wait_s())
                continue
            backoff.reset()
            self._list_due = False
            while not self._list_due:
                await asyncio.sleep(1)
            outage.missed()
            while not outage.relists():
                await asyncio.sleep(1)

    async def list_once(self) -> None:
        """List the VMs of this node. Raises Failed."""
        newest = max(map(int, self._versions.values()), default=int(ANY_VERSION))
        answer = await self._client.ask(
            "list",
            "GET",
            VIRTUAL_MACHINES,
            fieldSelector=f"spec.nodeName={self.name}",
            resourceVersion=str(newest),
            resourceVersionMatch="NotOlderThan",
        )
        for item in answer["items"]:
            self._take(VIRTUAL_MACHINES, item)

    async def _watch(self, path: str, selector: str) -> None:
        """Watch these objects as kopf does: list, watch for a while, watch from there; after 410 list again."""
        backoff = Backoff(0.5, BACKOFF_MAX_S)
        version = ""
        while True:
            opened = False
            try:
                if not version:
                    state: Json = {"resourceVersion": ANY_VERSION} if path == VIRTUAL_MACHINES else {}
                    answer = await self._client.ask("list", "GET", path, fieldSelector=selector, **state)
                    version = answer["metadata"]["resourceVersion"]
                    for item in answer["items"]:
                        self._take(path, item)
                query = {"resourceVersion": version, "timeoutSeconds": str(int(random.uniform(*WATCH_S)))}
                async for change in self._client.watch(path, fieldSelector=selector, **query):
                    if not change:
                        opened = True
                        self._watches_open += 1
                        backoff.reset()
                        continue
                    version = change["object"]["metadata"]["resourceVersion"]
                    self._take(path, change["object"])
            except Failed as failed:
                if failed.status == HTTPStatus.GONE:
                    version = ""
                else:
                    await asyncio.sleep(backoff.wait_s())
            finally:
                self._watches_open -= opened

    # --- reports

    def _take(self, path: str, item: Json) -> None:
        """Note an object, and write it if the manager has marked it."""
        name, version = item["metadata"]["name"], item["metadata"]["resourceVersion"]
        key = f"{item['metadata']['namespace']}/{name}" if path == VIRTUAL_MACHINES else name
        known = self._versions.get(key, "0")
        if int(version) <= int(known):  # older than the answer to the agent's own write
            return
        self._versions[key] = version
        if ready_reason(item) == Reason.AGENT_UNREACHABLE:
            back = self._back_vm(key) if path == VIRTUAL_MACHINES else self._back_host(version)
            task = asyncio.create_task(back)
            self._taking_back.add(task)
            task.add_done_callback(self._taking_back.discard)

    async def _back_vm(self, vm: str) -> None:
        async with self._writers:
            await self._until_written(lambda: self._patch_vm(vm, PowerState.RUNNING, kind="write-back"))

    async def _back_host(self, version: str) -> None:
        patch = {"metadata": {"resourceVersion": version}, "status": hypervisor_status(self.name, len(self.vms))}
        path = f"{HYPERVISORS}/{self.name}/status"
        await self._until_written(lambda: self._client.ask("write-back", "PATCH", path, patch))

    async def _until_written(self, write: Any) -> None:
        """Write, and repeat the write until the server accepts it, or another version has come."""
        backoff = Backoff(0.5, BACKOFF_MAX_S)
        while True:
            try:
                await write()
            except Failed as failed:
                if failed.status in {HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND}:
                    return  # the watch shows the version that came in between
                await asyncio.sleep(backoff.wait_s())
            else:
                return

    async def _patch_vm(self, vm: str, power: PowerState, *, kind: str) -> None:
        status = vm_status(vm, self.name, power=power)
        patch = {"metadata": {"resourceVersion": self._versions[vm]}, "status": status}
        answer = await self._client.ask(kind, "PATCH", f"{vm_path(vm)}/status", patch, fieldManager="virtsync-agent")
        self._versions[vm] = answer["metadata"]["resourceVersion"]
