"""What the agent watches: one kind of objects with a field selector, and the callbacks for its changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from controller.api.json_mapping import Json
from controller.api.names import GROUP, HYPERVISOR_KIND, HYPERVISOR_PLURAL, KIND, PLURAL, VERSION
from controller.kube.skipping import Known
from controller.kube.watch_health import WatchHealth


@dataclass(slots=True, eq=False)
class Watched:
    """One kind of objects to watch. The callbacks run on the asyncio thread and must not block."""

    kind: str
    plural: str
    selector: str
    """The field selector, as in `spec.nodeName=node-a`."""
    on_object: Callable[[Json], None]
    """Called with each object that is listed, added or changed."""
    on_gone: Callable[[Json], None]
    """Called with each object that is deleted or no longer matches the selector."""
    health: WatchHealth
    on_refused: Callable[[], None] | None = None
    """Called when the API server refuses to list or watch the objects (403), or does not know the kind (404). The other
    kinds are still watched. A refused request is retried every 10 s; a kind that is not known is watched after
    the next `Watch.restart`. None: without this kind, no object is watched."""
    stale_lists: bool = False
    """Whether a list may be older than the changes that the callbacks have seen. The API server then answers it from
    its watch cache, and never from etcd (docs/adr/039)."""
    known: Known | None = None
    """Knows the objects for which `on_object` is not called. None: `on_object` is called for each."""
    group: str = GROUP
    version: str = VERSION
    served: bool | None = field(default=None, init=False)
    """Whether the API server knew the kind when kopf began; None: kopf has not read the list of kinds yet. A kind that
    was not known then is not watched."""
    refused: bool = field(default=False, init=False)
    """Whether the API server refused the last request."""

    @property
    def resource(self) -> tuple[str, str, str]:
        """The group, the version and the plural of the kind."""
        return self.group, self.version, self.plural

    @property
    def collection(self) -> str:
        """The path of the list of all objects."""
        return f"/apis/{self.group}/{self.version}/{self.plural}"


def virtual_machines(
    node_name: str,
    *,
    on_object: Callable[[Json], None],
    on_gone: Callable[[Json], None],
    known: Known | None = None,
) -> Watched:
    """Return the watch of this node's VirtualMachines. The callbacks: see `Watched`."""
    return Watched(
        KIND,
        PLURAL,
        f"spec.nodeName={node_name}",
        on_object=on_object,
        on_gone=on_gone,
        health=WatchHealth("VirtualMachines"),
        stale_lists=True,  # the store reads an object again whose version is older than the stored one
        known=known,
    )


def own_hypervisor(
    node_name: str, *, on_object: Callable[[Json], None], on_gone: Callable[[], None], on_refused: Callable[[], None]
) -> Watched:
    """Return the watch of this node's Hypervisor. The callbacks: see `Watched`."""
    return Watched(
        HYPERVISOR_KIND,
        HYPERVISOR_PLURAL,
        f"metadata.name={node_name}",
        on_object=on_object,
        on_gone=lambda _raw: on_gone(),
        health=WatchHealth(f"Hypervisor {node_name}"),
        on_refused=on_refused,
    )
