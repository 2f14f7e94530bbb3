"""The requests of one program, and how the requests of all of them ended."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from asyncio import sslproto
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp

NO_ANSWER, TOO_SLOW = 0, -1
"""Stand for the status of a request without a connection, and of one whose response did not come in time."""
TIMEOUT = aiohttp.ClientTimeout(total=13, sock_connect=3, sock_read=10)
"""Like those of the agent (`controller/kube/client.py`)."""
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
PATIENT = aiohttp.ClientTimeout(total=600)
"""For the administrator, who asks for much at once."""
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
MERGE_PATCH = "application/merge-patch+json"

# asyncio reserves 256 KiB for each TLS connection, which is more than all the rest of a simulated agent. A TLS record
# has at most 16 KiB.
sslproto.SSLProtocol.max_size = 2**15

Json = dict[str, Any]


class Failed(Exception):  # noqa: N818 - a failed request is no error of this program
    """A request that did not succeed. `status` is `NO_ANSWER` or `TOO_SLOW` if there was no response."""

    def __init__(self, status: int, message: str) -> None:
        """`message`: of the API server, or why there was no response."""
        super().__init__(f"{status}: {message}" if status > 0 else message)
        self.status = status


@dataclass(slots=True)
class Ended:
    """The requests of one kind that have ended."""

    latencies_ms: list[float] = field(default_factory=list)
    """Of those that succeeded."""
    statuses: Counter[int] = field(default_factory=Counter)

    def percentile_ms(self, percent: int) -> float:
        """The latency that this many percent of the successful requests did not exceed; 0 if there was none."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0

    def figures(self) -> Json:
        """For the results."""
        return {
            "requests": self.statuses.total(),
            "p50_ms": self.percentile_ms(50),
            "p99_ms": self.percentile_ms(99),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
        }


class Tally:
    """How requests ended, by kind (`renew`, `write`, `list`, `watch`, ...)."""

    def __init__(self) -> None:
        self._ended: defaultdict[str, Ended] = defaultdict(Ended)
        self.last_failure = "none"
        """The last failure of any kind."""

    def note(self, kind: str, status: int, began_s: float) -> None:
        """Note the end of a request that began at this monotonic time."""
        ended = self._ended[kind]
        ended.statuses[status] += 1
        if 200 <= status < 300:
            ended.latencies_ms.append((time.monotonic() - began_s) * 1000)

    def take(self) -> defaultdict[str, Ended]:
        """Return what was noted since the last call."""
        taken, self._ended = self._ended, defaultdict(Ended)
        return taken


@dataclass(frozen=True, slots=True)
class Login:
    """The API server, and who asks it."""

    url: str
    tls: ssl.SSLContext
    token: str


class Client:
    """The connections of one program to the API server; use it as an asynchronous context manager."""

    def __init__(self, login: Login, tally: Tally, *, timeout: aiohttp.ClientTimeout = TIMEOUT) -> None:
        self._url, self._tally, self._timeout = login.url, tally, timeout
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=login.tls, limit=0, keepalive_timeout=75),
            headers={"Authorization": f"Bearer {login.token}", "Accept": "application/json"},
            read_bufsize=2**16,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(
        self,
        kind: str,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        accept: str = "application/json",
        **query: str,
    ) -> bytes:
        """Send a request and return the body of the response. Raises Failed. A PATCH is a merge patch."""
        began_s, status = time.monotonic(), NO_ANSWER
        content = MERGE_PATCH if method == "PATCH" else "application/json"
        try:
            async with self._session.request(
                method,
                self._url + path,
                params=query,
                data=None if body is None else json.dumps(body),
                headers={"Accept": accept} | ({} if body is None else {"Content-Type": content}),
                timeout=self._timeout,
            ) as answer:
                text = await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            _check_cancelled(error)
            status = _status(error)
            raise self._failed(status, f"{method} {path}: {error!r}") from error
        finally:
            if not _cancelled():
                self._tally.note(kind, status, began_s)
        if status >= 400:
            raise self._failed(status, f"{method} {path}: {text[:300].decode(errors='replace')}")
        return text

    async def ask(self, kind: str, method: str, path: str, body: Json | None = None, **query: str) -> Json:
        """Send a request and return the JSON of the response. Raises Failed."""
        answer: Json = json.loads(await self.send(kind, method, path, body, **query))
        return answer

    async def ask_table(self, kind: str, path: str) -> Json:
        """List objects as a Table of their printer columns, without the objects. Raises Failed."""
        table: Json = json.loads(await self.send(kind, "GET", path, accept=TABLE, includeObject="None"))
        return table

    async def watch(self, path: str, **query: str) -> AsyncIterator[Json]:
        """Yield `{}` once the watch is open, then each change, until the server ends it. Raises Failed."""
        began_s = time.monotonic()
        try:
            async with self._session.get(
                self._url + path, params=query | {"watch": "true"}, timeout=WATCH_TIMEOUT
            ) as answer:
                self._tally.note("watch", answer.status, began_s)
                if answer.status >= 400:
                    raise self._failed(answer.status, f"watch {path}: {(await answer.text())[:300]}")
                yield {}
                async for line in answer.content:
                    change = json.loads(line)
                    if change["type"] == "ERROR":
                        raise Failed(change["object"].get("code", 500), change["object"].get("message", ""))
                    yield change
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            _check_cancelled(error)
            self._tally.note("watch", NO_ANSWER, began_s)
            raise self._failed(NO_ANSWER, f"watch {path}: {error!r}") from error

    def _failed(self, status: int, message: str) -> Failed:
        failed = Failed(status, message)
        self._tally.last_failure = str(failed)
        return failed


def _status(error: Exception) -> int:
    """Return what stands for the status. As in the agent, a slow API server is not one that is away."""
    connected = isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError)
    return TOO_SLOW if connected else NO_ANSWER


def _check_cancelled(error: Exception) -> None:
    """Raise CancelledError if this task is being cancelled.

    If a request is cancelled at the moment of its time-out, aiohttp raises TimeoutError, and the cancellation is lost.
    """
    if _cancelled():
        raise asyncio.CancelledError from error


def _cancelled() -> bool:
    """Whether this task is being cancelled: an agent that is killed has no answer to note."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
