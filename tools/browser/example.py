"""A small fleet in which something of everything has happened, for the pictures of the page."""

from browser.objects import Host, Vm
from controller.api.virtualmachine import DesiredPowerState, PowerState, Reason, StopCause

HOSTS = (
    Host("kvm-01", vms=9, running=8, not_ready=2, unmanaged=1),
    Host("kvm-02", vms=8, running=7, not_ready=1),
    Host("kvm-03", vms=7, running=6, not_ready=1, maintenance=("Hold", "replace a DIMM, ticket 4711"), minutes=34),
    Host(
        "kvm-04",
        vms=3,
        running=3,
        not_ready=3,
        reason="AgentUnreachable",
        message="The agent of kvm-04 has not been heard since 11:52:07Z. The VMs are as it reported them last.",
        minutes=3,
    ),
    Host("kvm-05", vms=8, running=7, not_ready=0),
    Host("kvm-06", vms=5, running=4, not_ready=0, unmanaged=3),
)

_TROUBLED = (
    Vm(
        "shop",
        "checkout-2",
        "kvm-01",
        Reason.CRASH_LOOP_BACK_OFF,
        PowerState.CRASHED,
        message="The VM has crashed 4 times. virtsync starts it again at 12:03:40Z.",
        minutes=2,
        stop=(StopCause.CRASH, 1.4, "QEMU has ended without a shutdown of the guest."),
        restarts=4,
    ),
    Vm(
        "shop",
        "search-1",
        "kvm-02",
        Reason.SETTLING,
        PowerState.STOPPED,
        message="The VM is stopped and should be running. virtsync waits until 12:00:21Z before correcting this,"
        " in case an administrator is working on it.",
        minutes=0.1,
        stop=(StopCause.EXTERNAL, 0.1, "Somebody stopped the VM on the host."),
        restarts=1,
    ),
    Vm(
        "analytics",
        "spark-7",
        "kvm-01",
        Reason.DOMAIN_NOT_FOUND,
        PowerState.ABSENT,
        message="libvirt on kvm-01 has no domain spark-7. Define it there, or correct spec.domain or spec.nodeName.",
        minutes=60 * 26,
    ),
    Vm(
        "batch",
        "render-3",
        "kvm-03",
        Reason.HELD,
        PowerState.STOPPED,
        message="The VM is stopped and should be running. virtsync takes no action during the maintenance of kvm-03"
        " (replace a DIMM, ticket 4711).",
        minutes=33,
        stop=(StopCause.GUEST, 33, "The guest has shut itself down."),
        holds={"backup": "nightly image"},
    ),
    *(
        Vm(
            "web",
            f"front-{number}",
            "kvm-04",
            Reason.AGENT_UNREACHABLE,
            message="The agent of kvm-04 has not been heard since 11:52:07Z. The state is the last that it reported.",
            minutes=3,
        )
        for number in range(1, 4)
    ),
)
_FINE = (
    *(Vm("shop", f"checkout-{number}", "kvm-05") for number in (1, 3, 4)),
    *(Vm("shop", f"cart-{number}", "kvm-02", minutes=60 * 24 * 3 + 500) for number in range(1, 7)),
    *(Vm("analytics", f"spark-{number}", "kvm-01", minutes=60 * 41) for number in range(1, 7)),
    *(Vm("batch", f"render-{number}", "kvm-03") for number in (1, 2, 4, 5, 6)),
    *(Vm("db", f"orders-{number}", "kvm-05", minutes=60 * 24 * 40) for number in range(1, 5)),
    *(Vm("web", f"assets-{number}", "kvm-06", minutes=60 * 5) for number in range(1, 5)),
    Vm(
        "batch",
        "nightly",
        "kvm-02",
        power=PowerState.STOPPED,
        desired=DesiredPowerState.STOPPED,
        message="The VM is as its spec asks.",
        minutes=60 * 8,
        stop=(StopCause.AGENT, 60 * 8, "virtsync stopped the VM, as its spec asks."),
    ),
    Vm("lab", "legacy-erp", "kvm-06", Reason.OBSERVED, desired=None),
)
VMS = (*_TROUBLED, *_FINE)
