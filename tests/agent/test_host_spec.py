"""What the agent obeys, after each answer about its Hypervisor."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from controller.agent.host_spec import HostSpec
from controller.api.hypervisor import Hypervisor, HypervisorStatus, Maintenance, MaintenanceMode, RunsElsewhere

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOLD = Maintenance(MaintenanceMode.HOLD, "new RAM")
ELSEWHERE = RunsElsewhere(UUID(int=1), "node-b", EPOCH)


def hypervisor(maintenance: Maintenance | None = None, *elsewhere: RunsElsewhere, wrong: str = "") -> Hypervisor:
    status = HypervisorStatus(runs_elsewhere=elsewhere)
    return Hypervisor("node-a", "uid", 1, "1", EPOCH, maintenance=maintenance, misunderstood=wrong, status=status)


class Told:
    """Counts how often decisions might differ."""

    def __init__(self, *, observe_only: bool = False) -> None:
        self.count = 0
        self.spec = HostSpec("node-a", observe_only=observe_only, changed=self._changed)

    def _changed(self) -> None:
        self.count += 1

    def take(self) -> int:
        count, self.count = self.count, 0
        return count


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_new_agent_does_nothing_before_it_has_read_its_hypervisor(told: Told) -> None:
    assert told.spec.blocked() == "Hypervisor node-a has not been read yet."
    assert told.spec.unready() == "Hypervisor node-a has not been read yet"
    assert not told.spec.known.is_set()
    told.spec.read(hypervisor())
    assert told.spec.known.is_set()
    assert told.spec.blocked() == ""
    assert told.spec.unready() is None
    assert told.take() == 1


def test_a_failed_request_before_the_first_answer_leaves_it_blocked_and_says_why(told: Told) -> None:
    told.spec.failed("the API server does not answer")
    assert told.spec.blocked() == "Hypervisor node-a has not been read yet: the API server does not answer."
    assert told.spec.known.is_set()


def test_a_failed_request_later_changes_nothing(told: Told) -> None:
    told.spec.read(hypervisor(HOLD, ELSEWHERE))
    told.take()
    told.spec.failed("the API server does not answer")
    assert told.spec.blocked() == ""
    assert told.spec.maintenance() == HOLD
    assert told.take() == 0


def test_a_change_of_what_is_obeyed_is_told_once(told: Told) -> None:
    told.spec.read(hypervisor())
    told.take()
    for version, changes in ((hypervisor(HOLD), 1), (hypervisor(HOLD), 0), (hypervisor(HOLD, ELSEWHERE), 1)):
        told.spec.read(version)
        assert told.take() == changes
    assert told.spec.runs_elsewhere(UUID(int=1)) == (ELSEWHERE,)
    assert told.spec.runs_elsewhere(UUID(int=2)) == ()
    assert told.spec.runs_elsewhere(None) == ()


def test_a_vm_that_runs_on_two_other_hosts_has_both_entries(told: Told) -> None:
    third = replace(ELSEWHERE, node_name="node-c")
    told.spec.read(hypervisor(None, ELSEWHERE, third))
    assert told.spec.runs_elsewhere(UUID(int=1)) == (ELSEWHERE, third)


def test_old_definitions_know_no_maintenance(told: Told) -> None:
    told.spec.unserved()
    assert told.spec.blocked() == ""
    assert "install deploy/crds" in (told.spec.unready() or "")
    told.spec.failed("the API server does not answer")
    assert told.spec.blocked() == ""


@pytest.mark.parametrize("gone", ["missing", "unserved"])
def test_one_that_was_there_and_is_gone_blocks_and_its_maintenance_stays(told: Told, gone: str) -> None:
    told.spec.read(hypervisor(HOLD))
    told.take()
    getattr(told.spec, gone)()
    assert "was deleted" in told.spec.blocked()
    assert told.spec.maintenance() == HOLD
    assert told.take() == 1
    told.spec.read(hypervisor())
    assert told.spec.blocked() == ""
    assert told.spec.maintenance() is None
    assert told.take() == 1


def test_one_that_does_not_exist_yet_blocks_until_it_is_created(told: Told) -> None:
    told.spec.missing()
    assert "does not exist yet" in told.spec.blocked()
    assert not told.spec.known.is_set()
    told.spec.read(hypervisor())
    assert told.spec.known.is_set()
    assert told.spec.blocked() == ""


@pytest.mark.parametrize("seen", [True, False])
def test_one_that_may_not_be_read_blocks(told: Told, seen: bool) -> None:  # noqa: FBT001 - a column of the table
    if seen:
        told.spec.read(hypervisor())
    told.spec.refused("virtsync-agent lacks a permission: no")
    assert told.spec.blocked() == "Hypervisor node-a cannot be read: virtsync-agent lacks a permission: no."


def test_a_spec_that_is_not_understood_blocks(told: Told) -> None:
    told.spec.read(hypervisor(wrong='spec.maintenance.mode "Drain"'))
    assert told.spec.blocked() == (
        'This version of virtsync does not understand spec.maintenance.mode "Drain" of Hypervisor node-a: '
        "upgrade the agent or change the spec."
    )
    assert told.spec.unready()


def test_an_agent_that_only_observes_is_never_blocked() -> None:
    told = Told(observe_only=True)
    assert told.spec.blocked() == ""
    assert told.spec.unready()
