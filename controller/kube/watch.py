"""The watch on this node's objects. kopf only watches (docs/adr/001).

No timer, daemon or on.delete handler: kopf would add a finalizer to every object, and a dead node would block its
deletion. No on.create or on.update handler: kopf would write annotations.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import aiohttp
import kopf
import structlog

# kopf.spawn_tasks accepts objects of these classes, but kopf does not export the classes.
from kopf._cogs.structs.credentials import AiohttpSession, KubeContext, Vault, VaultKey
from kopf._cogs.structs.references import Insights
from kopf._core.engines.peering import Identity
from yarl import URL

from controller.api.names import GROUP, KIND, PLURAL, VERSION
from controller.api.virtualmachine import VmKey
from controller.kube.access import SOCKET_OPTIONS, Access
from controller.kube.client import Api
from controller.kube.credentials import Credentials
from controller.kube.watch_health import WatchHealth
from controller.runtime.retry import Backoff

RESOURCE = (GROUP, VERSION, PLURAL)
THE_RESOURCE = kopf.Resource(GROUP, VERSION, PLURAL, kind=KIND, namespaced=True, preferred=True)
BACKOFF_MAX_S = 10.0
RESTART_PAUSE_S = 1.0
"""If kopf ends sooner than this, the agent waits about this long before it starts kopf again."""
BURST, REQUEST_INTERVAL_S = 10, 1.0
"""The rate limit of kopf's requests: a burst, which is more than kopf needs to start, then one for each interval."""
HEARTBEAT_S = 1.0
WATCH_S = 45.0, 50.0
"""The range of the duration that a watch requests from the API server (timeoutSeconds)."""
INACTIVITY_TIMEOUT_S = 55.0
"""A watch that has received nothing for this time is broken."""
MAX_IDLE_S = 60.0
"""The longest time between two requests of kopf while no watch is open: longer than any of its requests, and than any
backoff of ours."""
COLLECTION = f"/apis/{GROUP}/{VERSION}/{PLURAL}"

log = structlog.get_logger()

Json = dict[str, Any]
T = TypeVar("T", bound=object)


class EndlessBackoff:
    """Waits without an end, in seconds: with a finite list, kopf gives up and exits. Can be iterated repeatedly."""

    def __iter__(self) -> Iterator[float]:
        backoff = Backoff(0.5, BACKOFF_MAX_S)
        while True:
            yield backoff.wait_s()


@dataclass(frozen=True, kw_only=True)
class AccessSession(AiohttpSession):
    """An aiohttp session, and the access it was made from.

    No two are equal: kopf does not accept credentials that are equal to some that have failed.
    """

    access: Access


class RateLimitedVault(Vault):
    """kopf gets its credentials here before each request, so this limits its rate and replaces old credentials.

    Without the limit, kopf starts the next watch as soon as one has ended, and a broken proxy can end 690 of them a
    second.
    """

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._credentials = credentials
        self._full_s = float("-inf")
        """When the whole burst is available again, in monotonic seconds."""
        self._backoffs = iter(EndlessBackoff())

    async def extended(
        self, factory: Callable[[KubeContext], T], purpose: str | None = None
    ) -> AsyncIterator[tuple[VaultKey, KubeContext, T]]:
        """Yield the credentials and their session, once the rate limit allows another request."""
        async for key, info, session in super().extended(factory, purpose):
            now_s = time.monotonic()
            self._full_s = max(self._full_s, now_s) + REQUEST_INTERVAL_S
            await asyncio.sleep(max(0.0, self._full_s - now_s - BURST * REQUEST_INTERVAL_S))
            # In a thread, because it reads files.
            current = await asyncio.to_thread(self._credentials.current)
            if isinstance(info, AccessSession) and info.access is not current:
                await super().invalidate(key, info)
            else:
                yield key, info, session

    async def invalidate(self, key: VaultKey, info: KubeContext, *, exc: Exception | None = None) -> None:
        """The API server has rejected these credentials, or their session is closed. Waits if there are no others."""
        if isinstance(info, AccessSession):
            if await asyncio.to_thread(self._credentials.renew, info.access) is info.access:
                await asyncio.sleep(next(self._backoffs))
            else:
                self._backoffs = iter(EndlessBackoff())
        await super().invalidate(key, info, exc=exc)


class NoDiffStorage(kopf.DiffBaseStorage):
    """Keeps kopf from comparing versions of an object, which is half of its work; no handler uses the difference."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """The part of the object that kopf would compare: nothing."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        """The part that kopf compared last: nothing."""

    def store(self, **_: Any) -> None:
        """Never called: there is no handler of changes."""


class Watch:
    """Reports every change of this node's objects while it runs."""

    def __init__(
        self, api: Api, node_name: str, *, on_object: Callable[[Json], None], on_gone: Callable[[VmKey], None]
    ) -> None:
        """The callbacks run on the asyncio thread and must not block.

        `on_gone`: the object was deleted, or now belongs to another node.
        """
        self._api, self._node_name = api, node_name
        self._on_object, self._on_gone = on_object, on_gone
        self._heartbeat_s = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._restart = asyncio.Event()
        self.health = WatchHealth()
        self._undefined = asyncio.Event()
        """The API server does not know VirtualMachine."""
        self._sessions: list[aiohttp.ClientSession] = []

    def restart(self) -> None:
        """List and watch again, for example after a restore of etcd: from the last known version, no events would come.

        Thread-safe; does nothing while the watch does not run.
        """
        if loop := self._loop:
            loop.call_soon_threadsafe(self._restart.set)

    def alive(self, max_age_s: float = 20.0) -> bool:
        """The asyncio thread runs; this is independent of the API server."""
        return time.monotonic() - self._heartbeat_s <= max_age_s

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop`. Restarts kopf whatever ends it: a 410, a repeated 401, an ERROR in the stream.

        Raises RuntimeError, as `settings` does, before the first request.
        """
        self.settings()  # raises if kopf would watch the whole cluster
        self._loop = asyncio.get_running_loop()
        # Created before kopf's own tasks: kopf cancels the tasks that appear while it ends.
        heartbeat = asyncio.create_task(self._heartbeat())
        try:
            while not stop.is_set():
                started_s = time.monotonic()
                try:
                    await self._run_kopf(stop)
                except Exception as error:  # noqa: BLE001 - whatever ends kopf, the watch must continue
                    log.warning("watch failed, restarting it", error=_one_line(error))
                    self.health.ended(_one_line(error))
                    self.health.failed(_one_line(error))
                self.health.ended("kopf has ended")
                if not stop.is_set() and time.monotonic() - started_s < RESTART_PAUSE_S:
                    await asyncio.sleep(RESTART_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load
        finally:
            heartbeat.cancel()
            self._loop = None

    async def _run_kopf(self, stop: asyncio.Event) -> None:
        others = asyncio.all_tasks()
        self._restart.clear()
        insights = Insights()
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=self.settings(),
            clusterwide=True,
            standalone=True,
            # By default, kopf looks up the name of the user, and the user of a container might not have one.
            identity=Identity(self._node_name),
            insights=insights,
            vault=RateLimitedVault(self._api.credentials),
        )
        if threading.current_thread() is threading.main_thread():
            # spawn_tasks has installed kopf's signal handlers, which would end kopf without setting `stop`.
            for signum in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        self._undefined.clear()
        # kopf ends as soon as one of its tasks ends, so each of ours ends kopf. kopf's own `stop_flag` is not used: if
        # something else ends kopf, its task is left behind, and kopf then waits 5 s for it.
        ours = (
            _end_without_resource(insights),
            self._end_without_definition(),
            self._end_when_idle(),
            self._restart.wait(),
            stop.wait(),
        )
        try:
            await kopf.run_tasks([*tasks, *map(asyncio.create_task, ours)], ignored=others)
        finally:
            while self._sessions:
                await self._sessions.pop().close()

    async def _end_without_definition(self) -> None:
        await self._undefined.wait()
        log.warning("the API server does not know VirtualMachine: install deploy/crds; no object is watched until then")

    async def _end_when_idle(self) -> None:
        """End if kopf waits too long before its next request: a Retry-After might ask for a day."""
        started_s = time.monotonic()
        while self.health.open or time.monotonic() - max(started_s, self.health.last_request_s) < MAX_IDLE_S:
            await asyncio.sleep(HEARTBEAT_S)
        log.warning("watch failed, restarting it", error=f"kopf has sent no request for {MAX_IDLE_S:g} s")

    def settings(self) -> kopf.OperatorSettings:
        """kopf's settings: bounded waits, few log lines. Raises RuntimeError if kopf would watch the whole cluster."""
        settings = kopf.OperatorSettings()
        selector = f"spec.nodeName={self._node_name}"
        # The key must be a tuple: kopf misreads the string form of a group with a dot, and then filters nothing.
        settings.watching.field_selectors[RESOURCE] = selector
        if settings.watching.field_selectors.collect(THE_RESOURCE) != [selector]:
            raise RuntimeError("kopf does not apply the field selector: every agent would watch the whole cluster")
        settings.watching.initial_streaming = False  # it loses objects if the stream breaks
        settings.watching.chunk_size = None
        # The API server ends each watch after this time, so a watch that receives nothing for longer is broken. kopf
        # continues from the last version, without a list and on the same connection.
        settings.watching.server_timeout = round(random.uniform(*WATCH_S))  # noqa: S311 - spreads load
        settings.watching.inactivity_timeout = INACTIVITY_TIMEOUT_S
        settings.watching.connect_timeout = 5
        settings.watching.reconnect_backoff = 1
        settings.networking.request_timeout = 30
        settings.networking.error_backoffs = EndlessBackoff()
        settings.scanning.disabled = True
        settings.peering.standalone = True
        settings.persistence.diffbase_storage = NoDiffStorage()
        settings.posting.enabled = False
        settings.posting.loggers = False
        settings.queueing.worker_limit = None
        # With a timeout, kopf kills this thread some time after kopf ends, but the next watch runs on the same thread.
        settings.process.ultimate_exiting_timeout = None
        return settings

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> AccessSession:
            access = await asyncio.to_thread(self._api.credentials.current)
            session = self._session(access)
            self._sessions = [*(one for one in self._sessions if not one.closed), session]
            return AccessSession(server=access.server, aiohttp_session=session, access=access)

        @kopf.on.event(*RESOURCE, registry=registry)
        async def changed(event: Any, **_: Any) -> None:  # async: kopf calls other functions on another thread
            raw = event["object"]
            try:
                if event["type"] == "DELETED":
                    self._on_gone(VmKey(raw["metadata"]["namespace"], raw["metadata"]["name"]))
                else:
                    self._on_object(raw)
            except Exception:
                # kopf ignores an exception of this handler, and does not call it again for this event.
                log.exception("internal error while processing a watch event")

        return registry

    def _session(self, access: Access) -> aiohttp.ClientSession:
        """A session with the same access as all other requests, which reports its requests to `health`."""
        traces = aiohttp.TraceConfig()
        traces.on_request_start.append(self._request_started)
        traces.on_request_end.append(self._request_ended)
        traces.on_request_exception.append(self._request_failed)
        connector = aiohttp.TCPConnector(limit=0, ssl=access.tls, socket_factory=_socket)
        return aiohttp.ClientSession(
            connector=connector, headers=access.headers, proxy=_proxy(access), trust_env=False, trace_configs=[traces]
        )

    async def _request_started(
        self, _session: object, _context: object, _params: aiohttp.TraceRequestStartParams
    ) -> None:
        self.health.request_sent()

    async def _request_ended(self, _session: object, _context: object, params: aiohttp.TraceRequestEndParams) -> None:
        status, collection = params.response.status, params.url.path.endswith(COLLECTION)
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS} or status >= 500:
            self._api.note_answer(good=False)
        if status != HTTPStatus.OK:
            self.health.failed(f"the API server answers {status}")
        elif collection:
            self._api.note_answer(good=True)
            if params.url.query.get("watch"):
                self.health.opened()
            else:
                self.health.listed()
        if status == HTTPStatus.NOT_FOUND and collection:
            self._undefined.set()
            # kopf would log a long failure for this answer, so it never gets it: _end_without_definition ends kopf.
            await asyncio.Event().wait()

    async def _request_failed(
        self, _session: object, _context: object, params: aiohttp.TraceRequestExceptionParams
    ) -> None:
        if not isinstance(params.exception, asyncio.CancelledError):
            self._api.note_answer(good=False)
            self.health.failed(f"the API server does not answer: {_one_line(params.exception)}")

    async def _heartbeat(self) -> None:
        while True:
            self._heartbeat_s = time.monotonic()
            await asyncio.sleep(HEARTBEAT_S)


async def _end_without_resource(insights: Insights) -> None:
    """End if the API server has no VirtualMachine resource: kopf reads the resources once, and misses later ones.

    Logs nothing: the relist reports that the definition is missing.
    """
    await insights.ready_resources.wait()
    if any((known.group, known.plural) == (GROUP, PLURAL) for known in insights.watched_resources):
        await asyncio.Event().wait()
    await asyncio.sleep(BACKOFF_MAX_S * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket with the keepalive settings of all other requests."""
    family, kind, protocol, *_ = address
    new = socket.socket(family, kind, protocol)
    for option in SOCKET_OPTIONS:
        new.setsockopt(*option)
    return new


def _proxy(access: Access) -> URL | None:
    """The proxy's URL, which includes the user and the password: a session has no other parameter for them."""
    if not access.proxy:
        return None
    url = URL(access.proxy)
    if access.proxy_login:
        user, password = access.proxy_login
        url = url.with_user(user).with_password(password)
    return url


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
