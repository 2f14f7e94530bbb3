"""An agent takes over what an agent of the version before has reported, and the other way round.

That version's status has no `decidedReason`, `decidedTransitionTime`, `hostUUID` and `runTransitionTime`, and its
agent records no start. Its source is taken from the history of this repository, and runs in the environment of the
present one. The definition is the present one all the time, as docs/operations.md says. What was asked of libvirt is
read from libvirtd's own record.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from chaos.judge import asked
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.world import Json, World, cause_of, moment_after, power_of, ready_of, reason_of, runs, until
from tests.integration.before import unpack_before

NEW_FIELDS = {"decidedReason", "decidedTransitionTime", "hostUUID", "runTransitionTime"}
NEW_PARTS = {"domain": {"shutdownRequestTime"}, "operation": {"forMaintenance"}}
"""Fields of fields that are new."""

HOOK = """\
#!/bin/sh
cd /var/lib/libvirt/guests
while [ -e "hang-$2-$1" ]; do
    touch "hangs-$2-$1"
    sleep 0.1
done
"""
HOLD = "hold.virtsync.dev/ann"
NEVER_DUE = {"gracePeriodSeconds": 3600, "mode": "Graceful"}

Env = dict[str, str]


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Env:
    """What makes `python -m controller` the agent of the version before, whatever the working directory is."""
    return unpack_before(tmp_path_factory.mktemp("before"))


@contextmanager
def recording_libvirtd() -> Iterator[Libvirtd]:
    """One that keeps a record of what it is asked, and whose starts hang while a test wants it."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as folder:
        hook = Path(folder) / "etc/hooks/qemu"
        hook.parent.mkdir(parents=True)
        hook.write_text(HOOK)
        hook.chmod(0o755)
        with Libvirtd(Path(folder), logged=True) as running:
            yield running


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    """The one of the node; a test may stop it, and starts it again."""
    with recording_libvirtd() as running:
        yield running


@pytest.fixture(scope="module")
def libvirtd_b() -> Iterator[Libvirtd]:
    """The one of node b."""
    with recording_libvirtd() as running:
        yield running


def test_vms_at_rest_are_taken_over(world: World, older: Env) -> None:
    settings = {"settle_pause": "1h", "backoff_first": "1h", "backoff_max": "1h", "brake_hold": "0s"}
    on, paused, observed, held = started(world, "on", "paused", "observed", "held")
    done, failed, crashing, settling = started(world, "done", "failed", "crashing", "settling")
    off = world.define("off")
    world.virsh("suspend", paused.name)
    world.apply(on, held, crashing, settling, powerState="Running")
    world.apply(done, failed, powerState="Running", restartPolicy="Never")
    world.apply(off, powerState="Stopped")
    world.apply(paused, powerState="Paused")
    world.apply(observed)
    hold(world, held)
    old = world.start_agent(env=older, **settings)
    until_told(world, "InSync", on, off, paused, held, done, failed, crashing, settling)
    until_told(world, "Observed", observed)
    done.poweroff()
    held.poweroff()
    world.virsh("suspend", settling.name)
    failed.kill()
    crashing.kill()
    world.until(crashing, lambda vm: runs(vm) and vm["status"]["restartCount"] == 1, "restarted once")
    crashing.kill()
    waiting = {done: "Completed", failed: "Failed", settling: "Settling", held: "Held", crashing: "CrashLoopBackOff"}
    for guest, reason in waiting.items():
        until_told(world, reason, guest)
    old.stop()
    before = reports_before(world, on, off, paused, observed, *waiting)
    acts = asked_so_far(*before)

    world.start_agent(**settings)

    until_taken_over(world, before)
    # By the end of a settle time that begins now, whatever the agent was about to do would be done.
    on.poweroff()
    world.until_off(on, "Guest")
    world.until(on, runs, "started after a settle time")
    for guest in before.keys() - {on}:
        assert without_new(world.get(guest)) == before[guest], guest.name
    assert asked_since(acts) == {on: ["START"]}


def test_stops_in_flight_are_taken_over(world: World, older: Env) -> None:
    stopping, restarting, gone = guests = started(world, "stopping", "restarting", "gone")
    world.apply(*guests, powerState="Running", shutdown=NEVER_DUE)
    old = world.start_agent(env=older, acpi_resend="1h")
    until_told(world, "InSync", *guests)
    for guest in guests:
        guest.ignore_power_button()
    world.patch(stopping, powerState="Stopped")
    world.patch(restarting, restartRequestTime=moment_after(world.get(restarting)))
    world.patch(gone, restartRequestTime=moment_after(world.get(gone)))
    for guest in guests:
        world.until_act(guest, "SHUTDOWN done")
    until_told(world, "ShuttingDown", stopping)
    until_told(world, "Restarting", restarting)
    old.stop()
    before = reports_before(world, stopping, restarting)
    acts = asked_so_far(*guests)
    gone.poweroff()
    until(lambda: world.run_id(gone) == "-", "it is not off")

    world.start_agent(acpi_resend="1h")

    until_taken_over(world, before)  # with the same deadline
    # What was asked for before goes on: it is started once, after the two looks that a stop by another process takes.
    again = world.until(gone, runs, "running again")["status"]
    assert again["lastStop"]["cause"] == "Agent"
    assert "operation" not in again
    world.outlast_settling()
    for guest, status in before.items():
        assert without_new(world.get(guest)) == status, guest.name
    # The button is pressed again, for a new process does not know when it was.
    assert asked_since(acts) == {stopping: ["SHUTDOWN"], restarting: ["SHUTDOWN"], gone: ["START"]}


def test_reboot_between_the_versions(world: World, older: Env) -> None:
    on, held, done, stopping = started(world, "on", "held", "done", "stopping")
    world.apply(on, held, powerState="Running")
    world.apply(done, powerState="Running", restartPolicy="Never")
    world.apply(stopping, powerState="Running", shutdown=NEVER_DUE)
    hold(world, held)
    old = world.start_agent(env=older)
    until_told(world, "InSync", on, held, done, stopping)
    done.poweroff()
    until_told(world, "Completed", done)
    stopping.ignore_power_button()
    world.patch(stopping, powerState="Stopped")
    world.until_act(stopping, "SHUTDOWN done")
    old.stop()
    acts = asked_so_far(on, held, done, stopping)
    world.libvirtd.halt()
    for guest in (on, held, stopping):
        guest.kill()
    world.libvirtd.start()

    # It knows the host's UUID and the former report tells none: the same host, in another boot.
    world.start_agent(boot_id="second-boot")

    for guest, reason in {held: "Held", done: "Completed", stopping: "InSync"}.items():
        assert ready_of(until_present(world, guest))["reason"] == reason, guest.name
    for guest, cause in {on: "NodeReboot", held: "NodeReboot", done: "Guest", stopping: "NodeReboot"}.items():
        assert cause_of(until_present(world, guest)) == cause, guest.name
    world.until(on, runs, "started")
    world.outlast_settling()
    assert asked_since(acts) == {on: ["START"]}


@pytest.mark.parametrize("libvirt_away", [False, True], ids=["held", "unreachable"])
def test_hold_released_between_the_versions(world: World, older: Env, *, libvirt_away: bool) -> None:
    to_stop, to_start, to_accept = guests = started(world, "to-stop", "to-start", "to-accept")
    world.apply(*guests, powerState="Running", shutdown={"mode": "Force"})
    hold(world, *guests)
    old = world.start_agent(env=older)
    until_told(world, "InSync", *guests)
    world.patch(to_stop, powerState="Stopped")
    to_start.poweroff()
    to_accept.poweroff()
    until_told(world, "Held", *guests)
    if libvirt_away:
        world.libvirtd.halt()
        until_told(world, "LibvirtUnreachable", *guests)
    old.stop()
    release(world, *guests)
    world.patch(to_accept, restartPolicy="Never")
    if libvirt_away:
        world.libvirtd.start()
    acts = asked_so_far(*guests)

    world.start_agent(settle_power="1h")

    for guest in guests:
        vm = until_present(world, guest)
        assert vm["status"]["decidedReason"] == reason_of(vm) == "Settling"
        # Of what libvirt's absence has overwritten nobody knows that it was a hold; the settle time is the same.
        if not libvirt_away:
            world.until_event(guest, "HoldReleased")
    world.outlast_settling()
    assert asked_since(acts) == {}
    for vm in map(world.get, guests):
        assert reason_of(vm) == "Settling"
        assert "completionTime" not in vm["status"]


def test_node_handover_from_the_version_before(world: World, libvirtd_b: Libvirtd, older: Env) -> None:
    a, b = world.node, f"{world.node}-b"
    on_a = world.start()
    on_b = world.define(libvirtd=libvirtd_b, uuid=on_a.uuid)
    world.apply(on_a, powerState="Running")
    old = world.start_agent(env=older)
    told = world.until(on_a, runs, "in sync on a")["status"]
    assert not NEW_FIELDS & told.keys()
    world.start_agent(node=b, uri=libvirtd_b.uri)
    world.patch(on_a, nodeName=b)
    message = ready_of(world.until_ready(on_a, "HandoverUnconfirmed"))["message"]
    vouching = f"{a} {told['powerStateTransitionTime']}"
    assert message.endswith(f" virtsync.dev/confirmed-off='{vouching}'")
    old.stop()
    on_a.kill()

    vouch(world, on_a, a)
    refused = world.until(on_a, lambda vm: "a node name alone" in ready_of(vm).get("message", ""), "told what is wrong")
    assert reason_of(refused) == "HandoverUnconfirmed"
    assert ready_of(refused)["message"].endswith(f"'{vouching}'")
    assert asked_of(on_b) == []

    vouch(world, on_a, vouching)
    world.until(on_a, lambda vm: runs(vm) and vm["status"]["nodeName"] == b, "running on b")
    assert asked_of(on_b) == ["START"]
    assert asked_of(on_a) == ["START"]  # by this test


def test_node_handover_during_a_start_by_the_version_before(world: World, libvirtd_b: Libvirtd, older: Env) -> None:
    a, b = world.node, f"{world.node}-b"
    on_a = world.define()
    on_b = world.define(libvirtd=libvirtd_b, uuid=on_a.uuid)
    world.apply(on_a, powerState="Stopped")
    old = world.start_agent(env=older)
    until_told(world, "InSync", on_a)
    world.start_agent(node=b, uri=libvirtd_b.uri)
    with hanging_starts(on_a):
        world.patch(on_a, powerState="Running")
        until_hanging(on_a)
        old.kill()
        # All that it has told of its start: it keeps no record of one.
        report = world.get(on_a)
        assert (power_of(report), reason_of(report)) == ("Stopped", "Starting")
        assert not report["status"].keys() & {*NEW_FIELDS, "operation"}
        world.patch(on_a, nodeName=b)
        unconfirmed = world.until_ready(on_a, "HandoverUnconfirmed")
        doubt = f"{a} last reported this VM as Stopped. But libvirt on {a} was still working on the VM."
        assert doubt in ready_of(unconfirmed)["message"]
    # Not only the first look finds that in the report.
    world.patch(on_a, restartPolicy="OnFailure")
    until_told(world, "HandoverUnconfirmed", on_a)
    on_a.wait_until_booted()
    assert asked_of(on_a) == ["START"]
    assert asked_of(on_b) == []


@pytest.mark.timeout(400)
def test_back_to_the_version_before_and_here_again(world: World, older: Env) -> None:
    on, held, released, done, stopping = started(world, "on", "held", "released", "done", "stopping")
    off = world.define("off")
    world.apply(on, held, released, powerState="Running", shutdown={"mode": "Force"})
    world.apply(done, powerState="Running", restartPolicy="Never")
    world.apply(stopping, powerState="Running", shutdown=NEVER_DUE)
    world.apply(off, powerState="Stopped")
    hold(world, held, released)
    new = world.start_agent(brake_hold="0s", acpi_resend="1h")
    until_told(world, "InSync", on, held, released, done, stopping, off)
    stopping.ignore_power_button()
    done.poweroff()
    held.poweroff()
    world.patch(stopping, powerState="Stopped")
    world.patch(released, powerState="Stopped")
    world.until_act(stopping, "SHUTDOWN done")
    for guest, reason in {done: "Completed", held: "Held", released: "Held", stopping: "ShuttingDown"}.items():
        assert world.until_ready(guest, reason)["status"]["decidedReason"] == reason
    new.stop()
    release(world, released)
    kept = [on, off, held, done, stopping]
    before = {guest: without_new(world.get(guest)) for guest in kept}
    acts = asked_so_far(released, *kept)

    # It removes the fields that it does not know, so that none of them is outdated when the present version comes back.
    # What it forgets with them: a hold or a settle time that an outage has overwritten in Ready, which machine has the
    # name of the node, and starts on record.
    old = world.start_agent(env=older, settle_power="1h", brake_hold="0s", acpi_resend="1h")
    for guest in kept:
        vm = world.until(guest, lambda vm: not vm["status"].keys() & NEW_FIELDS, "reported by the version before")
        assert without_new(vm) == before[guest], guest.name
    until_told(world, "Settling", released)
    world.until_event(released, "HoldReleased")
    world.outlast_settling()
    old.stop()
    before |= reports_before(world, released)

    world.start_agent(settle_power="1h", brake_hold="0s", acpi_resend="1h")
    until_taken_over(world, before)
    world.outlast_settling()
    # The button is pressed once by each new process.
    assert asked_since(acts) == {stopping: ["SHUTDOWN", "SHUTDOWN"]}


@pytest.mark.parametrize("back", [False, True], ids=["upgrade", "back"])
def test_start_under_way_between_the_versions(world: World, older: Env, *, back: bool) -> None:
    versions: list[Env] = [{}, older] if back else [older, {}]
    first, second = (world.new_agent(env=version) for version in versions)
    switched_on, restarting = world.define("switched-on"), world.start("restarting")
    world.apply(switched_on, powerState="Stopped")
    world.apply(restarting, powerState="Running", shutdown={"mode": "Force"})
    first.start()
    until_told(world, "InSync", switched_on, restarting)
    acts = asked_so_far(switched_on, restarting)
    with hanging_starts(switched_on, restarting):
        world.patch(switched_on, powerState="Running")
        world.patch(restarting, restartRequestTime=moment_after(world.get(restarting)))
        until_hanging(switched_on, restarting)
        first.kill()
        assert world.get(switched_on)["status"].get("operation", {}).get("type") == ("Start" if back else None)
        second.launch()
        for guest in acts:
            world.until(guest, cannot_look, "told that libvirt does not answer")
    second.wait_until_ready()
    # The version before does not know the record of a start. On the same host it does without: libvirt shows it
    # nothing of the VM before the call is over. If the VM were given another node meanwhile, it could run on both.
    for guest in acts:
        running = world.until(guest, runs, "running")["status"]
        assert "operation" not in running
        assert (running.keys() >= NEW_FIELDS) is not back
    world.outlast_settling()
    assert asked_of(switched_on) == [*acts[switched_on], "START"]
    assert asked_of(restarting) == [*acts[restarting], "DESTROY", "START"]


# --- helpers


def started(world: World, *names: str) -> list[Guest]:
    """Guests that have booted; they boot together."""
    guests = [world.define(name) for name in names]
    for guest in guests:
        world.virsh("start", guest.name)
    for guest in guests:
        guest.wait_until_booted()
    return guests


def hold(world: World, *guests: Guest) -> None:
    """Hold them."""
    world.kubectl("annotate", "kvm", *(guest.name for guest in guests), f"{HOLD}=backup")


def release(world: World, *guests: Guest) -> None:
    """Remove that hold."""
    world.kubectl("annotate", "kvm", *(guest.name for guest in guests), f"{HOLD}-")


def vouch(world: World, guest: Guest, value: str) -> None:
    """Vouch with this value that it is off."""
    world.kubectl("annotate", "--overwrite", "kvm", guest.name, f"virtsync.dev/confirmed-off={value}")


def asked_of(guest: Guest) -> list[str]:
    """The acts that its libvirtd was asked for, by anybody."""
    return asked(guest.libvirtd.calls_log, guest.uuid)


def asked_so_far(*guests: Guest) -> dict[Guest, list[str]]:
    """The same of each."""
    return {guest: asked_of(guest) for guest in guests}


def asked_since(before: dict[Guest, list[str]]) -> dict[Guest, list[str]]:
    """The acts that were asked for since then, of guests of which any were."""
    made = {guest: asked_of(guest)[len(acts) :] for guest, acts in before.items()}
    return {guest: acts for guest, acts in made.items() if acts}


def until_told(world: World, reason: str, *guests: Guest) -> None:
    """Wait until Ready tells this reason of each."""
    for guest in guests:
        world.until_ready(guest, reason)


def until_present(world: World, guest: Guest) -> Json:
    """Wait for the first report of an agent of the present version."""
    return world.until(guest, lambda vm: "decidedReason" in vm["status"], "reported by the present version")


def until_taken_over(world: World, before: dict[Guest, Json]) -> None:
    """Wait for the first report of the present version on each, which says what was said before."""
    for guest, status in before.items():
        vm = until_present(world, guest)
        assert vm["status"].keys() >= NEW_FIELDS
        assert vm["status"]["decidedReason"] == ready_of(vm)["reason"]
        assert without_new(vm) == status, guest.name


def reports_before(world: World, *guests: Guest) -> dict[Guest, Json]:
    """The statuses that the version before has left, without their messages."""
    before = {guest: world.get(guest) for guest in guests}
    assert not any(vm["status"].keys() & NEW_FIELDS for vm in before.values())
    return {guest: without_new(vm) for guest, vm in before.items()}


def without_new(vm: Json) -> Json:
    """Its status as the version before knows it, but for the messages: each version has its own words."""
    kept = {key: value for key, value in vm["status"].items() if key not in NEW_FIELDS}
    for field, new in NEW_PARTS.items():
        if field in kept:
            kept[field] = {key: value for key, value in kept[field].items() if key not in new}
    words = [{key: value for key, value in one.items() if key != "message"} for one in kept["conditions"]]
    return kept | {"conditions": words}


def cannot_look(vm: Json) -> bool:
    """libvirt does not answer what is asked of this domain."""
    return ready_of(vm).get("reason") in {"LibvirtUnreachable", "HypervisorBusy"}


@contextmanager
def hanging_starts(*guests: Guest) -> Iterator[None]:
    """While this lasts, each start of them hangs in libvirtd."""
    with ExitStack() as undo:
        for guest in guests:
            hang = guest.libvirtd.guests / f"hang-prepare-{guest.name}"
            hang.touch()
            undo.callback(hang.unlink)
        yield


def until_hanging(*guests: Guest) -> None:
    """Wait until a start of each hangs."""
    for guest in guests:
        until(
            (guest.libvirtd.guests / f"hangs-prepare-{guest.name}").exists, f"the start of {guest.name} does not hang"
        )
