"""kstatus by the library that Flux uses: what its health checks make of an object without `healthCheckExprs`."""

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lab.gomodule import GoModule

Json = dict[str, Any]
MODULE = GoModule(
    Path(__file__).parent / "engines" / "kstatus",
    "kstatus",
    "github.com/fluxcd/cli-utils",
    name="kstatus",
    programs=["virtsync.dev/tools/gitops/kstatus"],
)


def compute(objects: Iterable[Json]) -> dict[str, str]:
    """The kstatus of each object, by its name: `Current`, `InProgress` or `Failed`; LabError if it is not built."""
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    done = subprocess.run([MODULE.program("kstatus")], input=listed, capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())
