"""The chart as a test renders it: the objects by their kind and name."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.helm import CHART, Helm
from tests.deploy.callers import AGENTS

Json = dict[str, Any]
Objects = dict[tuple[str, str], Json]


def by_name(objects: list[Json]) -> Objects:
    """Objects by kind and name; each is there once."""
    found = {(it["kind"], it["metadata"]["name"]): it for it in objects}
    assert len(found) == len(objects)
    return found


class Rendering:
    """Renders the chart with values, as `helm install` would apply it."""

    def __init__(self, folder: Path) -> None:
        self.helm = Helm(folder / "helm")
        self._values = folder / "values.json"

    def __call__(self, values: Json | None = None, *words: str, namespace: str = AGENTS) -> Objects:
        self._values.write_text(json.dumps(values or {}))
        rendered = self.helm.template(namespace=namespace, words=[f"--values={self._values}", *words])
        return by_name([it for it in yaml.safe_load_all(rendered) if it])

    def refused(self, values: Json) -> str:
        """What Helm says of values that it must refuse."""
        self._values.write_text(json.dumps(values))
        with pytest.raises(subprocess.CalledProcessError) as failure:
            self.helm.template(CHART, namespace=AGENTS, words=[f"--values={self._values}"])
        said: str = failure.value.stderr
        return said
