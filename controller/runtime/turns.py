"""Several queues that are served in turns."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


def in_turns(queues: Mapping[str, Iterable[T]], *, after: str) -> Iterator[tuple[str, T]]:
    """Yield the first of each queue, then the second of each, and so on, each with the name of its queue.

    The queues have their turns in the order of their names, and the first turn has the one whose name follows `after`.
    """
    names = sorted(queues)
    first = bisect_right(names, after)
    turns = deque((name, iter(queues[name])) for name in names[first:] + names[:first])
    while turns:
        name, queue = turns.popleft()
        for item in queue:
            yield name, item
            turns.append((name, queue))
            break
