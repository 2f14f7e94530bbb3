"""A program for tests of `top` on a terminal: VMs that are not in any cluster, one of which changes all the time."""

import sys
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count

from controller.api.virtualmachine import Condition, PowerState, Status, VirtualMachine, VmKey
from controller.cli.vm.screen import Screen
from controller.cli.vm.views.top import Choice, Fleet, Frame, frame

CREATED = datetime(2026, 1, 1, tzinfo=UTC)


def vm(number: int, power: PowerState = PowerState.RUNNING) -> VirtualMachine:
    ready = Condition("Ready", "True", "InSync", f"VM {number}", CREATED, 1)
    status = Status(observed_generation=1, power_state=power, conditions=(ready,))
    return VirtualMachine(VmKey("shop", f"vm-{number:04}"), "u", 1, "1", CREATED, f"node-{number % 7}", status=status)


def main() -> None:
    vms = [vm(number) for number in range(int(sys.argv[1]))]
    drawn = count(1)

    def draw(choice: Choice, height: int) -> Frame:
        first = replace(vms[0], node_name=f"drawn-{next(drawn)}")
        return frame(Fleet([first, *vms[1:]], [], where="namespace shop"), choice, datetime.now(UTC), height)

    with Screen() as screen:
        sys.exit(screen.show(draw))


if __name__ == "__main__":
    main()
