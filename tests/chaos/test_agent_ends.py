"""The agent is asked to end, whatever it or its neighbours are at: it goes at once, in order, and leaves nothing."""

import fcntl
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.processes import paused
from lab.world import World, cause_of, is_off, power_of, ready_of, reason_of, runs, until

END_LIMIT_S = 15
"""The terminationGracePeriodSeconds of the DaemonSet: the kubelet kills what has not ended by then."""


def end(agent: Agent, number: int = signal.SIGTERM) -> None:
    """Ask it to end, and see it go in order."""
    agent.signal(number)
    assert agent.wait_until_ended(timeout_s=END_LIMIT_S) == 0
    assert has_said(agent, "agent stopped")


def has_said(agent: Agent, words: str) -> bool:
    """Whether a line of its log has these words."""
    return any(words in sentence for sentence in agent.log_sentences())


def waits_for_an_answer(agent: Agent) -> bool:
    """Whether a pass of it stands still: it takes milliseconds, unless something that it asks does not answer."""
    found = re.search(r"^workqueue_longest_running_processor_seconds{.*} (\S+)$", agent.metrics(), re.MULTILINE)
    assert found
    return float(found[1]) > 0.5


@contextmanager
def killed(end: Callable[[], None], start: Callable[[], None]) -> Iterator[None]:
    """It is killed, and comes back in the end."""
    end()
    try:
        yield
    finally:
        start()


def api_server(controlplane: ControlPlane, fault: str) -> AbstractContextManager[None]:
    name = "kube-apiserver"
    if fault == "hangs":
        return paused(controlplane.pid(name))
    return killed(lambda: controlplane.kill(name), lambda: controlplane.start(name))


def libvirt(libvirtd: Libvirtd, fault: str) -> AbstractContextManager[None]:
    return paused(libvirtd.pid) if fault == "hangs" else killed(libvirtd.kill, libvirtd.start)


def running(world: World, *names: str, **settings: str) -> tuple[Agent, list[Guest]]:
    """VMs that run, as their objects say, and an agent that looks after them."""
    guests = [world.start(name) for name in names]
    world.apply(*guests, powerState="Running", shutdown={"gracePeriodSeconds": 600})
    agent = world.start_agent(**settings)
    for guest in guests:
        world.until(guest, runs, "running")
    return agent, guests


def hand_is_free(libvirtd: Libvirtd) -> bool:
    """Whether another agent could act on it."""
    folder = os.open(libvirtd.socket.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(folder)
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_mid_action(world: World, number: signal.Signals) -> None:
    folder = world.folder / "tmp"
    folder.mkdir()
    guest = world.start()
    world.apply(guest, powerState="Running", shutdown={"gracePeriodSeconds": 600})
    agent = world.new_agent(env={"TMPDIR": str(folder)})
    agent.start()
    world.until(guest, runs, "running")
    with paused(guest.qemu_pid):
        world.patch(guest, powerState="Stopped")
        # The act is with libvirt, which does not answer.
        busy = world.until_ready(guest, "HypervisorBusy")
        assert "to shut down the VM" in ready_of(busy)["message"]
        assert not hand_is_free(world.libvirtd)
        end(agent, number)
        assert hand_is_free(world.libvirtd)
        assert list(folder.iterdir()) == []
        agent.start()
        operation = busy["status"]["operation"]
        assert world.get(guest)["status"]["operation"] == operation, "the deadline is the old one"
    off = world.until(guest, is_off, "off")
    assert cause_of(off) == "Agent"
    assert "operation" not in off["status"]


def test_sigterm_just_before_an_act_returns(world: World) -> None:
    """What comes of it is reported before it goes."""
    agent, (guest,) = running(world, "vm")
    with paused(guest.qemu_pid):
        world.patch(guest, powerState="Stopped")
        world.until_ready(guest, "HypervisorBusy")
        agent.signal(signal.SIGTERM)
        until(lambda: has_said(agent, "agent is stopping"), "it has not heard the signal")
    assert agent.wait_until_ended(timeout_s=END_LIMIT_S) == 0
    assert world.acts(guest) == ["SHUTDOWN done"]
    assert reason_of(world.get(guest)) != "HypervisorBusy"
    agent.start()
    assert cause_of(world.until(guest, is_off, "off")) == "Agent"


def test_sigterm_flushes_what_waits(world: World) -> None:
    """What was seen before is reported, and what would follow from it is left to the next agent."""
    agent, (guest,) = running(world, "vm", settle_pause="0s")
    with paused(world.controlplane.pid("kube-apiserver")):
        world.virsh("suspend", guest.name)
        until(lambda: waits_for_an_answer(agent), "no pass has begun")
        agent.signal(signal.SIGTERM)
        until(lambda: has_said(agent, "agent is stopping"), "it has not heard the signal")
    assert agent.wait_until_ended(timeout_s=END_LIMIT_S) == 0
    world.until(guest, lambda vm: power_of(vm) == "Paused", "told to be paused")
    assert world.acts(guest) == []
    assert world.virsh("domstate", guest.name) == "paused"
    agent.start()
    world.until(guest, runs, "resumed")


@pytest.mark.parametrize("fault", ["dead", "hangs"])
def test_sigterm_without_the_api_server(world: World, fault: str) -> None:
    agent, (guest,) = running(world, "vm")
    with api_server(world.controlplane, fault):
        world.virsh("suspend", guest.name)
        until(lambda: waits_for_an_answer(agent) or has_said(agent, "will retry"), "nobody wants to report it")
        end(agent)
    agent.start()
    world.until(guest, runs, "resumed")


@pytest.mark.parametrize("fault", ["dead", "hangs"])
def test_sigterm_without_libvirtd(world: World, fault: str) -> None:
    agent, (guest,) = running(world, "vm")
    with libvirt(world.libvirtd, fault):
        world.patch(guest, powerState="Stopped")
        end(agent)
    agent.start()
    world.until(guest, is_off, "off")


@pytest.mark.long
@pytest.mark.parametrize("since", ["could not list", "lost the connection"])
def test_sigterm_when_nobody_answers(world: World, since: str) -> None:
    """Each of its threads waits for somebody, or has given up and tries again."""
    agent, (guest,) = running(world, "vm", resync_libvirt="1s", resync_api="1s")
    with paused(world.controlplane.pid("kube-apiserver")):
        world.virsh("suspend", guest.name)
        until(lambda: waits_for_an_answer(agent), "nobody wants to report it")
        with paused(world.libvirtd.pid):
            until(lambda: has_said(agent, since), "it does not notice")
            end(agent)
    agent.start()
    world.until(guest, runs, "resumed")


def test_a_second_signal_changes_nothing(world: World) -> None:
    agent, (guest,) = running(world, "vm")
    with paused(world.libvirtd.pid):
        world.patch(guest, powerState="Stopped")
        until(lambda: waits_for_an_answer(agent), "nobody looks at it")
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            agent.signal(number)
            until(lambda: has_said(agent, "agent is stopping"), "it has not heard the signal")
        assert agent.wait_until_ended(timeout_s=END_LIMIT_S) == 0
    assert has_said(agent, "agent stopped")


def test_sigterm_before_anybody_has_answered(world: World) -> None:
    """An agent that could not begin can be ended."""
    agent = world.new_agent()
    with paused(world.libvirtd.pid), paused(world.controlplane.pid("kube-apiserver")):
        agent.launch()
        until(lambda: has_said(agent, "agent is starting"), "it has not started")
        end(agent)
