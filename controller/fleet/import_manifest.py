"""The VirtualMachine object that `virtsync import` writes for one domain, and the comments in its manifest. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controller.api.hypervisor import UnmanagedDomain
from controller.api.json_mapping import Json
from controller.api.names import GROUP, KIND, VERSION
from controller.api.text import sanitized
from controller.api.virtualmachine import DesiredPowerState, PowerState, VmKey

QUOTE_LIMIT = 80
"""The maximum length in bytes of a quoted text, such as a domain's name."""
KEPT = {"argocd.argoproj.io/sync-options": "Prune=false", "kustomize.toolkit.fluxcd.io/prune": "disabled"}
"""The annotations that keep Argo CD and Flux from deleting an object whose manifest is gone. The status of an object is
the memory of its VM, and is lost with the object. They are on each object, so that they stay on a manifest that moves
to another folder, and apply whatever tool reads the manifest."""
SUGGESTED = {PowerState.RUNNING: DesiredPowerState.RUNNING, PowerState.STOPPED: DesiredPowerState.STOPPED}
"""The desired power state that changes nothing. The other power states are transitions, or do not show whether the VM
should be on. Paused is not among them, because nobody wants a VM paused for good."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """The object to write for one domain."""

    key: VmKey
    node: str
    domain: UnmanagedDomain
    also_on: tuple[str, ...] = ()
    """The other hosts that have a domain of this UUID. On those hosts it is off."""

    @property
    def on(self) -> bool:
        """Whether the domain had a QEMU process when it was listed."""
        return self.domain.has_qemu

    @property
    def suggested(self) -> DesiredPowerState | None:
        """The desired power state that keeps the domain as it was; None if its state does not show what is wanted."""
        return SUGGESTED.get(self.domain.power_state)


def manifest(adoption: Adoption, *, pinned: bool, power_state: bool) -> Json:
    """Return the object as JSON, with `spec` as its last field.

    `pinned`: with spec.nodeName. `power_state`: with spec.powerState, if the state of the domain suggests one.
    """
    spec: Json = {"nodeName": adoption.node} if pinned else {}
    spec["domain"] = {"uuid": str(adoption.domain.uuid)}
    if power_state and adoption.suggested:
        spec["powerState"] = str(adoption.suggested)
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {"name": adoption.key.name, "namespace": adoption.key.namespace, "annotations": dict(KEPT)},
        "spec": spec,
    }


def remarks(adoption: Adoption) -> Iterator[str]:
    """Yield the sentences for the comment above the object: what the domain did, and what users should know."""
    domain = adoption.domain
    state = f"{domain.power_state} ({sanitized(domain.reason, QUOTE_LIMIT)})" if domain.reason else domain.power_state
    yield f"The domain {quoted(domain)} of {adoption.node} was {state} when it was imported."
    if domain.transient:
        yield "It is transient: its next stop removes it, and virtsync cannot start it again."
    if adoption.also_on:
        yield f"A domain with this UUID is also defined, and off, on {' and '.join(adoption.also_on)}."
    if adoption.suggested is None:
        yield "This state does not show whether the VM should be on: choose the powerState yourself."


def quoted(domain: UnmanagedDomain) -> str:
    """Return the domain's name in a form that is safe to show."""
    return sanitized(domain.name, QUOTE_LIMIT)
