"""Why a pool has no connection for a call."""

from contextlib import ExitStack
from unittest.mock import Mock

import pytest

from controller.hypervisor import pool
from controller.hypervisor.pool import ConnectionPool
from controller.runtime.errors import Transient


@pytest.mark.parametrize(
    ("max_count", "closed", "why"),
    [
        (1, False, "libvirt has not answered earlier calls"),
        (2, False, "libvirt has not answered earlier calls, and no further connection is open yet"),
        (2, True, "not connected"),
    ],
)
def test_a_pool_says_why_it_has_no_connection_for_a_call(
    max_count: int, why: str, monkeypatch: pytest.MonkeyPatch, *, closed: bool
) -> None:
    monkeypatch.setattr(pool, "FREE_WITHIN_S", 0.02)
    connections = ConnectionPool(max_count)
    connections.add(Mock())
    with ExitStack() as calls:
        calls.enter_context(connections.take())
        if closed:
            connections.close()
        with pytest.raises(Transient, match=f"^{why}$"):
            calls.enter_context(connections.take())
