"""How long an event explains what a domain does."""

from uuid import uuid4

import libvirt

from controller.hypervisor.events import Evidences
from controller.policy.view import Evidence

UUID = uuid4()
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
