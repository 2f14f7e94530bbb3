"""The one policy for repeating a call: few tries, under two seconds, and only where another try can help."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from controller.runtime.errors import Conflicted, Transient, Unasked

P = ParamSpec("P")
R = TypeVar("R")


def call(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call it up to three times. Raises what the last call raised, and at once what asks for a wait."""
    policy = Retrying(
        stop=stop_after_attempt(3) | stop_after_delay(1.0),
        wait=wait_random_exponential(multiplier=0.05, max=0.4),
        retry=retry_if_exception(_may_help),
        reraise=True,
    )
    return policy(function, *args, **kwargs)


def _may_help(error: BaseException) -> bool:
    return isinstance(error, Transient) and not isinstance(error, Conflicted | Unasked) and not error.retry_after_s
