"""An agent that keeps no record of a start, to show that the chaos detects it (`--agent chaos.forgetful`)."""

from dataclasses import replace

from controller.api.virtualmachine import OperationType, Status, VirtualMachine
from controller.cli import main
from controller.kube.store import KubeStore

careful = KubeStore.report


def forget_starts(self: KubeStore, vm: VirtualMachine, status: Status) -> VirtualMachine:
    """Report, except before a start."""
    operation = status.operation
    if operation and operation.type is OperationType.START:
        status = replace(status, operation=None)
    elif operation and operation.attempt is not None:  # a restart, past its stop
        status = replace(status, operation=replace(operation, attempt=None))
    return careful(self, vm, status)


KubeStore.report = forget_starts  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
