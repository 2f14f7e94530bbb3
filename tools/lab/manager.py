"""The manager as a separate process."""

from pathlib import Path

from lab.controlplane import ControlPlane
from lab.program import Program


class Manager(Program):
    """`virtsync manager` for the Leases of one namespace; it has the administrator's rights unless told otherwise."""

    def __init__(
        self,
        controlplane: ControlPlane,
        namespace: str,
        identity: str,
        *,
        log: Path,
        kubeconfig: Path | None = None,
    ) -> None:
        super().__init__(
            "manager",
            f"the manager {identity}",
            log=log,
            fixed={"namespace": namespace, "identity": identity},
            kubeconfig=kubeconfig or controlplane.kubeconfig,
        )
