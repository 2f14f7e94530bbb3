"""The agent as a separate process, as on a node."""

from collections.abc import Mapping
from pathlib import Path

from lab.controlplane import ControlPlane
from lab.program import Program

ACTION_FINISHED = "action finished"
"""The event of the log line for each action on a domain."""


class Agent(Program):
    """`virtsync agent` for one node and one libvirt; `settings` are its other flags without the dashes.

    The agent has the administrator's rights unless `kubeconfig` names another file.
    """

    def __init__(
        self,
        controlplane: ControlPlane,
        libvirtd_uri: str,
        node: str,
        *,
        log: Path,
        settings: Mapping[str, str] | None = None,
        kubeconfig: Path | None = None,
        module: str = "controller",
        python: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            "agent",
            f"the agent of {node}",
            log=log,
            fixed={"node-name": node, "libvirt-uri": libvirtd_uri},
            settings=settings,
            kubeconfig=kubeconfig or controlplane.kubeconfig,
            module=module,
            python=python,
            env=env,
        )
        self.node = node

    def acts(self, key: str) -> list[str]:
        """The finished actions on one VM (`namespace/name`), in order: `START done`, `DESTROY refused`."""
        # An agent of the previous version, which the upgrade tests run, logs the action as `verb`.
        told = [line for line in self.log_lines() if line.get("vm") == key and "result" in line]
        return [f"{line.get('action', line.get('verb'))} {line['result']}" for line in told]
