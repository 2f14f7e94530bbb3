"""What a pass does between its ends, which are simulated: found by the simulation, and kept."""

from dataclasses import replace
from uuid import UUID

import pytest

from controller.agent.lookups import LOOKUP_OVERDUE_S
from controller.agent.reconcile import _notices
from controller.api.hypervisor import Maintenance, MaintenanceMode, RunsElsewhere
from controller.api.json_mapping import EPOCH
from controller.api.names import EventReason
from controller.api.notice import Notice
from controller.api.virtualmachine import Reason, Status, VirtualMachine, VmKey
from controller.policy.view import Action, Domain, Facts, Outcome, PowerAction, Result, Step, VmMemory
from controller.runtime.errors import Conflicted, Rejected, Transient
from tests.sim.api import SimulatedApi
from tests.sim.host import SimulatedHost
from tests.sim.node import WAITS, Clock, SimulatedNode, Watched, Written


def key(name: str) -> VmKey:
    return VmKey("default", name)


def node_with(*names: str, **spec: str) -> SimulatedNode:
    """A node where these run, as their objects say, and have been looked at."""
    clock = Clock()
    api = SimulatedApi(clock.wall)
    node = SimulatedNode("node-a", api, clock)
    for name in names:
        guest = node.libvirtd.define(name)
        node.judge.keys[guest.uuid] = key(name)
        guest.start()
        api.create(key(name), {"nodeName": "node-a", **spec})
    works(node)
    return node


def works(node: SimulatedNode) -> None:
    """The agent does all that is to be done now."""
    agent = node.agent
    while agent.hears_watch() or agent.hears_event() or agent.passes() or node.calls_go_on():
        pass
    assert not node.judge.wrongs


def test_the_stop_that_a_look_is_the_first_to_see_puts_the_brake_on() -> None:
    """Without a settle time the look that sees the third stop is the one that would start it again."""
    node = node_with("first", "second", "third", powerState="Running")
    node.agent.reconciler._waits = replace(WAITS, settle_power_s=0.0)
    for name in ("first", "second"):
        guest = node.libvirtd.named(name)
        assert guest
        guest.poweroff()
    works(node)
    third = node.libvirtd.named("third")
    assert third
    node.judge.done.clear()
    third.poweroff()
    works(node)
    vm = node.agent.objects.read(key("third"))
    assert vm
    assert vm.status.reason == Reason.SETTLING
    assert "Several VMs" in vm.status.conditions[0].message
    assert not node.judge.done
    node.clock.at_s += WAITS.brake_hold_s
    works(node)
    node.clock.at_s += 1
    works(node)
    assert (key("third"), Action.START) in node.judge.done


def test_an_agent_that_may_no_longer_act_once_its_report_has_gone_out_does_not() -> None:
    """A report may take long, and the Lease of the node has run out meanwhile."""
    node = node_with("web")
    standing, may_not = node.agent.reconciler._node, ""
    node.agent.reconciler._node = lambda: replace(standing(), blocked=may_not)

    def runs_out() -> None:
        nonlocal may_not
        may_not = "The Lease is not held."

    node.agent.meanwhile["after the report"] = runs_out
    node.api.edit(key("web"), {"powerState": "Stopped"})
    works(node)
    vm = node.agent.objects.read(key("web"))
    assert vm
    assert vm.status.reason == Reason.ACTION_BLOCKED
    assert not node.judge.done
    may_not = ""
    node.agent.queue.add(key("web"))
    works(node)
    assert [action for _, action in node.judge.done] == [Action.SHUTDOWN]


def test_a_maintenance_that_begins_while_a_report_goes_out_forbids_the_act() -> None:
    """Otherwise the act would begin after the maintenance was acknowledged."""
    node = node_with("web")
    standing, maintenance = node.agent.reconciler._node, None
    node.agent.reconciler._node = lambda: replace(standing(), maintenance=maintenance)

    def begins() -> None:
        nonlocal maintenance
        maintenance = Maintenance(MaintenanceMode.HOLD, "new RAM")

    node.agent.meanwhile["after the report"] = begins
    node.api.edit(key("web"), {"powerState": "Stopped"})
    works(node)
    assert reason_of(node, "web") == Reason.HELD
    assert not node.judge.done


def test_a_change_that_the_watch_brings_while_a_report_goes_out_is_obeyed() -> None:
    node = node_with("web", powerState="Running")

    def user_changes_their_mind() -> None:
        node.api.edit(key("web"), {"powerState": "Running"})
        assert node.agent.hears_watch()

    node.agent.meanwhile["after the report"] = user_changes_their_mind
    node.api.edit(key("web"), {"powerState": "Stopped", "shutdown": {"mode": "Force"}})
    works(node)
    assert reason_of(node, "web") == Reason.RESTARTING  # the stop is recorded, and nothing but the VM can end it
    assert not node.judge.done


def test_an_object_that_was_deleted_while_a_report_goes_out_is_not_acted_on() -> None:
    node = node_with("web", powerState="Running")

    def user_deletes_it() -> None:
        node.agent.objects.gone(node.api.delete(key("web")))

    node.agent.meanwhile["after the report"] = user_deletes_it
    node.api.edit(key("web"), {"powerState": "Stopped", "shutdown": {"mode": "Force"}})
    works(node)
    assert not node.judge.done


def test_an_object_that_is_not_understood_takes_no_domain_after_a_restart_either() -> None:
    node = node_with("web", powerState="Running")
    node.api.create(key("newer"), {"nodeName": "node-a", "powerState": "Asleep", "domain": {"name": "web"}})
    node.api.objects[key("newer")]["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z"  # older than web
    works(node)
    assert reason_of(node, "web") == Reason.IN_SYNC
    node.restart_agent()
    works(node)
    assert reason_of(node, "web") == Reason.IN_SYNC


def test_an_object_that_is_not_understood_keeps_its_domain_after_a_restart() -> None:
    node = node_with("web", powerState="Running")
    node.clock.at_s += 10
    node.api.create(key("newer"), {"nodeName": "node-a", "powerState": "Stopped", "domain": {"name": "web"}})
    works(node)
    assert reason_of(node, "newer") == Reason.DOMAIN_CONFLICT
    node.api.edit(key("web"), {"powerState": "Asleep"})
    works(node)
    node.restart_agent()
    works(node)
    assert reason_of(node, "web") == Reason.SPEC_NOT_UNDERSTOOD
    assert reason_of(node, "newer") == Reason.DOMAIN_CONFLICT
    assert not [action for _, action in node.judge.done if action is not Action.START]


def test_a_run_elsewhere_that_is_found_while_a_report_goes_out_forbids_the_start() -> None:
    node = node_with("web", powerState="Stopped")
    elsewhere: list[RunsElsewhere] = []
    node.agent.reconciler._runs_elsewhere = lambda uuid: tuple(one for one in elsewhere if one.uuid == uuid)
    guest = node.libvirtd.named("web")
    assert guest
    found = RunsElsewhere(guest.uuid, "node-b", node.clock.wall())
    node.agent.meanwhile["after the report"] = lambda: elsewhere.append(found)
    node.judge.done.clear()
    node.api.edit(key("web"), {"powerState": "Running"})
    works(node)
    assert reason_of(node, "web") == Reason.RUNS_ELSEWHERE
    assert not node.judge.done


# --- what hangs, and who tells of it ---------------------------------------------------------------------


def reason_of(node: SimulatedNode, name: str) -> str:
    """What the API server has of it."""
    conditions = node.api.objects[key(name)]["status"]["conditions"]
    return next(str(condition["reason"]) for condition in conditions if condition["type"] == "Ready")


def test_8_11_a_vm_whose_facts_libvirt_does_not_tell_is_told_unreachable_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = node_with("web", powerState="Running")
    told: list[str] = []
    facts = Watched.facts

    def hangs(host: Watched, domain: Domain) -> Facts:
        if not told:
            node.clock.at_s += LOOKUP_OVERDUE_S + 1
            node.agent.reconciler.report_overdue_lookups()
            told.append(reason_of(node, "web"))
        return facts(host, domain)

    monkeypatch.setattr(Watched, "facts", hangs)
    node.api.edit(key("web"), {"powerState": "Stopped"})
    works(node)
    assert told == [Reason.LIBVIRT_UNREACHABLE]
    assert [action for _, action in node.judge.done] == [Action.SHUTDOWN]


def test_8_10_a_report_beside_a_pass_does_not_forget_the_call_that_the_pass_has_made() -> None:
    """The pass was answered and has started the VM while the report about its silence was on its way."""
    node = node_with("web", powerState="Running")
    node.api.edit(key("web"), {"powerState": "Stopped"})
    works(node)
    guest = node.libvirtd.named("web")
    assert guest
    guest.poweroff()
    works(node)
    agent = node.agent
    node.api.edit(key("web"), {"powerState": "Running"})
    agent.hears_watch()
    agent.reconciler._lookups._since_s[key("web")] = node.clock() - LOOKUP_OVERDUE_S - 1

    def goes_on() -> None:
        assert agent.passes()

    agent.meanwhile["before the report"] = goes_on
    agent.reconciler.report_overdue_lookups()
    assert agent.reconciler._memories.of(key("web")).start_called
    works(node)
    assert [action for _, action in node.judge.done].count(Action.START) == 1


def test_8_4_one_vm_whose_report_is_refused_keeps_no_other_from_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    node = node_with("first", "second", powerState="Running")
    report = Written.report

    def refuses(store: Written, vm: VirtualMachine, status: Status) -> VirtualMachine:
        if vm.key == key("first"):
            raise Rejected("the status is not valid")
        return report(store, vm, status)

    monkeypatch.setattr(Written, "report", refuses)
    for name in ("first", "second"):
        node.agent.reconciler._lookups._since_s[key(name)] = node.clock() - LOOKUP_OVERDUE_S - 1
    node.agent.reconciler.report_overdue_lookups()
    assert reason_of(node, "second") == Reason.HYPERVISOR_BUSY


def refusals(refused: Action, monkeypatch: pytest.MonkeyPatch) -> list[Action]:
    """Have libvirt refuse this action. Return the list in which each refusal is noted."""
    act, noted = SimulatedHost.act, list[Action]()

    def refuses(host: SimulatedHost, action: PowerAction) -> Result:
        if action.kind is refused:
            noted.append(action.kind)
            raise Rejected("not now")
        return act(host, action)

    monkeypatch.setattr(SimulatedHost, "act", refuses)
    return noted


@pytest.mark.parametrize(
    ("refused", "changes", "reason", "verb"),
    [
        (Action.SUSPEND, {"powerState": "Paused"}, Reason.ACTION_FAILED, "pause"),
        (Action.SHUTDOWN, {"powerState": "Stopped"}, Reason.ACTION_FAILED, "shut down"),
        (Action.START, {}, Reason.START_FAILED, "start"),
    ],
    ids=str,
)
def test_an_action_that_libvirt_refuses_has_an_event(
    refused: Action, changes: dict[str, str], reason: Reason, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_with("web", powerState="Running")
    refusals(refused, monkeypatch)
    events = list[Notice]()
    monkeypatch.setattr(node.agent.reconciler._recorder, "record", lambda _vm, notice: events.append(notice))
    if changes:
        node.api.edit(key("web"), changes)
    else:
        guest = node.libvirtd.named("web")
        assert guest
        guest.poweroff()
    for _ in range(2):
        works(node)
        node.clock.at_s += 2 * WAITS.settle_power_s
    told = next(one for one in events if one.reason == reason)
    assert told.warning
    assert told.note == f"libvirt refused to {verb} the VM: not now"
    assert told.action == refused.name.title()


def test_the_refusals_of_one_stop_are_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent writes few Events: those about the forced stops that follow must not be dropped."""
    node = node_with("web", powerState="Running")
    refused, events = refusals(Action.SHUTDOWN, monkeypatch), list[str]()
    monkeypatch.setattr(node.agent.reconciler._recorder, "record", lambda _vm, notice: events.append(notice.reason))
    node.api.edit(key("web"), {"powerState": "Stopped"})
    while EventReason.FORCED_OFF not in events:
        works(node)
        node.clock.at_s += 1
    assert len(refused) > 2
    assert events == [Reason.ACTION_FAILED, EventReason.FORCED_OFF]


def test_what_a_forced_stop_made_fail_has_no_event() -> None:
    vm = VirtualMachine(key("web"), "web", 1, "1", EPOCH, "node-a")
    step = Step(Reason.SHUTTING_DOWN, "The VM is being forced off.", Status(), VmMemory())
    outcome = Outcome(Action.SHUTDOWN, Result.REFUSED, "the monitor is gone")
    assert [notice.reason for notice in _notices(vm, step, outcome)] == [Reason.ACTION_FAILED]
    assert _notices(vm, step, replace(outcome, overtaken=True)) == ()


def test_a4_from_the_second_conflict_in_a_row_there_is_backoff() -> None:
    node = node_with("web", powerState="Running")
    agent = node.agent

    def somebody_writes() -> None:
        node.api.edit(key("web"), {"powerState": "Stopped"}, {"at": str(node.clock())})

    for conflicts in (1, 2, 3):
        node.clock.at_s += 1
        node.api.edit(key("web"), {"powerState": "Stopped"}, {"before": str(conflicts)})
        agent.hears_watch()
        agent.meanwhile["before the report"] = somebody_writes
        if conflicts == 1:
            agent.reconciler.reconcile(key("web"))
        else:
            with pytest.raises(Conflicted):
                agent.reconciler.reconcile(key("web"))
    assert not node.judge.done
    works(node)
    assert [action for _, action in node.judge.done] == [Action.SHUTDOWN]
    assert not agent.reconciler._memories._conflicts


def test_a_vm_that_is_being_deleted_is_not_reported_beside_its_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    node = node_with("web", powerState="Running")
    store = node.agent.reconciler._store
    read = store.read

    def deleting(key: VmKey) -> VirtualMachine | None:
        vm = read(key)
        return vm and replace(vm, deleting=True)

    monkeypatch.setattr(store, "read", deleting)
    node.agent.reconciler._lookups._since_s[key("web")] = node.clock() - LOOKUP_OVERDUE_S - 1
    node.agent.reconciler.report_overdue_lookups()
    assert reason_of(node, "web") == Reason.IN_SYNC


def test_a_vm_that_was_reported_beside_its_pass_is_looked_at_again() -> None:
    """Its pass may have ended while that report was on its way, and then has found nothing to write."""
    node = node_with("web", powerState="Running")
    node.agent.reconciler._lookups._since_s[key("web")] = node.clock() - LOOKUP_OVERDUE_S - 1
    node.agent.reconciler.report_overdue_lookups()
    assert reason_of(node, "web") == Reason.HYPERVISOR_BUSY
    node.agent.reconciler._lookups._since_s.clear()
    while node.agent.passes():
        pass
    assert reason_of(node, "web") == Reason.IN_SYNC


def test_a_forced_stop_that_returns_during_a_look_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the domain was like when the call began is no news of it once the call has returned."""
    node = node_with("web", powerState="Running")
    node.api.edit(key("web"), {"powerState": "Stopped", "shutdown": {"mode": "Force"}})
    agent = node.agent
    agent.hears_watch()
    assert agent.passes()
    locked = agent.reconciler._runner.locked

    def returns(uuid: UUID | None) -> Domain | None:
        domain = locked(uuid)
        while node.calls_go_on():
            pass
        return domain

    monkeypatch.setattr(agent.reconciler._runner, "locked", returns)
    agent.queue.add(key("web"))
    assert agent.passes()
    assert [call for call in agent.calls if not call.begun] == []
    works(node)
    assert [action for _, action in node.judge.done] == [Action.DESTROY]


def unanswered(node: SimulatedNode, *kinds: Action) -> list[float]:
    """From now on, each of these calls fails at once without a result. When they were made, in monotonic seconds."""
    calls: list[float] = []
    act = node.agent.host.act

    def fails(action: PowerAction) -> Result:
        if action.kind not in kinds:
            return act(action)
        calls.append(node.clock.at_s)
        raise Transient("the reason")

    node.agent.host.act = fails  # type: ignore[method-assign]
    return calls


def test_calls_without_a_result_are_not_repeated_without_a_wait() -> None:
    node = node_with("web", powerState="Running")
    node.agent.reconciler._waits = replace(WAITS, settle_pause_s=0.0)
    calls = unanswered(node, Action.RESUME)
    guest = node.libvirtd.named("web")
    assert guest
    guest.do(Action.SUSPEND)
    for _ in range(60):
        works(node)
        node.clock.at_s += 1
    assert 2 <= len(calls) <= 4
    assert reason_of(node, "web") == Reason.ACTION_FAILED


def test_starts_without_a_result_are_not_repeated_without_a_wait() -> None:
    node = node_with("web", powerState="Running")
    calls = unanswered(node, Action.START)
    guest = node.libvirtd.named("web")
    assert guest
    guest.kill()
    for _ in range(120):
        works(node)
        node.clock.at_s += 1
    assert 3 <= len(calls) <= 6


def test_the_younger_object_has_the_domain_as_soon_as_the_older_one_is_gone() -> None:
    """The older one refers to the domain by its UUID, and the younger one by its name."""
    node = node_with("web")
    guest = node.libvirtd.named("web")
    assert guest
    node.api.delete(key("web"))
    node.api.create(key("older"), {"nodeName": "node-a", "domain": {"uuid": str(guest.uuid)}})
    works(node)
    node.clock.at_s += 60
    node.api.create(key("web"), {"nodeName": "node-a", "powerState": "Running"})
    works(node)
    assert reason_of(node, "web") == Reason.DOMAIN_CONFLICT
    node.api.delete(key("older"))
    works(node)
    assert reason_of(node, "web") == Reason.IN_SYNC


def test_a_shutdown_that_the_user_recalls_before_the_call_is_not_sent_and_not_waited_for() -> None:
    node = node_with("web", powerState="Running", restartPolicy="Never")

    def user_changes_their_mind() -> None:
        node.api.edit(key("web"), {"powerState": "Running"})
        assert node.agent.hears_watch()

    node.agent.meanwhile["after the report"] = user_changes_their_mind
    node.api.edit(key("web"), {"powerState": "Stopped"})
    works(node)
    assert reason_of(node, "web") == Reason.IN_SYNC
    assert node.judge.done == []
    vm = node.agent.objects.read(key("web"))
    assert vm
    assert vm.status.domain
    assert vm.status.domain.shutdown_request_time is None
