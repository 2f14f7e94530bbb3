"""What the Hypervisor of this node asks of the agent: the maintenance, and the VMs that run on other hosts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from controller.api.hypervisor import Hypervisor, Maintenance, RunsElsewhere
from controller.api.values import replace

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Orders:
    """What the agent obeys at one moment."""

    generation: int = -1
    """The generation of the spec; -1: no spec was read yet."""
    maintenance: Maintenance | None = None
    runs_elsewhere: tuple[RunsElsewhere, ...] = ()
    blocked: str = ""
    """Why the agent must not act, as one sentence; empty: it may act."""
    unready: str = ""
    """Why the agent is not ready, as one phrase; empty: it is ready."""


class HostSpec:
    """What the agent obeys, as of the last answers of the API server. One thread may change it; any thread may read.

    A declaration is in force from when the agent has acknowledged it, so an object that cannot be read for a while
    changes nothing. The agent does not act while it cannot know whether maintenance was declared: before it has read
    the object, after the object was deleted, and while it may not read it.
    """

    def __init__(self, node_name: str, *, observe_only: bool, changed: Callable[[], None]) -> None:
        """`changed` is called when decisions might differ from now on. It must not wait."""
        self._name, self._observe_only, self._changed = f"Hypervisor {node_name}", observe_only, changed
        self._seen = False
        """Whether the object existed while this process runs."""
        why = f"{self._name} has not been read yet"
        self.orders = Orders(blocked=f"{why}.", unready=why)
        self.known = threading.Event()
        """Set when the agent has read the object, or an attempt to read it has failed. An object that does not
        exist yet does not set this, because the agent then creates and reads it."""

    # --- what decisions obey

    def blocked(self) -> str:
        """Return why the agent must not act, as one sentence; empty: it may act, or --observe-only is set."""
        return "" if self._observe_only else self.orders.blocked

    def maintenance(self) -> Maintenance | None:
        """Return the maintenance that is in force; None: there is none."""
        return self.orders.maintenance

    def runs_elsewhere(self, uuid: UUID | None) -> tuple[RunsElsewhere, ...]:
        """Return on which other hosts the domain runs; empty: the manager has observed it on no other host."""
        return tuple(one for one in self.orders.runs_elsewhere if one.uuid == uuid)

    def unready(self) -> str | None:
        """Return why the object is not obeyed or not known, as one phrase; None: the agent obeys it."""
        return self.orders.unready or None

    # --- answers of the API server

    def read(self, hypervisor: Hypervisor) -> None:
        """Obey this version of the object from now on."""
        self._seen = True
        blocked = unready = ""
        if hypervisor.misunderstood:
            unready = f"this version of virtsync does not understand {hypervisor.misunderstood} of {self._name}"
            blocked = f"{unready[0].upper()}{unready[1:]}: upgrade the agent or change the spec."
        self._obey(
            Orders(
                generation=hypervisor.generation,
                maintenance=hypervisor.maintenance,
                runs_elsewhere=hypervisor.status.runs_elsewhere,
                blocked=blocked,
                unready=unready,
            )
        )

    def missing(self) -> None:
        """Note that the object does not exist. The agent obeys the last version until it has read a new one."""
        why = f"{self._name} {'was deleted' if self._seen else 'does not exist yet'}"
        self._block(why, f"{why}: the agent takes no action until it has created and read it.", known=self._seen)

    def unserved(self) -> None:
        """Note that the API server does not know Hypervisor, so no maintenance can have been declared.

        If the object existed before, a declaration of maintenance might have been lost with it.
        """
        why = "the API server does not know Hypervisor: install deploy/crds"
        if self._seen:
            self._block(why, f"{self._name} was deleted with its definition: install deploy/crds.")
        else:
            self._obey(Orders(unready=why))

    def refused(self, why: str) -> None:
        """Note that the agent may not read or create the object."""
        self._block(f"{self._name} cannot be read: {why}", f"{self._name} cannot be read: {why.rstrip('.')}.")

    def failed(self, why: str) -> None:
        """Note that the API server gave no answer that says anything about the object.

        This logs nothing, because the list of the VirtualMachines fails too, and its failure is logged.
        """
        unread = f"{self._name} has not been read yet: {why.rstrip('.')}"
        first = self.orders.generation < 0 and self.orders.blocked
        orders = replace(self.orders, blocked=f"{unread}.", unready=unread) if first else self.orders
        self._obey(orders, log_change=False)

    def _block(self, unready: str, blocked: str, *, known: bool = True) -> None:
        self._obey(replace(self.orders, blocked=blocked, unready=unready), known=known)

    def _obey(self, orders: Orders, *, log_change: bool = True, known: bool = True) -> None:
        before, self.orders = self.orders, orders
        if known:
            self.known.set()
        if log_change and orders.unready != before.unready:
            self._log(orders)
        if _decisive(orders) != _decisive(before):
            if orders.maintenance != before.maintenance:
                log.info("maintenance has changed", maintenance=str(orders.maintenance and orders.maintenance.mode))
            self._changed()

    def _log(self, orders: Orders) -> None:
        if orders.unready:
            log.warning(
                "cannot apply the spec of this node's Hypervisor", message=orders.unready, acts=not orders.blocked
            )
        else:
            log.info("applied the spec of this node's Hypervisor", generation=orders.generation)


def _decisive(orders: Orders) -> tuple[object, ...]:
    return orders.maintenance, orders.runs_elsewhere, orders.blocked
