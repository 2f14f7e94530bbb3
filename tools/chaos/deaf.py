"""An agent that acknowledges a maintenance and obeys none, to show that the chaos detects it (`--agent chaos.deaf`)."""

from controller.agent.host_spec import HostSpec
from controller.api.hypervisor import Maintenance
from controller.cli import main


def hear_nothing(_: HostSpec) -> Maintenance | None:
    """Obey no maintenance."""
    return None


HostSpec.maintenance = hear_nothing  # type: ignore[assignment,method-assign]

if __name__ == "__main__":
    main()
