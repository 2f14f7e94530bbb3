"""Retries: `call` makes up to three attempts at one call, and `Backoff` computes the waits of a loop."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from controller.api.clock import exponential_s
from controller.runtime.errors import CircuitOpen, Conflicted, Transient

P = ParamSpec("P")
R = TypeVar("R")


def call(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call the function up to three times, and return its result. Raises the exception of the last attempt.

    Retries only after Transient, except Conflicted, CircuitOpen and an error with `retry_after_s`. Begins no further
    attempt when a second has passed since the first.
    """
    policy = Retrying(
        stop=stop_after_attempt(3) | stop_after_delay(1.0),
        wait=wait_random_exponential(multiplier=0.05, max=0.4),
        retry=retry_if_exception(_may_help),
        reraise=True,
    )
    return policy(function, *args, **kwargs)


def _may_help(error: BaseException) -> bool:
    return isinstance(error, Transient) and not isinstance(error, Conflicted | CircuitOpen) and not error.retry_after_s


class Backoff:
    """Exponential backoff with jitter. Not thread-safe.

    The longest possible wait doubles with each failure, from `first_s` to `max_s`. Jitter shortens each wait by up to a
    half.
    """

    def __init__(
        self, first_s: float, max_s: float, *, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._first_s, self._max_s, self._uniform = first_s, max_s, uniform
        self._failures = 0

    def wait_s(self) -> float:
        """Count a failure, and return the seconds to wait before the next attempt."""
        self._failures += 1
        longest_s = exponential_s(self._first_s, self._max_s, self._failures)
        return self._uniform(longest_s / 2, longest_s)

    def reset(self) -> None:
        """Note that an attempt succeeded: the next wait is the shortest again."""
        self._failures = 0
