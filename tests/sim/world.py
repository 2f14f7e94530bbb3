"""Machines that share their VMs, an agent on each, a user, and strangers with virsh; and the history of what happened.

Whoever tells a story of such a world calls what happens in it; in between `works` lets everybody do what is due, and
time pass. A ledger judges it, from what the machines did alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import structlog
import yaml

from controller.api.codec import parse
from controller.api.hypervisor import MaintenanceMode, RunsElsewhere
from controller.api.names import GROUP, PLURAL, VERSION
from controller.api.virtualmachine import VirtualMachine, VmKey
from controller.policy.view import Phase
from controller.runtime.errors import Rejected, Transient
from tests.sim.api import SimulatedApi
from tests.sim.host import NotNowError, SimulatedGuest
from tests.sim.ledger import Ledger, Run
from tests.sim.node import Clock, SimulatedNode, Wire, vouching

CONFIRMED_OFF = "virtsync.dev/confirmed-off"
RELIST_S = 60.0
ROUNDS = 60
"""More than any rest takes to be reached; two agents of one name may never reach it."""
SAME_NAME_S = 61.0
"""Longer than an agent lets stand what another of its name has written."""
OTHER_LEASE = "another agent holds the Lease"


class World:
    """Machines by name, each with the name of its node; two may have one node's name, as a replaced machine has."""

    def __init__(self, machines: dict[str, str], *vms: str) -> None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        self.clock = Clock()
        self.ledger = Ledger(self.clock)
        self.api = SimulatedApi(self.clock.wall)
        self.history: list[str] = []
        self.ledger.told = self.tell
        self.nodes = {
            machine: SimulatedNode(node, self.api, self.clock, machine=machine, ledger=self.ledger)
            for machine, node in machines.items()
        }
        self.vms = vms
        self.frozen: set[str] = set()
        """Machines whose agents are stopped where they stand; what their libvirtd is at goes on."""
        self.absent: set[str] = set()
        """Machines without an agent."""
        self._relisted_s = self.clock()
        self._departures: dict[tuple[str, str], Run] = {}
        """Where it was migrated from, and the QEMU that came of it."""
        self._heard: set[tuple[str, str]] = set()
        """Those of which the agent of the source has the event."""
        self._visible_s: dict[Run, float] = {}
        """Since when an agent has been able to see each."""
        self._answer_s = SAME_NAME_S if len(set(machines.values())) < len(machines) else 0.0
        for node in self.nodes.values():
            node.tell = self.tell
            for number, name in enumerate(vms):
                guest = node.libvirtd.define(name, uuid=UUID(int=number + 1))
                node.judge.keys[guest.uuid] = VmKey("default", name)

    def close(self) -> None:
        """End every call."""
        for node in self.nodes.values():
            for guest in node.libvirtd.guests.values():
                guest.autostart = False
            node.agent.api_away = False
            node.reboot()
            while node.left:
                node.calls_go_on()
        structlog.reset_defaults()

    def tell(self, line: str) -> None:
        """Write it into the history."""
        self.history.append(f"{self.clock():8.1f} s  {line}")

    def account(self) -> str:
        """All that there is to know of this world, for whoever must find out what went wrong in it."""
        objects = [yaml.safe_dump(json.loads(json.dumps(raw))) for raw in self.api.objects.values()]
        return "\n".join(["", "HISTORY", *self.history, "LEDGER", *self.ledger.lines(), "OBJECTS", *objects])

    def check(self) -> None:
        """Nothing ran twice."""
        wrongs = self.ledger.wrongs()
        assert not wrongs, "\n".join(["RUNS TWICE", *wrongs, self.account()])

    # --- what is there

    def vm(self, name: str = "web") -> VirtualMachine:
        """The object, as it is."""
        return parse(self.api.objects[VmKey("default", name)])

    def guest(self, machine: str, name: str = "web") -> SimulatedGuest:
        """The domain on that machine, which must be there."""
        guest = self.nodes[machine].libvirtd.named(name)
        assert guest, f"there is no {name} on {machine}"
        return guest

    def runs(self, name: str = "web") -> list[Run]:
        """All QEMUs that there have been of a VM."""
        return [run for run in self.ledger.runs if run.uuid.int == self.vms.index(name) + 1]

    def runs_on(self, name: str = "web") -> set[str]:
        """The machines on which a QEMU of it lives."""
        return {run.machine for run in self.runs(name) if run.ended_s is None}

    def can_come_of(self, machine: str, name: str = "web") -> bool:
        """A QEMU of it is on that machine, or may come of what was begun there: who vouches looks for both."""
        node = self.nodes[machine]
        guest = node.libvirtd.named(name)
        begun = any(not strand.ended for strand in [*node.left, *node.agent.calls])
        return begun or (guest is not None and (guest.on or guest.starting or bool(guest.lost)))

    # --- time

    def works(self, seconds: float = 0.0) -> None:
        """Let everybody who can do what is due, for so long."""
        until_s = self.clock() + seconds
        while True:
            self._everybody_works()
            due_s = self._next_due_s()
            if due_s is None or due_s > until_s:
                break
            self.clock.at_s = max(self.clock.at_s, due_s)
        self.clock.at_s = until_s
        self._everybody_works()

    def step(self, machine: str, what: str) -> None:
        """Let one agent do one thing: "pass", "call", "event", "watch"."""
        node = self.nodes[machine]
        if machine in self.frozen | self.absent:
            return
        if what == "pass":
            node.agent.passes()
        elif what == "event":
            node.agent.hears_event()
        elif what == "watch" and not node.agent.api_away:
            node.agent.hears_watch()
        elif what == "call" and (calls := [*node.left, *node.agent.calls]):
            calls[0].step()
            node.forget_ended()

    def _everybody_works(self) -> None:
        if self.clock() - self._relisted_s >= RELIST_S:
            self._relisted_s = self.clock()
            for machine in self._at_work():
                with suppress(Transient):
                    self.nodes[machine].agent.relists()
        for _ in range(ROUNDS):
            worked = [self._works(machine) for machine in self.nodes]
            if not any(worked):
                self._note_what_can_be_told()
                return

    def _works(self, machine: str) -> bool:
        node = self.nodes[machine]
        if machine in self.frozen | self.absent:
            return self._calls_of_the_dead_go_on(node)
        worked = False
        if not node.agent.api_away:
            worked |= node.agent.hears_watch()
        worked |= node.agent.hears_event()
        worked |= node.agent.passes()
        return worked | node.calls_go_on()

    @staticmethod
    def _calls_of_the_dead_go_on(node: SimulatedNode) -> bool:
        """What libvirtd has been asked it does, whoever asked."""
        strands = [strand for strand in [*node.left, *node.agent.calls] if strand.begun]
        before = [strand.ended for strand in strands]
        for strand in strands:
            strand.step()
        node.forget_ended()
        return [strand.ended for strand in strands] != before

    def _at_work(self) -> list[str]:
        return [machine for machine in self.nodes if machine not in self.frozen | self.absent]

    def _next_due_s(self) -> float | None:
        due = [at_s for machine in self._at_work() for at_s in self.nodes[machine].agent.queue._due_at.values()]
        under_way = any(node.agent.calls or node.left for node in self.nodes.values())
        due += [self.clock() + 1.0] if under_way else []
        due.append(self._relisted_s + RELIST_S)
        later = [at_s for at_s in due if at_s > self.clock()]
        return min(later, default=None)

    def _note_what_can_be_told(self) -> None:
        """All who can work have: what they could see by now they can have reported."""
        for name in self.vms:
            if VmKey("default", name) not in self.api.objects:
                continue
            for machine in self._at_work():
                node = self.nodes[machine]
                sees = node.agent.host.reachable and not node.agent.api_away and not node.blocked
                if sees and node.name == self.vm(name).node_name:
                    self._can_tell(machine, name)

    def _can_tell(self, machine: str, name: str) -> None:
        guest = self.nodes[machine].libvirtd.named(name)
        run = guest.run if guest else None
        departed = guest.reason == "MIGRATED" and not guest.on if guest else (machine, name) in self._heard
        if departed:
            run = self._departures[machine, name]
        if run is None or run.tellable_s is not None:
            return
        if self.clock() >= self._visible_s.setdefault(run, self.clock()) + self._answer_s:
            run.tellable_s = self.ledger.moment()

    def _lose_events(self, machine: str) -> None:
        self._heard = {heard for heard in self._heard if heard[0] != machine}

    # --- the user

    def create(self, name: str = "web", **spec: object) -> None:
        """Create the object."""
        self.tell(f"user: creates {name} {spec}")
        self.api.create(VmKey("default", name), spec)

    def patch(self, name: str = "web", **spec: object) -> None:
        """Change its spec."""
        self.tell(f"user: {name} {spec}")
        self.api.edit(VmKey("default", name), spec)

    def hold(self, name: str = "web", *, held: bool) -> None:
        """Hold it, or let it go."""
        self.tell(f"user: {'holds' if held else 'lets go of'} {name}")
        self.api.edit(VmKey("default", name), {}, {"hold.virtsync.dev/ann": "work" if held else None})

    def vouch(self, name: str = "web") -> None:
        """Vouch that it is off where it was last reported; the caller sees to it that this is so."""
        raw = self.api.objects[VmKey("default", name)]
        self.tell(f"user: vouches for {name}: {vouching(raw)}")
        self.api.edit(VmKey("default", name), {}, {CONFIRMED_OFF: vouching(raw)})

    def make_anew(self, name: str = "web", **spec: object) -> None:
        """Delete the object, and create it again."""
        key = VmKey("default", name)
        old = self.api.objects[key]["spec"]
        self.api.delete(key)
        self.clock.at_s += 1
        self.create(name, **(old | spec))
        self.ledger.forget_history(UUID(int=self.vms.index(name) + 1))
        self._visible_s.clear()

    def mark_unreachable(self, name: str = "web") -> None:
        """What the manager writes when the agent of its node has not renewed its Lease: Ready is Unknown."""
        key = VmKey("default", name)
        raw = self.api.objects[key]
        if not raw["status"].get("decidedReason") or not raw["status"].get("nodeName"):
            return
        self.tell(f"manager: marks {name} AgentUnreachable")
        conditions = [
            condition | {"status": "Unknown", "reason": "AgentUnreachable", "message": "Its agent does not answer."}
            for condition in raw["status"]["conditions"]
            if condition["type"] == "Ready"
        ]
        self.api.request(
            "PATCH",
            f"/apis/{GROUP}/{VERSION}/namespaces/default/{PLURAL}/{name}/status",
            {
                "metadata": {"resourceVersion": raw["metadata"]["resourceVersion"]},
                "status": {"conditions": conditions},
            },
            content_type="application/merge-patch+json",
        )

    def maintain(self, machine: str, mode: MaintenanceMode | None) -> None:
        """An administrator declares a maintenance in the Hypervisor object of this machine's node, or ends it."""
        self.tell(f"administrator: maintenance of {machine} is {mode}")
        for node in self.nodes.values():
            if node.name == self.nodes[machine].name:
                node.obey(mode)

    def manager_looks(self) -> None:
        """It compares what runs on the hosts with what the VMs are bound to, and tells each node of its VMs."""
        bound = {self.vms.index(key.name): self.vm(key.name).node_name for key in self.api.objects}
        entries: dict[str, dict[UUID, RunsElsewhere]] = {node.name: {} for node in self.nodes.values()}
        for number, node_name in bound.items():
            uuid = UUID(int=number + 1)
            for node in self.nodes.values():
                guest = node.libvirtd.guests.get(uuid)
                if guest and guest.phase is Phase.RUNNING and node.name != node_name and node_name in entries:
                    known = next((n.runs_elsewhere.get(uuid) for n in self.nodes.values() if n.name == node_name), None)
                    same = known is not None and known.node_name == node.name
                    since = self.clock.wall().replace(microsecond=0)
                    entries[node_name][uuid] = known if known and same else RunsElsewhere(uuid, node.name, since)
        for node in self.nodes.values():
            node.told_elsewhere(entries[node.name])

    # --- strangers and guests

    def virsh(self, action: str, machine: str, name: str = "web") -> None:
        """What somebody does on a machine; virsh may refuse it."""
        guest = self.nodes[machine].libvirtd.named(name)
        if guest is None or guest.starting or guest.calls or guest.job or (guest.stuck and not guest.frozen):
            return
        if guest.frozen and action != "destroy":
            return
        if action in {"managedsave", "save"} and guest.state != "RUNNING":
            return
        self.tell(f"virsh on {machine}: {action} {name}")
        if guest.frozen:
            guest._end("DESTROYED", "DESTROYED")
            return
        with suppress(NotNowError, Rejected):
            self.nodes[machine].libvirtd.virsh(action, name)

    def define(self, machine: str, name: str = "web") -> None:
        """`virsh define` with the definition that each machine has at the beginning."""
        self.tell(f"virsh on {machine}: define {name}")
        guest = self.nodes[machine].libvirtd.define(name, uuid=UUID(int=self.vms.index(name) + 1))
        self.nodes[machine].judge.keys[guest.uuid] = VmKey("default", name)

    def migrate(self, source: str, target: str, name: str = "web", *, undefine: bool = False) -> None:
        """`virsh migrate --live --persistent`; virsh may refuse it."""
        guest = self.nodes[source].libvirtd.named(name)
        if guest is None or source == target:
            return
        with suppress(NotNowError):
            guest.migrate(self.nodes[target].libvirtd, undefine=undefine)
            how = " --undefinesource" if undefine else ""
            self.tell(f"virsh on {source}: migrate {name} to {target}{how}")
            self._departures[source, name] = self.runs(name)[-1]
            if source not in self.absent and self.nodes[source].agent.host.reachable:
                self._heard.add((source, name))

    def goes_off(self, machine: str, name: str = "web", how: str = "poweroff") -> None:
        """The guest powers off or panics, or its QEMU is killed."""
        guest = self.nodes[machine].libvirtd.named(name)
        if guest and not guest.stuck and guest.phase is Phase.RUNNING:
            self.tell(f"guest of {name} on {machine}: {how}")
            getattr(guest, how)()

    def freeze(self, machine: str, name: str = "web") -> None:
        """Its QEMU is where no signal ends it."""
        guest = self.nodes[machine].libvirtd.named(name)
        if guest and guest.phase is Phase.RUNNING and not guest.calls:
            self.tell(f"{machine}: the QEMU of {name} is frozen")
            guest.freeze()

    def thaw(self, machine: str, name: str = "web") -> None:
        """It is let go on."""
        libvirtd = self.nodes[machine].libvirtd
        for guest in [*libvirtd.guests.values(), *libvirtd.undefined.values()]:
            if guest.name == name and (guest.frozen or guest.lost):
                self.tell(f"{machine}: the QEMU of {name} thaws")
                guest.thaw()

    def slow(self, machine: str, seconds: float, shows: str = "off", name: str = "web") -> None:
        """From now on each start of it takes so long there."""
        if guest := self.nodes[machine].libvirtd.named(name):
            self.tell(f'{machine}: a start of {name} takes {seconds} s from now on, and a look shows "{shows}"')
            guest.start_s, guest.start_shows = seconds, shows

    # --- the agents and their machines

    def cut(self, machine: str) -> None:
        """Its agent does not reach the API server."""
        self.tell(f"{machine}: the agent is cut off the API server")
        self.nodes[machine].agent.api_away = True

    def join(self, machine: str) -> None:
        """It does again."""
        self.tell(f"{machine}: the agent reaches the API server again")
        self.nodes[machine].agent.api_away = False
        self.nodes[machine].agent.queue.retry_failed_now(spread_s=0.0)

    def agent_freezes(self, machine: str) -> None:
        """The agent is stopped where it stands."""
        self.tell(f"{machine}: the agent is frozen")
        self.frozen.add(machine)

    def agent_thaws(self, machine: str) -> None:
        """It goes on."""
        if machine in self.frozen:
            self.tell(f"{machine}: the agent thaws")
            self.frozen.discard(machine)

    def agent_dies(self, machine: str) -> None:
        """It is killed, and none comes after it yet."""
        self.tell(f"{machine}: the agent is killed")
        self._leave(machine)

    def agent_ends(self, machine: str) -> None:
        """SIGTERM: it stops to act, reports, waits a little for what is out, and goes."""
        if machine in self.frozen | self.absent:
            return
        self.tell(f"{machine}: SIGTERM to the agent")
        agent = self.nodes[machine].agent
        agent.reconciler.stop_acting()
        self.works(5)
        self._leave(machine)

    def _leave(self, machine: str) -> None:
        node = self.nodes[machine]
        node.left += [strand for strand in node.agent.calls if strand.begun]
        node.agent.calls = []
        node.agent.unheard.clear()
        self._lose_events(machine)
        self.frozen.discard(machine)
        self.absent.add(machine)

    def agent_starts(self, machine: str) -> None:
        """A new process, which reaches everything."""
        self.tell(f"{machine}: an agent starts")
        self.frozen.discard(machine)
        self.absent.discard(machine)
        self._lose_events(machine)
        self.nodes[machine].agent.host.reachable = True
        self.nodes[machine].restart_agent()

    def take_lease(self, machine: str) -> None:
        """Its agent gets the Lease of its node, and any other of this name has it no more."""
        self.tell(f"{machine}: the agent takes the Lease of its node")
        for other, node in self.nodes.items():
            if node.name == self.nodes[machine].name:
                node.blocked = "" if other == machine else OTHER_LEASE
                for key in node.agent.objects.known():
                    node.agent.queue.add(key)

    def lose_lease(self, machine: str) -> None:
        """Its agent may not act, nor may any other."""
        self.tell(f"{machine}: the agent loses the Lease of its node")
        node = self.nodes[machine]
        node.blocked = OTHER_LEASE
        for key in node.agent.objects.known():
            node.agent.queue.add(key)

    def lose_answers_of_libvirt(self, machine: str) -> None:
        """What its agent asks libvirt to do is done, and the agent is not told."""
        self.tell(f"{machine}: the agent gets no answers to its acts")
        self.nodes[machine].agent.answers_lost = True

    def lose_answer(self, machine: str, *, silence: bool) -> None:
        """The answer to the agent's next PATCH is lost; with `silence` nobody answers its next try either."""
        self.nodes[machine].agent.next_patch_unanswered = Wire.SILENCE if silence else Wire.CONFLICT

    def lose_libvirt(self, machine: str) -> None:
        """The connection to libvirt is lost."""
        self.tell(f"{machine}: the agent loses libvirt")
        self._lose_events(machine)
        self.nodes[machine].agent.connect(reachable=False)

    def find_libvirt(self, machine: str) -> None:
        """It is back."""
        self.tell(f"{machine}: the agent has libvirt again")
        self.nodes[machine].agent.connect(reachable=True)

    def restart_libvirtd(self, machine: str) -> None:
        """As an upgrade does."""
        self.tell(f"{machine}: libvirtd is restarted")
        agent = self.nodes[machine].agent
        self._lose_events(machine)
        agent.connect(reachable=False)
        self.nodes[machine].libvirtd.restart()
        agent.connect(reachable=True)

    def reboot(self, machine: str) -> None:
        """The machine goes down at once, and comes up again, with an agent if it had one."""
        self.tell(f"{machine}: the machine reboots")
        node, cut = self.nodes[machine], self.nodes[machine].agent.api_away
        self._lose_events(machine)
        self.frozen.discard(machine)
        node.agent.host.reachable = True
        node.reboot()
        node.agent.api_away = cut


@contextmanager
def world(machines: dict[str, str], *vms: str) -> Iterator[World]:
    """A world that ends with nothing running twice in it."""
    made = World(machines, *(vms or ("web",)))
    try:
        yield made
        made.check()
    finally:
        made.close()
