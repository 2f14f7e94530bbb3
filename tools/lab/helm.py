"""The real Helm, built with Go for the tests."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.gomodule import GoModule

MODULE = GoModule(
    Path(__file__).parents[1] / "helm", "Helm", "helm.sh/helm/v4", name="helm", programs=["helm.sh/helm/v4/cmd/helm"]
)
CHART = Path(__file__).parents[2] / "deploy" / "chart"


class Helm:
    """Helm with its state in a folder, for the cluster of a kubeconfig; without one, it can only render and lint."""

    def __init__(self, folder: Path, kubeconfig: Path | None = None) -> None:
        homes = {f"HELM_{name}_HOME": str(folder / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        self.env = os.environ | homes | {"KUBECONFIG": str(kubeconfig or os.devnull)}

    def run(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command; CalledProcessError with what it printed if it fails and `check` is set."""
        done = subprocess.run(
            [MODULE.program("helm"), *words], env=self.env, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            error = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
            error.add_note(done.stderr)
            raise error
        return done

    def template(self, chart: Path = CHART, *, namespace: str, words: Sequence[str] = ()) -> str:
        """The manifests of a chart as `helm install` would apply them; CalledProcessError if the values are refused."""
        return self.run("template", "virtsync", chart, f"--namespace={namespace}", *words).stdout
