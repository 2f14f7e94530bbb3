"""A watch that runs in the tests' own process."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from controller.kube.watch import Watch
from lab.world import HANG_LIMIT_S


@contextmanager
def running(watch: Watch) -> Iterator[None]:
    """Let it run on a thread of its own for as long as the block lasts; after that it has left nothing open."""
    stop, selector = asyncio.Event(), selectors.DefaultSelector()

    async def run() -> None:
        await watch.run(stop)
        # A TLS connection is closed when its peer has answered the goodbye, which is after the watch has ended.
        async with asyncio.timeout(HANG_LIMIT_S):
            while len(selector.get_map()) > 1:  # the loop's own
                await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(run(),))
        thread.start()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
