"""Watches the objects of this node with kopf. The agent uses kopf for nothing else (docs/adr/001).

There is no timer, daemon or on.delete handler, because kopf would add a finalizer to every object, and a dead node
would then block the deletion. There is no on.create or on.update handler, because kopf would write annotations.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar, cast

import aiohttp
import kopf
import structlog

# kopf.spawn_tasks accepts objects of these classes, but kopf does not export the classes.
from kopf._cogs.structs.credentials import AiohttpSession, KubeContext, Vault, VaultKey
from kopf._cogs.structs.references import Insights
from kopf._core.engines.peering import Identity
from yarl import URL

from controller.kube.access import SOCKET_OPTIONS, Access
from controller.kube.client import Api
from controller.kube.credentials import Credentials
from controller.kube.paths import ANY_VERSION
from controller.kube.skipping import SkippingReader
from controller.kube.watched import Watched
from controller.runtime.buckets import TokenBucket
from controller.runtime.retry import Backoff

BACKOFF_MAX_S = 10.0
RESTART_PAUSE_S = 1.0
"""If kopf ends within this time after its start, the agent waits about as long before it starts kopf again."""
BURST, REQUEST_RATE_PER_S = 12, 1.0
"""The rate limit of kopf's requests: `BURST` requests at once, then this rate. kopf sends fewer than `BURST` requests
when it starts."""
HEARTBEAT_S = 1.0
WATCH_S = 45.0, 50.0
"""The API server ends each watch after a time in this range (timeoutSeconds)."""
INACTIVITY_TIMEOUT_S = 55.0
"""kopf ends a watch that has received nothing for this time, because the watch must be broken."""
WATCHER_TASKS = "watcher for "
"""How the names of the tasks begin with which kopf watches the kinds."""
SCANS = {"_read_old_api", "_read_new_apis", "_read_version"}
"""The coroutines with which kopf reads the list of resources, each in a task of its own."""
MAX_IDLE_S = 60.0
"""kopf is restarted if it sends no request for this time while no watch is open. Each of kopf's requests and each
backoff of this module is shorter."""

log = structlog.get_logger()

T = TypeVar("T", bound=object)


class EndlessBackoff:
    """An endless sequence of waits in seconds. At the end of a finite sequence, kopf would exit.

    Can be iterated repeatedly.
    """

    def __iter__(self) -> Iterator[float]:
        backoff = Backoff(0.5, BACKOFF_MAX_S)
        while True:
            yield backoff.wait_s()


@dataclass(frozen=True, kw_only=True)
class AccessSession(AiohttpSession):
    """An aiohttp session, and the access from which it was created.

    No two instances are equal, because kopf does not accept credentials that are equal to credentials that have failed.
    """

    access: Access


class RateLimitedVault(Vault):
    """Returns credentials to kopf before each request. It limits the rate of requests, and replaces old credentials.

    Without the limit, kopf starts the next watch as soon as one has ended, and a broken proxy can end 690 watches per
    second.
    """

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._credentials = credentials
        self._bucket = TokenBucket(REQUEST_RATE_PER_S, BURST)
        self._backoffs = iter(EndlessBackoff())

    async def extended(
        self, factory: Callable[[KubeContext], T], purpose: str | None = None
    ) -> AsyncIterator[tuple[VaultKey, KubeContext, T]]:
        """Wait until the rate limit allows another request, and yield the credentials and their session."""
        async for key, info, session in super().extended(factory, purpose):
            while (wait_s := self._bucket.take(time.monotonic())) > 0:
                await asyncio.sleep(wait_s)
            # `current` reads files, so it runs on another thread.
            current = await asyncio.to_thread(self._credentials.current)
            if isinstance(info, AccessSession) and info.access is not current:
                await super().invalidate(key, info)
            else:
                yield key, info, session

    async def invalidate(self, key: VaultKey, info: KubeContext, *, exc: Exception | None = None) -> None:
        """Discard credentials that the API server has rejected, or whose session is closed. Wait if no others exist."""
        if isinstance(info, AccessSession):
            if await asyncio.to_thread(self._credentials.renew, info.access) is info.access:
                await asyncio.sleep(next(self._backoffs))
            else:
                self._backoffs = iter(EndlessBackoff())
        await super().invalidate(key, info, exc=exc)


class NoDiffStorage(kopf.DiffBaseStorage):
    """Prevents kopf from comparing versions of an object. Comparing is half of kopf's work, and no handler needs it."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Return the part of the object that kopf compares, which is always empty."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        """Return the part that kopf compared last, which is always None."""

    def store(self, **_: Any) -> None:
        """Do nothing. kopf never calls this method, because no handler handles changes."""


class Watch:
    """Reports every change of the watched objects while `run` runs."""

    def __init__(self, api: Api, node_name: str, watched: Sequence[Watched]) -> None:
        """`node_name` only names this client of kopf."""
        self._api, self._node_name, self._watched = api, node_name, watched
        self._heartbeat_s = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._restart = asyncio.Event()
        self._undefined = asyncio.Event()
        """Set if the API server does not know a kind that kopf watches."""
        self._sessions: list[aiohttp.ClientSession] = []

    def restart(self) -> None:
        """List and watch again. After a restore of etcd, a watch from the last known version would receive no events.

        Thread-safe. Does nothing while the watch does not run.
        """
        if loop := self._loop:
            loop.call_soon_threadsafe(self._restart.set)

    def alive(self, max_age_s: float = 20.0) -> bool:
        """Whether the asyncio thread runs. This does not depend on the API server."""
        return time.monotonic() - self._heartbeat_s <= max_age_s

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop` is set. Restarts kopf whenever it ends, as after a 410 or a repeated 401.

        Before the first request, raises RuntimeError if kopf would watch the whole cluster.
        """
        self.settings()  # raises RuntimeError
        self._loop = asyncio.get_running_loop()
        # This task must exist before kopf starts, because kopf cancels later tasks when it ends.
        heartbeat = asyncio.create_task(self._heartbeat())
        try:
            while not stop.is_set():
                started_s = time.monotonic()
                try:
                    await self._run_kopf(stop)
                except Exception as error:  # noqa: BLE001 - whatever ends kopf, the watch must continue
                    log.warning("watch failed, restarting it", error=_one_line(error))
                    for watched in self._watched:
                        watched.health.ended(_one_line(error))
                        watched.health.failed(_one_line(error))
                for watched in self._watched:
                    watched.health.ended("kopf has ended")
                if not stop.is_set() and time.monotonic() - started_s < RESTART_PAUSE_S:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), RESTART_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load
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
            # Replace the signal handlers that spawn_tasks has installed, because they end kopf without setting `stop`.
            for signum in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        self._undefined.clear()
        for watched in self._watched:
            watched.served = None
        # kopf ends as soon as one of its tasks ends, so each of these tasks ends kopf. kopf's own `stop_flag` is not
        # used: if kopf ends for another reason, the task of that flag still runs, and kopf waits 5 s for this task.
        ours = (
            _end_leftovers(),
            self._end_without_resource(insights),
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
        if any(watched.refused for watched in self._watched if not watched.on_refused):
            log.warning(
                "the API server does not know VirtualMachine: install deploy/crds; no object is watched until then"
            )

    async def _end_without_resource(self, insights: Insights) -> None:
        """If the API server has no resource of a kind that is needed, return after a pause. The return ends kopf.

        kopf reads the list of resources only at its start, so it must be started again. This method logs nothing,
        because the relist reports the missing definition.
        """
        await insights.ready_resources.wait()
        for watched in self._watched:
            watched.served = _is_served(watched, insights)
        if all(watched.served for watched in self._watched if not watched.on_refused):
            await asyncio.Event().wait()
        await asyncio.sleep(BACKOFF_MAX_S * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load

    async def _end_when_idle(self) -> None:
        """Return if kopf sends no request for a kind for `MAX_IDLE_S` while its watch is not open. This ends kopf.

        A Retry-After header might make kopf wait for a day.
        """
        started_s = time.monotonic()

        def idle(watched: Watched) -> bool:
            expected = not watched.on_refused or (watched.served and not watched.refused)
            idle_s = time.monotonic() - max(started_s, watched.health.last_request_s)
            return bool(expected) and not watched.health.open and idle_s >= MAX_IDLE_S

        while not any(map(idle, self._watched)):
            await asyncio.sleep(HEARTBEAT_S)
        log.warning("watch failed, restarting it", error=f"kopf has sent no request for {MAX_IDLE_S:g} s")

    def settings(self) -> kopf.OperatorSettings:
        """Return kopf's settings, which limit its waits and its log lines.

        Raises RuntimeError if kopf would watch the whole cluster.
        """
        settings = kopf.OperatorSettings()
        selectors = settings.watching.field_selectors
        for watched in self._watched:
            # The key must be a tuple. From a string, kopf parses a group with a dot wrongly, and then filters nothing.
            selectors[watched.resource] = watched.selector
        for watched in self._watched:
            resource = kopf.Resource(*watched.resource, kind=watched.kind, preferred=True)
            if selectors.collect(resource) != [watched.selector]:
                raise RuntimeError("kopf does not apply the field selector: every agent would watch the whole cluster")
        settings.watching.initial_streaming = False  # this feature loses objects if the stream breaks
        settings.watching.chunk_size = None
        # The API server ends each watch after this time, so a watch that receives nothing for longer is broken. kopf
        # then starts the next watch from the last version, without a list and on the same connection.
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
        # With a timeout, kopf kills this thread some time after kopf has ended, but the next watch needs the thread.
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

        for watched in self._watched:
            kopf.on.event(*watched.resource, registry=registry, id=watched.plural)(_handler(watched))
        return registry

    def _session(self, access: Access) -> aiohttp.ClientSession:
        """Return a session that uses this access and reports its requests to `health`."""
        traces = aiohttp.TraceConfig()
        traces.on_request_start.append(self._request_started)
        traces.on_request_end.append(self._request_ended)
        traces.on_request_exception.append(self._request_failed)
        connector = aiohttp.TCPConnector(limit=0, ssl=access.tls, socket_factory=_socket)
        return aiohttp.ClientSession(
            connector=connector,
            headers=access.headers,
            proxy=_proxy(access),
            trust_env=False,
            trace_configs=[traces],
            middlewares=[self._list_from_cache],
        )

    async def _list_from_cache(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Have a list that may be stale answered from the watch cache of the API server. kopf has no setting for it."""
        requested = self._requested(request.url)
        if requested and requested.stale_lists and "watch" not in request.url.query:
            request.url = request.url.update_query(resourceVersion=ANY_VERSION)
        return await handler(request)

    def _requested(self, url: URL) -> Watched | None:
        """Return the watched kind that this request lists or watches, or None if it is another request."""
        return next((watched for watched in self._watched if url.path.endswith(watched.collection)), None)

    async def _request_started(
        self, _session: object, _context: object, params: aiohttp.TraceRequestStartParams
    ) -> None:
        requested = self._requested(params.url)
        for watched in [requested] if requested else self._watched:
            watched.health.request_sent()

    async def _request_ended(self, _session: object, _context: object, params: aiohttp.TraceRequestEndParams) -> None:
        status, requested = params.response.status, self._requested(params.url)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            self._api.throttled()
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS} or status >= 500:
            self._api.note_answer(good=False)
        if status != HTTPStatus.OK:
            for watched in [requested] if requested else self._watched:
                watched.health.failed(f"the API server answers {status}")
        if requested is None:
            return
        requested.refused = status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}
        if status == HTTPStatus.OK:
            self._api.note_answer(good=True)
            if requested.known:
                content = SkippingReader(params.response.content, requested.known)
                params.response.content = cast("aiohttp.StreamReader", content)
            if params.url.query.get("watch"):
                requested.health.opened()
            else:
                requested.health.listed()
        elif requested.refused and requested.on_refused:
            requested.on_refused()
        if status == HTTPStatus.NOT_FOUND:
            self._undefined.set()
            # kopf would log a long error for this response. Withhold it until _end_without_definition ends kopf.
            await asyncio.Event().wait()

    async def _request_failed(
        self, _session: object, _context: object, params: aiohttp.TraceRequestExceptionParams
    ) -> None:
        if not isinstance(params.exception, asyncio.CancelledError):
            self._api.note_answer(good=False)
            requested = self._requested(params.url)
            for watched in [requested] if requested else self._watched:
                watched.health.failed(f"the API server does not answer: {_one_line(params.exception)}")

    async def _heartbeat(self) -> None:
        while True:
            self._heartbeat_s = time.monotonic()
            await asyncio.sleep(HEARTBEAT_S)


async def _end_leftovers() -> None:
    """Wait until this task is canceled, as when kopf ends. Then end the tasks that kopf would not end itself.

    kopf ends after an error in one of its watches, and then cancels the other watch together with the task that pauses
    it. The watch takes this for a pause: it suppresses its own cancelation and continues, so kopf never ends (measured
    with kopf 1.45). A watch that is canceled alone ends.

    kopf cancels the task that reads the list of resources, but not the tasks which that one has begun. Without an
    answer of the API server, they try again, and kopf waits 5 s for them.
    """
    try:
        await asyncio.Event().wait()
    finally:
        leftovers = [task for task in asyncio.all_tasks() if _is_left_over(task)]
        for task in leftovers:
            task.cancel()
        await asyncio.gather(*leftovers, return_exceptions=True)


def _is_left_over(task: asyncio.Task[Any]) -> bool:
    return task.get_name().startswith(WATCHER_TASKS) or getattr(task.get_coro(), "__name__", "") in SCANS


def _handler(watched: Watched) -> Callable[..., Awaitable[None]]:
    async def changed(event: Any, **_: Any) -> None:  # if it were not async, kopf would call it on another thread
        try:
            if event["type"] == "DELETED":
                watched.on_gone(event["object"])
            else:
                watched.on_object(event["object"])
        except Exception:
            # kopf ignores an exception of this handler, and does not call the handler again for this event.
            log.exception("internal error while processing a watch event")

    return changed


def _is_served(watched: Watched, insights: Insights) -> bool:
    return any((known.group, known.plural) == (watched.group, watched.plural) for known in insights.watched_resources)


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket with the same options as all other connections to the API server."""
    family, kind, protocol, *_ = address
    new = socket.socket(family, kind, protocol)
    for option in SOCKET_OPTIONS:
        new.setsockopt(*option)
    return new


def _proxy(access: Access) -> URL | None:
    """Return the proxy's URL with user and password, because aiohttp has deprecated its parameter `proxy_auth`."""
    if not access.proxy:
        return None
    url = URL(access.proxy)
    if access.proxy_login:
        user, password = access.proxy_login
        url = url.with_user(user).with_password(password)
    return url


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
