"""Which domain an object means, over renames, namesakes and rivals."""

from lab.world import World, power_of, reason_of, runs


def test_domain_absent_then_appears(world: World) -> None:
    guest = world.define()
    guest.remove()
    world.apply(guest, powerState="Running")
    world.start_agent()
    absent = world.until_ready(guest, "DomainNotFound")
    assert power_of(absent) == "Absent"
    world.until_event(guest, "DomainNotFound")
    world.define()
    world.until(guest, runs, "started as soon as it was defined")


def test_undefine_running(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until_ready(guest, "InSync")
    world.virsh("undefine", guest.name)
    world.until(guest, lambda vm: vm["status"]["domain"].get("persistent") is False, "told to be transient")
    world.virsh("destroy", guest.name)
    gone = world.until_ready(guest, "DomainNotFound")
    assert power_of(gone) == "Absent"


def test_identity_follows_a_rename(world: World) -> None:
    guest = world.define()
    world.apply(guest, powerState="Stopped")
    world.start_agent()
    world.until_ready(guest, "InSync")
    other = f"{guest.name}-renamed"
    world.virsh("domrename", guest.name, other)
    renamed = world.until(guest, lambda vm: vm["status"]["domain"]["name"] == other, "followed")
    assert renamed["status"]["domain"]["uuid"] == str(guest.uuid)
    world.virsh("domrename", other, guest.name)


def test_identity_of_a_namesake(world: World) -> None:
    guest = world.define()
    world.apply(guest, powerState="Stopped")
    world.start_agent()
    world.until_ready(guest, "InSync")
    guest.remove()
    world.until_ready(guest, "DomainNotFound")
    namesake = world.define()
    assert namesake.uuid != guest.uuid
    world.until_ready(guest, "DomainReplaced")
    world.patch(guest, powerState="Running")
    world.until_ready(guest, "DomainReplaced")
    assert world.acts(guest) == []
    world.patch(guest, domain={"uuid": str(namesake.uuid)})
    world.until(guest, runs, "started, for the spec names it now")


def test_identity_of_rivals(world: World) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    world.start_agent()
    world.until_ready(guest, "InSync")
    rival = world.manifest(guest, powerState="Stopped", domain={"uuid": str(guest.uuid)})
    rival["metadata"]["name"] = f"{guest.name}-rival"
    world.kubectl("apply", "-f", "-", manifest=rival)
    world.kubectl("wait", f"kvm/{guest.name}-rival", "--for=jsonpath={.status.conditions[0].reason}=DomainConflict")
    assert reason_of(world.get(guest)) == "InSync"
    world.kubectl("delete", "kvm", guest.name)
    world.kubectl("wait", f"kvm/{guest.name}-rival", "--for=jsonpath={.status.powerState}=Stopped", "--timeout=30s")
