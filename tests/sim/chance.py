"""Worlds of chance: all that may happen to VMs that two machines share, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

from controller.api.hypervisor import MaintenanceMode
from controller.api.virtualmachine import VmKey
from tests.sim.node import DiedError
from tests.sim.world import CONFIRMED_OFF, World

LAYOUTS = (
    {"one": "node-a", "two": "node-b"},
    {"one": "node-a", "two": "node-b"},
    {"one": "node-a", "two": "node-b", "three": "node-c"},
    {"one": "node-a", "new": "node-a"},
    {"one": "node-a", "new": "node-a", "two": "node-b"},
)
START_S = (0.0, 0.5, 5.0, 20.0, 60.0)
PAUSES_S = (0.0, 0.0, 0.5, 3.0, 11.0, 40.0, 100.0)
MOMENTS = ("before the report", "before the refresh", "after the report")


def play(seed: int, *, fleet: bool = False) -> World:
    """A world in which chance has had its way; it has ended, and can be checked.

    With `fleet` there are also an administrator with maintenances, a manager, and somebody who undefines and defines
    domains. Without, a seed is the world that it was before there were any.
    """
    chance = Chance(seed, fleet=fleet)
    try:
        chance.play()
    finally:
        chance.world.close()
    return chance.world


class Chance:
    """What happens in one world."""

    def __init__(self, seed: int, *, fleet: bool = False) -> None:
        self.fleet = fleet
        self.draw = random.Random(seed)  # noqa: S311 - chance, not a secret
        self.world = World(self.draw.choice(LAYOUTS), *("web", "db")[: self.draw.choice((1, 1, 2))])
        self.machines = list(self.world.nodes)
        self.node_names = sorted({node.name for node in self.world.nodes.values()})
        self._saved_to_file: set[str] = set()
        happenings: tuple[tuple[int, Callable[[str, str], None]], ...] = (
            (6, self.user_switches),
            (6, self.user_hands_over),
            (4, self.user_vouches),
            (1, self.user_takes_the_vouching_back),
            (2, self.user_asks_for_a_restart),
            (1, self.user_holds),
            (1, self.user_makes_it_anew),
            (2, self.stranger_types),
            (1, self.stranger_saves_to_a_file),
            (2, self.stranger_migrates),
            (2, self.guest_goes_off),
            (2, self.qemu_freezes),
            (1, self.qemu_thaws),
            (3, self.starts_are_slow),
            (1, self.starts_fail),
            (2, self.network_is_cut),
            (2, self.network_is_cut_in_a_pass),
            (3, self.agent_freezes),
            (3, self.agent_goes),
            (5, self.agent_is_well),
            (2, self.answer_is_lost),
            (1, self.agent_dies_in_a_pass),
            (1, self.agent_only_watches),
            (1, self.answers_of_libvirt_are_lost),
            (1, self.libvirt_is_away),
            (1, self.libvirtd_restarts),
            (1, self.machine_reboots),
            (1, self.autostart_is_set),
            (2, self.lease_moves),
            (1, self.lease_is_lost),
        )
        if fleet:
            happenings += (
                (3, self.maintenance_begins),
                (3, self.maintenance_ends),
                (3, self.manager_marks),
                (3, self.manager_looks),
                (3, self.stranger_undefines_or_defines),
            )
        self._weights = [weight for weight, _ in happenings]
        self._happenings = [happening for _, happening in happenings]

    def play(self) -> None:
        """Begin, let thirty or so things happen, and let everybody come to rest."""
        world = self.world
        world.take_lease(self.machines[0])
        for name in world.vms:
            self._slow(self.draw.choice(self.machines), name)
            world.create(name, nodeName="node-a", powerState=self.draw.choice(("Running", "Stopped")))
        self._time_passes()
        for _ in range(self.draw.randint(10, 35)):
            (happening,) = self.draw.choices(self._happenings, self._weights)
            happening(self.draw.choice(self.machines), self.draw.choice(world.vms))
            self._time_passes()
        for machine in self.machines:
            self.agent_is_well(machine, "")
            if self.fleet:
                world.maintain(machine, None)
        world.works(200)

    def _time_passes(self) -> None:
        """A few steps of somebody, or everybody for so long."""
        if self.draw.random() < 0.3:
            machine = self.draw.choice(self.machines)
            for _ in range(self.draw.randint(1, 4)):
                self.world.step(machine, self.draw.choice(("watch", "pass", "event", "call")))
        else:
            self.world.works(self.draw.choice(PAUSES_S))

    # --- the user

    def user_switches(self, _machine: str, name: str) -> None:
        powers = ("Running", "Running", "Running", "Stopped", "Stopped", "Paused", None)
        changes: dict[str, object] = {"powerState": self.draw.choice(powers)}
        if self.draw.random() < 0.2:
            changes["shutdown"] = {"mode": self.draw.choice(("Force", "GracefulThenForce")), "gracePeriodSeconds": 20}
        self.world.patch(name, **changes)

    def user_hands_over(self, _machine: str, name: str) -> None:
        changes = {"nodeName": self.draw.choice(self.node_names)}
        if self.draw.random() < 0.4:
            changes["powerState"] = "Running"
        self.world.patch(name, **changes)

    def user_vouches(self, _machine: str, name: str) -> None:
        """Only when it is so: nothing of it is on any machine, and nothing comes of what was begun there."""
        reported = self.world.vm(name).status.node_name
        if reported and not any(self.world.can_come_of(machine, name) for machine in self.machines):
            self.world.vouch(name)

    def user_takes_the_vouching_back(self, _machine: str, name: str) -> None:
        self.world.api.edit(VmKey("default", name), {}, {CONFIRMED_OFF: None})

    def user_asks_for_a_restart(self, _machine: str, name: str) -> None:
        self.world.patch(name, restartRequestTime=f"{self.world.clock.wall():%Y-%m-%dT%H:%M:%SZ}")

    def user_holds(self, _machine: str, name: str) -> None:
        self.world.hold(name, held=self.draw.random() < 0.4)

    def user_makes_it_anew(self, _machine: str, name: str) -> None:
        self.world.make_anew(name, nodeName=self.draw.choice(self.node_names))

    # --- strangers and guests

    def stranger_types(self, machine: str, name: str) -> None:
        verbs = ("start", "destroy", "destroy", "managedsave", "managedsave-remove", "suspend", "resume")
        self.world.virsh(self.draw.choice(verbs), machine, name)

    def stranger_saves_to_a_file(self, machine: str, name: str) -> None:
        if name not in self._saved_to_file:
            self._saved_to_file.add(name)
            self.world.virsh("save", machine, name)
        else:
            self._saved_to_file.discard(name)
            self.world.virsh("restore", machine, name)

    def stranger_migrates(self, machine: str, name: str) -> None:
        target = self.draw.choice(self.machines)
        self.world.migrate(machine, target, name, undefine=self.draw.random() < 0.4)

    def stranger_undefines_or_defines(self, machine: str, name: str) -> None:
        """As Terraform or Ansible does, which define a domain where they miss it."""
        if self.world.nodes[machine].libvirtd.named(name) is None:
            self.world.define(machine, name)
        else:
            self.world.virsh("undefine", machine, name)

    def guest_goes_off(self, machine: str, name: str) -> None:
        self.world.goes_off(machine, name, self.draw.choice(("poweroff", "panic", "kill")))

    def qemu_freezes(self, machine: str, name: str) -> None:
        self.world.freeze(machine, name)

    def qemu_thaws(self, machine: str, name: str) -> None:
        self.world.thaw(machine, name)

    def starts_are_slow(self, machine: str, name: str) -> None:
        self._slow(machine, name)

    def starts_fail(self, machine: str, name: str) -> None:
        fails = "Cannot access storage file" if self.draw.random() < 0.5 else ""
        self.world.tell(f"{machine}: each start of {name} {'fails' if fails else 'goes well'} from now on")
        if guest := self.world.nodes[machine].libvirtd.named(name):
            guest.fails_to_start = fails

    def _slow(self, machine: str, name: str) -> None:
        shows = self.draw.choice(("off", "off", "starting", "nothing"))
        self.world.slow(machine, self.draw.choice(START_S), shows, name)

    # --- agents and machines

    def network_is_cut(self, machine: str, _name: str) -> None:
        self.world.cut(machine)

    def network_is_cut_in_a_pass(self, machine: str, _name: str) -> None:
        moment = self.draw.choice(MOMENTS)
        self.world.nodes[machine].agent.meanwhile[moment] = lambda: self.world.cut(machine)

    def agent_freezes(self, machine: str, _name: str) -> None:
        if machine not in self.world.absent:
            self.world.agent_freezes(machine)

    def agent_goes(self, machine: str, _name: str) -> None:
        if self.draw.random() < 0.5:
            self.world.agent_ends(machine)
        else:
            self.world.agent_dies(machine)

    def agent_is_well(self, machine: str, _name: str) -> None:
        """Whatever ailed it is over."""
        world = self.world
        if machine in world.absent:
            world.agent_starts(machine)
        world.agent_thaws(machine)
        if world.nodes[machine].agent.api_away:
            world.join(machine)
        if not world.nodes[machine].agent.host.reachable:
            world.find_libvirt(machine)
        world.nodes[machine].agent.answers_lost = False

    def maintenance_begins(self, machine: str, _name: str) -> None:
        self.world.maintain(machine, self.draw.choice((*MaintenanceMode, MaintenanceMode.SHUTDOWN)))

    def maintenance_ends(self, machine: str, _name: str) -> None:
        self.world.maintain(machine, None)

    def manager_marks(self, _machine: str, name: str) -> None:
        self.world.mark_unreachable(name)

    def manager_looks(self, _machine: str, _name: str) -> None:
        self.world.manager_looks()

    def answer_is_lost(self, machine: str, _name: str) -> None:
        self.world.lose_answer(machine, silence=self.draw.random() < 0.5)

    def agent_dies_in_a_pass(self, machine: str, _name: str) -> None:
        def die() -> None:
            self.world.tell(f"{machine}: the agent dies in a pass, and another comes")
            raise DiedError

        self.world.nodes[machine].agent.meanwhile[self.draw.choice(MOMENTS)] = die

    def agent_only_watches(self, machine: str, _name: str) -> None:
        node = self.world.nodes[machine]
        node.observe_only = self.draw.random() < 0.5
        self.world.tell(f"{machine}: the agent {'only watches' if node.observe_only else 'may act'} from now on")
        self.world.agent_dies(machine)
        self.world.agent_starts(machine)

    def answers_of_libvirt_are_lost(self, machine: str, _name: str) -> None:
        self.world.lose_answers_of_libvirt(machine)

    def libvirt_is_away(self, machine: str, _name: str) -> None:
        self.world.lose_libvirt(machine)

    def libvirtd_restarts(self, machine: str, _name: str) -> None:
        self.world.restart_libvirtd(machine)

    def machine_reboots(self, machine: str, _name: str) -> None:
        self.world.reboot(machine)

    def autostart_is_set(self, machine: str, name: str) -> None:
        if guest := self.world.nodes[machine].libvirtd.named(name):
            guest.autostart = not guest.autostart

    def lease_moves(self, machine: str, _name: str) -> None:
        self.world.take_lease(machine)

    def lease_is_lost(self, machine: str, _name: str) -> None:
        self.world.lose_lease(machine)
