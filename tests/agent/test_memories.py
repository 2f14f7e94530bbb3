"""How long an event waits for its report: the first event counts, through every failure."""

from controller.agent.memories import PassMemories
from controller.api.virtualmachine import VmKey
from controller.policy.view import VmMemory

WEB, DB = VmKey("vms", "web"), VmKey("vms", "db")


def test_an_event_is_as_old_as_the_first_since_the_last_report() -> None:
    memories = PassMemories()
    memories.event(WEB, 10)
    memories.event(WEB, 12)
    assert memories.take_event(WEB) == 10
    memories.remember(WEB, VmMemory())
    assert memories.take_event(WEB) is None


def test_an_event_whose_report_failed_is_still_the_oldest() -> None:
    memories = PassMemories()
    memories.event(WEB, 10)
    memories.take_event(WEB)
    memories.event(WEB, 15)
    assert memories.take_event(WEB) == 10


def test_an_event_during_a_pass_waits_for_the_next_report() -> None:
    memories = PassMemories()
    memories.event(WEB, 10)
    memories.take_event(WEB)
    memories.event(WEB, 11)
    memories.remember(WEB, VmMemory())
    assert memories.oldest_event_s() == 11
    assert memories.take_event(WEB) == 11


def test_the_oldest_event_of_all_vms_counts_until_it_is_reported_or_forgotten() -> None:
    memories = PassMemories()
    assert memories.oldest_event_s() is None
    memories.event(WEB, 10)
    memories.event(DB, 20)
    memories.take_event(WEB)
    assert memories.oldest_event_s() == 10
    memories.remember(WEB, VmMemory())
    assert memories.oldest_event_s() == 20
    memories.forget(DB)
    assert memories.oldest_event_s() is None
    memories.event(WEB, 30)
    memories.take_event(WEB)
    memories.forget(WEB)
    assert memories.oldest_event_s() is None
