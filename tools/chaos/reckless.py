"""An agent that acts without the API server's answer, to show that the chaos detects it (`--agent chaos.reckless`)."""

from dataclasses import replace

from controller.agent.reconcile import Reconciler
from controller.api.virtualmachine import VirtualMachine
from controller.cli import main
from controller.policy.view import Step, View
from controller.runtime.errors import Rejected, Transient

careful = Reconciler._report


def act_on_what_was_known(self: Reconciler, view: View, step: Step, since_s: float | None) -> VirtualMachine | None:
    """Report; if the API server does not answer, continue as if it had."""
    try:
        return careful(self, view, step, since_s)
    except (Transient, Rejected):
        return replace(view.vm)


Reconciler._report = act_on_what_was_known  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
