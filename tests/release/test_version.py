"""The version is in controller/__init__.py, and everything else takes it from there."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from controller import __version__
from krew import manifest
from manifests.version import RENDERED, render

ROOT = Path(__file__).parents[2]
NOT_OURS = {"uv.lock"}
SHOWN = {"docs", "tests", "CHANGELOG.md"}
"""Examples of output, which do not become wrong with the next version."""


def test_the_manifests_have_the_version() -> None:
    assert RENDERED.read_text() == render(), "run `make manifests`"
    installed = [*yaml.safe_load_all((ROOT / "deploy/install.yaml").read_text())]
    assert {it["metadata"]["labels"]["app.kubernetes.io/version"] for it in installed} == {__version__}
    pods = [it["spec"]["template"]["spec"] for it in installed if it["kind"] in {"DaemonSet", "Deployment"}]
    assert {one["image"] for pod in pods for one in pod["containers"]} == {f"virtsync/virtsync:{__version__}"}


def test_no_other_file_that_people_write_has_it() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    word = re.compile(rf"(?<![\d.v]){re.escape(__version__)}(?![\d.])")
    having = set()
    for name in listed.splitlines():
        file = ROOT / name
        if Path(name).parts[0] in SHOWN or name in NOT_OURS or file.suffix in {".sum", ".mod"} or not file.is_file():
            continue
        if word.search(file.read_text(errors="replace")):
            having.add(name)
    rendered = {"deploy/version/kustomization.yaml", "deploy/install.yaml"}
    chart = {name for name in having if name.startswith("deploy/chart/")}
    assert having - chart == {"controller/__init__.py", *rendered}


def test_the_chart_has_the_version() -> None:
    chart = ROOT / "deploy/chart/Chart.yaml"
    if chart.exists():
        described = yaml.safe_load(chart.read_text())
        assert (described["version"], described["appVersion"]) == (__version__, __version__)


@pytest.mark.parametrize("program", ["virtsync", "kubectl-virtsync"])
def test_the_programs_say_the_version(program: str) -> None:
    command = Path(sys.executable).with_name(program)
    said = subprocess.run([command, "--version"], check=True, capture_output=True, text=True).stdout
    assert said == f"{program}, version {__version__}\n"


def test_the_package_and_the_archive_for_krew_have_the_version() -> None:
    assert version("virtsync") == __version__, "run `make python-packages`"
    assert manifest.archive_name() == f"kubectl-virtsync-v{__version__}.tar.gz"


def test_the_image_is_built_with_the_version() -> None:
    script = (ROOT / "tools/image/build.sh").read_text()
    (words,) = re.findall(r"^VERSION=\$\((.*)\)$", script, re.MULTILINE)
    said = subprocess.run(["sh", "-c", words], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert said.strip() == __version__
