"""The manager as a separate process."""

from pathlib import Path

from lab import LabError
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
            fixed={"namespace": namespace, "identity": identity, "page-port": "0"},
            kubeconfig=kubeconfig or controlplane.kubeconfig,
        )

    @property
    def page(self) -> str:
        """The address of its page. LabError if it has not said that it serves one."""
        ports = [line["page_port"] for line in self.log_lines() if line.get("page_port")]
        if not ports:
            raise LabError(f"{self.name.capitalize()} has not said on which port it serves the page.")
        return f"http://127.0.0.1:{ports[-1]}/"
