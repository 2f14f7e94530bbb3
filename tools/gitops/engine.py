"""What the tests ask of any GitOps engine."""

from collections.abc import Mapping
from typing import Any, Protocol

Json = dict[str, Any]


class Delivery(Protocol):
    """A folder of a Git repository that an engine applies to a namespace: an Application, or a Kustomization.

    It prunes, it undoes what others change, and it waits for the health of its objects. LabError from a wait that takes
    too long.
    """

    name: str

    def create(self) -> None:
        """Create it; the engine begins at once."""

    def suspend(self) -> None:
        """Have the engine apply nothing, until `resume`."""

    def resume(self) -> None:
        """Have the engine apply commits again."""

    def delete(self) -> None:
        """Delete it with its objects, and return when they are gone."""

    def until_applied(self, revision: str) -> Json:
        """Wait until the objects are as this commit has them; the object of the engine."""

    def until_healthy(self, revision: str) -> Json:
        """Wait until the objects are as this commit has them, and healthy; the object of the engine."""


PROTECTED: Mapping[str, str] = {
    "argocd.argoproj.io/sync-options": "Prune=false",
    "kustomize.toolkit.fluxcd.io/prune": "disabled",
}
"""The annotations with which neither engine prunes an object, as `virtsync import` writes them."""
