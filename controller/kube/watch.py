"""The watch over this node's objects. kopf watches, and does nothing else.

No timer, no daemon, no on.delete: those put a finalizer on every object, and a dead node would block its deletion. No
on.create or on.update: those write annotations. What comes in is a name for the queue.
"""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import kopf
import structlog

# kopf takes one of each from whoever runs it, and has no public name for them.
from kopf._cogs.structs.credentials import KubeContext, Vault, VaultKey
from kopf._cogs.structs.references import Insights
from kopf._core.engines.peering import Identity

from controller.kube import GROUP, KIND, PLURAL, VERSION
from controller.kube.config import Api
from controller.model import VmKey

RESOURCE = (GROUP, VERSION, PLURAL)
THE_RESOURCE = kopf.Resource(GROUP, VERSION, PLURAL, kind=KIND, namespaced=True, preferred=True)
BACKOFF_MAX_S = 10.0
HURRY_S = 1.0
"""If kopf ends sooner than this it is not started again at once."""
AT_ONCE, PACE_S = 10, 1.0
"""So many requests kopf may make in a row, which is more than it needs to begin; and then one each so many seconds."""
BEAT_S = 1.0

log = structlog.get_logger()

Json = dict[str, Any]
T = TypeVar("T", bound=object)


class Endless:
    """Backoffs without an end; kopf gives up, and exits, with those of a finite list. May be iterated many times."""

    def __iter__(self) -> Iterator[float]:
        delay_s = 0.5
        while True:
            yield delay_s * random.uniform(0.7, 1.0)  # noqa: S311 - spreads load, guards nothing
            delay_s = min(delay_s * 2, BACKOFF_MAX_S)


class Paced(Vault):
    """Where kopf asks how to log in, before each request: there it can be made to wait.

    By itself it begins a watch anew as soon as one has ended, and a broken proxy can end 690 of them a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._full_s = float("-inf")
        """When, at that pace, all requests so far would have had their second."""

    async def extended(
        self, factory: Callable[[KubeContext], T], purpose: str | None = None
    ) -> AsyncIterator[tuple[VaultKey, KubeContext, T]]:
        """The login and its session, when it is time for another request."""
        now_s = time.monotonic()
        self._full_s = max(self._full_s, now_s) + PACE_S
        await asyncio.sleep(max(0.0, self._full_s - now_s - AT_ONCE * PACE_S))
        async for login in super().extended(factory, purpose):
            yield login


class NothingKept(kopf.DiffBaseStorage):
    """kopf need not compare versions of an object: nobody asks what changed, and that is half of its work."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """What it would compare."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        """What it would compare that with."""

    def store(self, **_: Any) -> None:
        """Never called: nothing is ever handled."""


class Watch:
    """Tells of every change of this node's objects, for as long as it runs."""

    def __init__(
        self, api: Api, node_name: str, *, on_object: Callable[[Json], None], on_gone: Callable[[VmKey], None]
    ) -> None:
        """Both are called on the asyncio thread and must not wait. Gone means deleted, or another node's."""
        self._api, self._node_name = api, node_name
        self._on_object, self._on_gone = on_object, on_gone
        self._beat_s = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._again = asyncio.Event()

    def begin_anew(self) -> None:
        """List and watch again, as after a restore: from the version that it knows it would be told nothing.

        Any thread may call it; nothing happens while nothing is watched.
        """
        if loop := self._loop:
            loop.call_soon_threadsafe(self._again.set)

    def alive(self, max_age_s: float = 20.0) -> bool:
        """The asyncio thread runs; says nothing of the API server."""
        return time.monotonic() - self._beat_s <= max_age_s

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop`, anew after whatever ends kopf: a 410, a repeated 401, an ERROR in the stream."""
        self.settings()  # a kopf that would watch too much must not even begin
        self._loop = asyncio.get_running_loop()
        # Made before kopf's own tasks: it cancels those that appear while it ends.
        beat = asyncio.create_task(self._beat())
        try:
            while not stop.is_set():
                began_s = time.monotonic()
                try:
                    await self._operate(stop)
                except Exception as error:  # noqa: BLE001 - whatever ends kopf, the watch must go on
                    log.warning(f"the watch begins anew: {_one_line(error)}")
                if not stop.is_set() and time.monotonic() - began_s < HURRY_S:
                    await asyncio.sleep(HURRY_S * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load
        finally:
            beat.cancel()
            self._loop = None

    async def _operate(self, stop: asyncio.Event) -> None:
        others = asyncio.all_tasks()
        self._again.clear()
        insights = Insights()
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=self.settings(),
            clusterwide=True,
            standalone=True,
            # Else kopf asks for the name of the user, and a container may run as one that has none.
            identity=Identity(self._node_name),
            insights=insights,
            vault=Paced(),
        )
        if threading.current_thread() is threading.main_thread():
            # kopf has just taken the signals for itself: it would end without us, and leave `stop` as it is.
            for signum in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        # kopf runs for as long as each of its tasks does. Its own `stop_flag` is one too many: whatever else ends kopf,
        # it leaves a task behind for which kopf then waits 5 s.
        ours = (_insist(insights), self._again.wait(), stop.wait())
        await kopf.run_tasks([*tasks, *map(asyncio.create_task, ours)], ignored=others)

    def settings(self) -> kopf.OperatorSettings:
        """kopf, bounded and quiet. Raises RuntimeError when it would watch the objects of other nodes too."""
        settings = kopf.OperatorSettings()
        selector = f"spec.nodeName={self._node_name}"
        # The key must be a tuple: kopf misreads the string form of a group with a dot, and then filters nothing.
        settings.watching.field_selectors[RESOURCE] = selector
        if settings.watching.field_selectors.collect(THE_RESOURCE) != [selector]:
            raise RuntimeError("kopf does not keep the field selector: every agent would watch the whole cluster")
        settings.watching.initial_streaming = False  # it loses objects on a broken stream
        settings.watching.chunk_size = None
        settings.watching.inactivity_timeout = 130
        settings.watching.connect_timeout = 5
        settings.watching.reconnect_backoff = 1
        settings.networking.request_timeout = 30
        settings.networking.error_backoffs = Endless()
        settings.scanning.disabled = True
        settings.peering.standalone = True
        settings.persistence.diffbase_storage = NothingKept()
        settings.posting.enabled = False
        settings.posting.loggers = False
        settings.queueing.worker_limit = None
        # So long after kopf ends, for whatever reason, it would kill the thread that goes on with another watch.
        settings.process.ultimate_exiting_timeout = None
        return settings

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        def login(**_: Any) -> kopf.ConnectionInfo:
            endpoint = self._api.endpoint()
            return kopf.ConnectionInfo(
                server=endpoint.server,
                ca_path=endpoint.ca_path,
                insecure=endpoint.insecure,
                scheme="Bearer" if endpoint.token else None,
                token=endpoint.token,
                certificate_path=endpoint.certificate_path,
                private_key_path=endpoint.private_key_path,
                expiration=endpoint.expiration,
            )

        @kopf.on.event(*RESOURCE, registry=registry)
        async def changed(event: Any, **_: Any) -> None:  # else kopf has a thread call it
            raw = event["object"]
            try:
                if event["type"] == "DELETED":
                    self._on_gone(VmKey(raw["metadata"]["namespace"], raw["metadata"]["name"]))
                else:
                    self._on_object(raw)
            except Exception:
                # kopf ignores what a handler of events raises, and never calls it again.
                log.exception("an object of the watch could not be taken in")

        return registry

    async def _beat(self) -> None:
        while True:
            self._beat_s = time.monotonic()
            await asyncio.sleep(BEAT_S)


async def _insist(insights: Insights) -> None:
    """End if there is nothing to watch: kopf looks once which resources there are, and misses what comes later.

    Whoever lists the objects says that their definition is missing.
    """
    await insights.ready_resources.wait()
    if any((known.group, known.plural) == (GROUP, PLURAL) for known in insights.watched_resources):
        await asyncio.Event().wait()
    await asyncio.sleep(BACKOFF_MAX_S * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
