"""When the agent is told that it may act again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from controller.agent.ownership import Ownership
from controller.agent.settings import Settings
from controller.kube.client import Api
from controller.runtime.errors import Transient, Vanished

Json = dict[str, Any]
SETTINGS = Settings(node_name="node-a", boot_id="boot-1", observe_only=True, lease_namespace="virtsync")
"""Such an agent needs no host lock, and keeps its Lease in the same way."""


class Leases:
    """The API server, which has one Lease, and the time."""

    def __init__(self) -> None:
        self.at_s = 1000.0
        self.lease: Json | None = None
        self.refuses = False
        self.before_answer: Callable[[], object] = lambda: None

    def request(self, method: str, _path: str, body: Json | None = None, **_: Any) -> Json:
        self.before_answer()
        if self.refuses:
            raise Transient("the API server does not answer", retry_after_s=1.0)
        if method != "GET":
            self.lease = body
        if self.lease is None:
            raise Vanished
        return self.lease


class Stage:
    """The ownership of one agent, which keeps its Lease when the test says so."""

    def __init__(self) -> None:
        self.leases, self.told = Leases(), 0
        self.ownership = Ownership(
            SETTINGS, cast("Api", self.leases), dead=list, changed=self._changed, directory_removed=lambda: None
        )
        assert self.ownership._lease
        self.ownership._lease._clock = lambda: self.leases.at_s

    def _changed(self) -> None:
        self.told += 1

    def keep(self, *, after_s: float = 0.0) -> int:
        """Keep the Lease some seconds later. Return how often the agent was told that something has changed."""
        self.leases.at_s += after_s
        before = self.told
        self.ownership._keep_lease()
        return self.told - before


def test_the_agent_is_told_that_it_has_the_lease_and_not_of_each_renewal() -> None:
    stage = Stage()
    assert stage.keep() == 1
    assert stage.keep(after_s=10) == stage.keep(after_s=10) == 0
    assert stage.ownership.lease_missing() is None


def test_the_agent_is_told_that_it_has_no_lease_and_has_it_again() -> None:
    stage = Stage()
    stage.keep()
    stage.leases.refuses = True
    assert stage.keep(after_s=36) == 1
    assert stage.ownership.lease_missing()
    stage.leases.refuses = False
    assert stage.keep(after_s=2) == 1


def test_what_a_lease_has_blocked_that_expired_during_its_renewal_goes_on() -> None:
    """Chaos has found VMs that stayed blocked until the next list of libvirt, although the agent had its Lease."""
    stage, missing = Stage(), []

    def slow() -> None:
        stage.leases.at_s += 9
        missing.append(stage.ownership.lease_missing())

    stage.keep()
    stage.leases.before_answer = slow
    assert stage.keep(after_s=30) == 1
    assert missing[0], "a pass that looks now is blocked"
    assert stage.ownership.lease_missing() is None


def test_a_renewal_just_before_the_lease_expires_is_no_change() -> None:
    stage = Stage()
    stage.keep()
    stage.leases.before_answer = lambda: setattr(stage.leases, "at_s", stage.leases.at_s + 4)
    assert stage.keep(after_s=30) == 0
