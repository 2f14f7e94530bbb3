"""How long an event explains what a domain does."""

from uuid import uuid4

import libvirt
import pytest

from controller.hypervisor.events import Evidences
from controller.policy.view import Evidence

UUID = uuid4()
MIGRATED = libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED
STOPPED = libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN
RESTORED = libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_RESTORED
RESUMED = libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_UNPAUSED
POWERED_OFF = libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST


def restored() -> Evidences:
    """The evidence of a domain whose memory was restored, and which a look shows paused."""
    evidences = Evidences()
    evidences.note(UUID, *RESTORED, at_s=1.0, run=3)
    assert evidences.of(UUID) == {Evidence.STARTED_RESTORED}
    return evidences


def test_a_restore_explains_no_pause_after_the_domain_was_resumed() -> None:
    evidences = restored()
    evidences.note(UUID, *RESUMED, at_s=2.0, run=3)
    assert not evidences.of(UUID)


def test_a_restore_explains_no_pause_after_the_domain_was_seen_running() -> None:
    """The agent might have missed that it was resumed."""
    evidences = restored()
    evidences.observed_running(UUID, asked_s=0.5)
    assert evidences.of(UUID) == {Evidence.STARTED_RESTORED}, "the look began before the restore"
    evidences.observed_running(UUID, asked_s=1.5)
    assert not evidences.of(UUID)


def test_a_domain_that_was_resumed_keeps_its_other_evidence() -> None:
    evidences = restored()
    evidences.note(UUID, *POWERED_OFF, at_s=2.0, run=3)
    evidences.note(UUID, *RESUMED, at_s=3.0, run=3)
    assert evidences.of(UUID) == {Evidence.SHUTDOWN_GUEST}
    evidences.note(uuid4(), *RESUMED, at_s=3.0, run=4)


def test_a_restore_before_the_connection_was_lost_explains_no_pause() -> None:
    """The agent might have missed that it was resumed, and what paused it then."""
    evidences = restored()
    evidences.connected()
    assert not evidences.of(UUID)


@pytest.mark.parametrize("ended", [False, True])
def test_an_arrival_outlives_the_connection_only_if_the_run_has_ended_here(*, ended: bool) -> None:
    """Otherwise the domain might have left again, and the agent missed that."""
    evidences = Evidences()
    evidences.note(UUID, *MIGRATED, at_s=1.0, run=3)
    if ended:
        evidences.note(UUID, *STOPPED, at_s=2.0)
    evidences.connected()
    assert (Evidence.STARTED_MIGRATED in evidences.of(UUID)) == ended


def test_an_arrival_whose_domain_runs_again_does_not_outlive_the_connection() -> None:
    evidences = Evidences()
    evidences.note(UUID, *MIGRATED, at_s=1.0, run=3)
    evidences.note(UUID, *STOPPED, at_s=2.0)
    evidences.observed_running(UUID, asked_s=3.0)
    evidences.connected()
    assert not evidences.of(UUID)
