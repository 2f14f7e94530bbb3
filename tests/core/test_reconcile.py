"""What a pass does between its ends, which are simulated: found by the simulation, and kept."""

from dataclasses import replace

from controller.model import Reason, Verb, VmKey
from tests.sim.api import SimulatedApi
from tests.sim.node import WAITS, Clock, SimulatedNode


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
    assert (key("third"), Verb.START) in node.judge.done


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
    assert [verb for _, verb in node.judge.done] == [Verb.SHUTDOWN]
