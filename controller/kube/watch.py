"""The watch over this node's objects. kopf watches, and does nothing else.

No timer, no daemon, no on.delete: those put a finalizer on every object, and a dead node would block its deletion. No
on.create or on.update: those write annotations. What comes in is a name for the queue.
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

# kopf takes one of each from whoever runs it, and has no public name for them.
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
HURRY_S = 1.0
"""If kopf ends sooner than this it is not started again at once."""
AT_ONCE, PACE_S = 10, 1.0
"""So many requests kopf may make in a row, which is more than it needs to begin; and then one each so many seconds."""
BEAT_S = 1.0
WATCH_S = 45.0, 50.0
"""How long a watch is asked to last."""
SILENCE_S = 55.0
"""After so long without a word a watch is taken to be broken."""
LONGEST_WAIT_S = 60.0
"""So long kopf may take until its next request while no watch is open: longer than any request of its own, and than any
backoff of ours."""
COLLECTION = f"/apis/{GROUP}/{VERSION}/{PLURAL}"

log = structlog.get_logger()

Json = dict[str, Any]
T = TypeVar("T", bound=object)


class Endless:
    """Backoffs without an end; kopf gives up, and exits, with those of a finite list. May be iterated many times."""

    def __iter__(self) -> Iterator[float]:
        backoff = Backoff(0.5, BACKOFF_MAX_S)
        while True:
            yield backoff.wait_s()


@dataclass(frozen=True, kw_only=True)
class Login(AiohttpSession):
    """A session of aiohttp, and what it was made from. No two are equal: kopf refuses the equal of one that failed."""

    access: Access


class Paced(Vault):
    """Where kopf asks how to log in, before each request: there it can be made to wait, and be told of a new login.

    By itself it begins a watch anew as soon as one has ended, and a broken proxy can end 690 of them a second.
    """

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._credentials = credentials
        self._full_s = float("-inf")
        """When, at that pace, all requests so far would have had their second."""
        self._backoffs = iter(Endless())

    async def extended(
        self, factory: Callable[[KubeContext], T], purpose: str | None = None
    ) -> AsyncIterator[tuple[VaultKey, KubeContext, T]]:
        """The login and its session, when it is time for another request."""
        async for key, info, session in super().extended(factory, purpose):
            now_s = time.monotonic()
            self._full_s = max(self._full_s, now_s) + PACE_S
            await asyncio.sleep(max(0.0, self._full_s - now_s - AT_ONCE * PACE_S))
            # In a thread, for it reads files.
            now = await asyncio.to_thread(self._credentials.current)
            if isinstance(info, Login) and info.access is not now:
                await super().invalidate(key, info)
            else:
                yield key, info, session

    async def invalidate(self, key: VaultKey, info: KubeContext, *, exc: Exception | None = None) -> None:
        """The API server has refused this login, or its session is closed. Where there is no other it has to wait."""
        if isinstance(info, Login):
            if await asyncio.to_thread(self._credentials.renew, info.access) is info.access:
                await asyncio.sleep(next(self._backoffs))
            else:
                self._backoffs = iter(Endless())
        await super().invalidate(key, info, exc=exc)


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
        self.health = WatchHealth()
        self._undefined = asyncio.Event()
        """The API server no longer knows what is watched."""
        self._sessions: list[aiohttp.ClientSession] = []

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
                    log.warning("watch failed, restarting it", error=_one_line(error))
                    self.health.ended(_one_line(error))
                    self.health.failed(_one_line(error))
                self.health.ended("it was ended")
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
            vault=Paced(self._api.credentials),
        )
        if threading.current_thread() is threading.main_thread():
            # kopf has just taken the signals for itself: it would end without us, and leave `stop` as it is.
            for signum in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        self._undefined.clear()
        # kopf runs for as long as each of its tasks does. Its own `stop_flag` is one too many: whatever else ends kopf,
        # it leaves a task behind for which kopf then waits 5 s.
        ours = (
            _insist(insights),
            self._notice_the_end_of_the_definition(),
            self._give_up_waiting(),
            self._again.wait(),
            stop.wait(),
        )
        try:
            await kopf.run_tasks([*tasks, *map(asyncio.create_task, ours)], ignored=others)
        finally:
            while self._sessions:
                await self._sessions.pop().close()

    async def _notice_the_end_of_the_definition(self) -> None:
        await self._undefined.wait()
        log.warning("the API server does not know VirtualMachine: install deploy/crds; nothing is watched until then")

    async def _give_up_waiting(self) -> None:
        """End if kopf waits for too long before it tries again: a Retry-After may ask for a day."""
        began_s = time.monotonic()
        while self.health.open or time.monotonic() - max(began_s, self.health.asked_s) < LONGEST_WAIT_S:
            await asyncio.sleep(BEAT_S)
        log.warning("watch failed, restarting it", error="kopf was asked to wait too long")

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
        # The server ends each watch in order, and there is a word at the end of each: one that is silent for longer
        # is broken. It goes on from where it was, without a list and on the same connection.
        settings.watching.server_timeout = round(random.uniform(*WATCH_S))  # noqa: S311 - spreads load
        settings.watching.inactivity_timeout = SILENCE_S
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
        async def login(**_: Any) -> Login:
            access = await asyncio.to_thread(self._api.credentials.current)
            session = self._session(access)
            self._sessions = [*(one for one in self._sessions if not one.closed), session]
            return Login(server=access.server, aiohttp_session=session, access=access)

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
                log.exception("could not process a watch event inside virtsync")

        return registry

    def _session(self, access: Access) -> aiohttp.ClientSession:
        """A session that reaches the API server as all other requests do, and tells what it is answered."""
        traces = aiohttp.TraceConfig()
        traces.on_request_start.append(self._asks)
        traces.on_request_end.append(self._answered)
        traces.on_request_exception.append(self._unanswered)
        connector = aiohttp.TCPConnector(limit=0, ssl=access.tls, socket_factory=_socket)
        return aiohttp.ClientSession(
            connector=connector, headers=access.headers, proxy=_proxy(access), trust_env=False, trace_configs=[traces]
        )

    async def _asks(self, _session: object, _context: object, _params: aiohttp.TraceRequestStartParams) -> None:
        self.health.asks()

    async def _answered(self, _session: object, _context: object, params: aiohttp.TraceRequestEndParams) -> None:
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
            # kopf fails of it at length; it is ended meanwhile.
            await asyncio.Event().wait()

    async def _unanswered(
        self, _session: object, _context: object, params: aiohttp.TraceRequestExceptionParams
    ) -> None:
        if not isinstance(params.exception, asyncio.CancelledError):
            self._api.note_answer(good=False)
            self.health.failed(f"the API server does not answer: {_one_line(params.exception)}")

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


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """One that notices the end of its peer, as those of all other requests."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    for option in SOCKET_OPTIONS:
        made.setsockopt(*option)
    return made


def _proxy(access: Access) -> URL | None:
    """Its URL, with the user in it: a session has no other place for that."""
    if not access.proxy:
        return None
    url = URL(access.proxy)
    if access.proxy_login:
        user, password = access.proxy_login
        url = url.with_user(user).with_password(password)
    return url


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
