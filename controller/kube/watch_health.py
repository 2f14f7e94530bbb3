"""Whether the watch sees: what its requests and their answers tell of it. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable

STEADY_S = 5.0
"""A watch that ends sooner than this has failed, whatever it was answered."""
BLIND_S = 60.0
"""For so long it may fail before anybody is told."""


class WatchHealth:
    """Of one watch. Its asyncio thread tells; any thread may ask."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._opened_s: float | None = None
        """Since when a watch is open; None: none is."""
        self._failing_s = clock()
        """Since when none has lasted."""
        self._begun = False
        self._why = "it has not begun yet"
        self.listed_s = float("-inf")
        """When it last listed all objects."""
        self.listings = 0
        """How often it has done so."""
        self.asked_s = clock()
        """When its last request went out."""

    @property
    def open(self) -> bool:
        """The last thing that was heard is that the watch has begun."""
        return self._opened_s is not None

    def asks(self) -> None:
        """A request goes out: whatever was open has ended."""
        self.asked_s = self._clock()
        self.ended("it ends as soon as it has begun")

    def ended(self, why: str) -> None:
        """Nothing is open any more."""
        opened_s, self._opened_s = self._opened_s, None
        if opened_s is None:
            return
        if self._clock() - opened_s >= STEADY_S:
            self._failing_s, self._why = self._clock(), "the last one has ended"
        else:
            self._why = why

    def opened(self) -> None:
        """A watch was answered that it begins."""
        self._opened_s, self._begun = self._clock(), True

    def failed(self, why: str) -> None:
        """A request was answered with an error, or not at all."""
        self._why = why

    def listed(self) -> None:
        """All objects were listed."""
        self.listed_s, self.listings = self._clock(), self.listings + 1

    def blind(self) -> str | None:
        """Why a change may go unseen, in a sentence; None: it does not."""
        now_s, opened_s = self._clock(), self._opened_s
        if not self._begun:
            return f"changes of VirtualMachines are not watched yet: {self._why}"
        if opened_s is not None and now_s - opened_s >= STEADY_S:
            return None
        blind_s = now_s - self._failing_s
        return (
            f"changes of VirtualMachines are not seen for {blind_s:.0f} s: {self._why}" if blind_s > BLIND_S else None
        )
