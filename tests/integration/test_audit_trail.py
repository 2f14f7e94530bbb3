"""Who switched it, and why: `kubectl describe` alone answers that, and the log has a line for each act."""

import re
from dataclasses import dataclass

from lab.agent import ACTION_FINISHED
from lab.guest import Guest
from lab.world import World, is_off, moment_after, runs


@dataclass(frozen=True, slots=True)
class Told:
    """What `kubectl describe` says of a VM."""

    text: str

    @property
    def events(self) -> list[tuple[str, str]]:
        """The reason and the note of each Event, in order."""
        _, _, listed = self.text.partition("Events:")
        lines = re.findall(r"^  (?:Normal|Warning)\s+(\w+)\s+.*?virtsync\.dev/agent\s+(.*)$", listed, re.MULTILINE)
        return [(reason, note.strip()) for reason, note in lines]

    def field(self, *path: str) -> str:
        """A field by its headings, as `Last Stop`, `Cause`."""
        at = 0
        for heading in path:
            at = self.text.index(f"{heading}:", at)
        return self.text[at:].partition("\n")[0].partition(":")[2].strip()


def described(world: World, guest: Guest, *reasons: str) -> Told:
    """What is told when the Events with these reasons have come."""
    for reason in reasons:
        world.until_event(guest, reason)
    told = Told(world.kubectl("describe", "kvm", guest.name))
    assert [reason for reason, _ in told.events] == list(reasons)
    return told


def looked_after(world: World, **spec: object) -> Guest:
    """A VM that runs as its object says, looked after by an agent."""
    guest = world.start()
    world.apply(guest, powerState="Running", **spec)
    world.start_agent(acpi_resend="1h", force_wait="1s")
    world.until(guest, runs, "running")
    return guest


def assert_logged(world: World, guest: Guest, *acts: tuple[str, str, str | None, int]) -> None:
    """One structured line an act: its verb, the reason, the cause of the stop before, the spec's generation."""
    world.until_acts(guest, *(f"{verb} done" for verb, *_ in acts))
    lines = [line for line in world.agents[0].log_lines() if line["event"] == ACTION_FINISHED]
    logged = [(line["action"], line["reason"], line["last_stop_cause"], line["generation"]) for line in lines]
    assert logged == list(acts)
    assert {line["vm"] for line in lines} == {f"{world.name}/{guest.name}"}


def test_somebody_cut_its_power_and_it_was_started_again(world: World) -> None:
    guest = looked_after(world)
    world.virsh("destroy", guest.name)
    world.until_off(guest, "External")
    world.until(guest, runs, "running again")
    told = described(world, guest, "StoppedUnexpectedly", "Started")
    (_, stopped), (_, started) = told.events
    assert "Cause: External; spec generation 1." in stopped
    assert started == "The VM was stopped (cause: External) and was started. Reason: Starting; spec generation 1."
    assert told.field("Last Stop", "Cause") == "External"
    assert told.field("Restart Count") == "1"
    assert_logged(world, guest, ("START", "Starting", "External", 1))


def test_it_crashed_and_was_started_again(world: World) -> None:
    guest = looked_after(world)
    guest.kill()
    world.until_off(guest, "Crash")
    world.until(guest, runs, "running again")
    told = described(world, guest, "StoppedUnexpectedly", "Started")
    assert "Cause: Crash; spec generation 1." in told.events[0][1]
    assert "(cause: Crash)" in told.events[1][1]
    assert told.field("Last Stop", "Cause") == "Crash"
    assert_logged(world, guest, ("START", "Starting", "Crash", 1))


def test_a_commit_stopped_it_and_another_started_it(world: World) -> None:
    guest = looked_after(world)
    world.patch(guest, powerState="Stopped")
    world.until(guest, is_off, "off")
    world.patch(guest, powerState="Running")
    world.until(guest, runs, "running again")
    told = described(world, guest, "ShutdownRequested", "Started")
    asked, started = (note for _, note in told.events)
    assert "Reason: ShuttingDown; spec generation 2." in asked
    assert "Reason: Starting; spec generation 3." in started
    assert told.field("Last Stop", "Cause") == "Agent"
    assert told.field("Restart Count") == "0"
    assert_logged(world, guest, ("SHUTDOWN", "ShuttingDown", None, 2), ("START", "Starting", "Agent", 3))


def test_a_guest_that_did_not_obey_was_forced_off(world: World) -> None:
    guest = looked_after(world, shutdown={"gracePeriodSeconds": 2})
    guest.ignore_power_button()
    world.patch(guest, powerState="Stopped")
    world.until(guest, is_off, "off")
    told = described(world, guest, "ShutdownRequested", "ForcedOff")
    assert "its grace period is over" in told.events[1][1]
    assert "spec generation 2" in told.events[1][1]
    assert told.field("Last Stop", "Cause") == "Agent"
    assert_logged(world, guest, ("SHUTDOWN", "ShuttingDown", None, 2), ("DESTROY", "ShuttingDown", None, 2))


def test_a_restart_was_requested(world: World) -> None:
    guest = looked_after(world)
    at = moment_after(world.get(guest))
    world.patch(guest, restartRequestTime=at)
    world.until(guest, lambda vm: vm["status"].get("lastRestartTime") == at and runs(vm), "restarted")
    told = described(world, guest, "ShutdownRequested", "Restarted")
    assert "Reason: Restarting; spec generation 2." in told.events[0][1]
    assert told.events[1][1].startswith("The VM was started, to complete the requested restart.")
    assert told.field("Last Restart Time") == at
    assert_logged(world, guest, ("SHUTDOWN", "Restarting", None, 2), ("START", "Starting", "Agent", 2))
