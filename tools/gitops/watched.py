"""An object of an engine: change it with kubectl, and wait until a version of it is as expected."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from lab import LabError
from lab.controlplane import ControlPlane
from lab.processes import last_lines
from lab.world import Watch

Json = dict[str, Any]
HANG_LIMIT_S = 120


class WatchedObject:
    """One object by kind, namespace and name; use it as a context manager, which removes it at the end.

    The waits check every version of the object in order, beginning with the one at which the last wait ended, so that
    they also find a state that lasted briefly. `log` is the log that a wait quotes when it fails.
    """

    def __init__(self, controlplane: ControlPlane, kind: str, namespace: str, name: str, *, log: Path) -> None:
        """`kind` is group/version/plural."""
        self.controlplane = controlplane
        group, version, plural = kind.split("/")
        self.kind = f"{plural}.{group}"
        self.namespace = namespace
        self.name = name
        self._collection = f"/apis/{group}/{version}/namespaces/{namespace}/{plural}"
        self._log = log
        self._versions: Watch | None = None
        """It has all versions since before the object was created."""
        self._seen_until = 0
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        self._versions = self._ends.enter_context(Watch(self.controlplane, self._collection))
        self._ends.callback(self.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def get(self) -> Json:
        """The object as it is now."""
        found: Json = json.loads(self.kubectl("get", self.kind, self.name, "-o", "json"))
        return found

    def patch(self, body: Json) -> None:
        """Merge this into the object."""
        self.kubectl("patch", self.kind, self.name, "--type=merge", "-p", json.dumps(body))

    def delete(self) -> None:
        """Delete it, and return when it and its objects are gone."""
        self.kubectl("delete", self.kind, self.name, f"--timeout={HANG_LIMIT_S}s")

    def until(self, holds: Callable[[Json], bool], what: str) -> Json:
        """The first version for which this holds; LabError with the last status if there is none in time."""
        assert self._versions  # noqa: S101 - it is watched before anybody waits
        index, found = self._versions.until(self.name, holds, first=self._seen_until)
        if found is None:
            status = json.dumps(self._versions.versions(self.name)[-1:], indent=1)
            raise LabError(f"{self.name} is not {what}:\n{status}\n{last_lines(self._log)}")
        self._seen_until = index
        return found

    def remove(self) -> None:
        """Remove it without its objects, if it exists."""
        if self.kubectl("get", self.kind, self.name, "--ignore-not-found"):
            self.patch({"metadata": {"finalizers": None}})
            self.kubectl("delete", self.kind, self.name, "--ignore-not-found")

    def kubectl(self, *words: str, input: str | None = None) -> str:  # noqa: A002 - as subprocess.run has it
        """Run kubectl in the object's namespace; its output."""
        return self.controlplane.kubectl("-n", self.namespace, *words, input=input).stdout
