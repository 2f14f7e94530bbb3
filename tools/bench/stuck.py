"""How hanging QEMUs, all with a pending stop, affect the event-to-status time of the other VMs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from bench.latency import Reporter, Witness, take_turns
from bench.parts import (
    COLLECTION,
    Board,
    Lab,
    agent_on,
    ask,
    connect,
    create_objects,
    delete_objects,
    observed,
    step,
    until,
)

VMS, STUCK = 10, 6
SHUTDOWNS = ({"mode": "Graceful"}, {"mode": "Force"})
"""How the hanging QEMUs are stopped, in turn: a shutdown call takes as long as the hang, a forced stop takes 10 s."""


def measure(lab: Lab, *, events: int) -> dict[str, Any]:
    """The same VMs in the same run, before and while others hang."""
    vms, stuck = ([f"{word}-{n}" for n in range(count)] for word, count in (("well", VMS), ("stuck", STUCK)))
    specs = observed(vms)
    specs |= {vm: spec | {"shutdown": SHUTDOWNS[n % 2]} for n, (vm, spec) in enumerate(observed(stuck).items())}
    with ExitStack() as parts:
        with step(f"stuck: {VMS + STUCK} QEMUs run"):
            guests = {vm: lab.libvirtd.define(vm) for vm in (*vms, *stuck)}
            for guest in guests.values():
                parts.callback(guest.remove)
                guest.start()
        parts.callback(delete_objects, lab.controlplane)
        create_objects(lab.controlplane, specs)
        agent = agent_on(lab, lab.libvirtd.uri, "stuck")
        parts.callback(agent.stop)
        with step("stuck: the agent is ready"):
            agent.start()
        with Witness(lab.controlplane, lab.libvirtd.uri) as witness:
            undisturbed = Reporter("undisturbed", vms)
            take_turns("undisturbed", witness, [undisturbed], events)
        parts.enter_context(_hanging([guests[vm].qemu_pid for vm in stuck]))
        with step("stuck: six QEMUs hang, and a stop of each is pending"), Board(lab.controlplane) as board:
            connection = connect(lab.controlplane)
            for vm in stuck:
                ask(connection, lab.controlplane, "PATCH", f"{COLLECTION}/{vm}", {"spec": {"powerState": "Stopped"}})
            connection.close()
            until(lambda: not any(board.reason(vm) == "Observed" for vm in stuck), "a stop of each is pending")
        with Witness(lab.controlplane, lab.libvirtd.uri) as witness:
            disturbed = Reporter("disturbed", vms)
            take_turns("disturbed", witness, [disturbed], events)
    before, after = undisturbed.figures(), disturbed.figures()
    return {
        "stuck_p50_ratio": after["p50"] / before["p50"],
        "stuck_p99_ratio": after["p99"] / before["p99"],
        "stuck": {"undisturbed": before, "disturbed": after},
    }


@contextmanager
def _hanging(pids: list[int]) -> Iterator[None]:
    """Make these QEMUs hang; the remaining ones continue at the end."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
