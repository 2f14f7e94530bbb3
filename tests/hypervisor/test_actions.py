"""Each action has a libvirt call, and a phase in which there is nothing left to do."""

from controller.hypervisor.host import CALLS
from controller.policy.view import Action


def test_each_action_can_be_executed() -> None:
    assert set(CALLS) == set(Action)
