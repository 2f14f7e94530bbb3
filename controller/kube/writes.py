"""Changes the spec or the annotations of one object, for the commands of users."""

from __future__ import annotations

from collections.abc import Callable

from controller.api.changes import Change, Unchanged
from controller.api.json_mapping import Json, as_map
from controller.api.names import CLI
from controller.kube.client import MERGE_PATCH, Api
from controller.runtime import retry
from controller.runtime.errors import Conflicted, Uncertain

ATTEMPTS = 5
"""How often a change is decided again after somebody else has written the object. An agent writes a status of an
object a few times in a second at most, and reading and patching take milliseconds."""


class Writes:
    """Changes single objects. Thread-safe.

    Each method raises Vanished if there is no such object, and Rejected or Transient if the API server refuses or does
    not answer; Uncertain if the object may have been changed all the same.
    """

    def __init__(self, api: Api) -> None:
        self._api = api

    def read(self, path: str) -> Json:
        """Return the object."""
        return retry.call(self._api.request, "GET", path)

    def change(self, path: str, decide: Callable[[Json], Change | Unchanged]) -> tuple[Json, Change | Unchanged]:
        """Change the object as `decide` says. Return the object as it is then, and what was decided.

        The patch applies only to the version that `decide` was given. If somebody has written the object in between,
        it is read and decided again. Raises also what `decide` raises.
        """
        for _ in range(ATTEMPTS - 1):
            try:
                return self._change(path, decide)
            except Conflicted:
                continue
        return self._change(path, decide)

    def _change(self, path: str, decide: Callable[[Json], Change | Unchanged]) -> tuple[Json, Change | Unchanged]:
        raw = self.read(path)
        change = decide(raw)
        if isinstance(change, Unchanged):
            return raw, change
        patch = dict(change.patch)
        version = as_map(raw.get("metadata")).get("resourceVersion")
        patch["metadata"] = as_map(patch.get("metadata")) | {"resourceVersion": version}
        try:
            answer = self._api.request(
                "PATCH", path, patch, content_type=MERGE_PATCH, fieldManager=CLI, fieldValidation="Strict"
            )
        except Uncertain as error:
            # First, because a long text is cut at its end.
            raise Uncertain(f"it may have been changed all the same: {error}") from error
        return answer, change
