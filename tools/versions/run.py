"""Run the tests of the plan on one pair of versions after the other."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree as ET

from versions import modules
from versions.plan import AREAS, TESTS, Pair
from versions.table import Count, Row


def run(pair: Pair, *pytest_arguments: str) -> Row:
    """Run the tests of a pair; builds the programs first, if need be.

    Pytest prints to standard output. CalledProcessError if it could not run at all.
    """
    folder = modules.assets(pair.server, pair.kubectl)
    server = _says(folder / "kube-apiserver", "--version")
    kubectl = _says(folder / "kubectl", "version", "--client")
    print(f"\nkube-apiserver {server}, kubectl {kubectl}", flush=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as reports:
        report = Path(reports) / "report.xml"
        files = [str(TESTS / file) for area in pair.areas for file in AREAS[area]]
        command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", *pytest_arguments]
        env = os.environ | {"KUBEBUILDER_ASSETS": str(folder)}
        done = subprocess.run([*command, *files], cwd=TESTS.parent, env=env, check=False)
        if done.returncode > 1:
            done.check_returncode()
        counts = counted(report.read_text(), pair)
    return Row(pair, server, kubectl, counts, round(time.monotonic() - begin))


def counted(report: str, pair: Pair) -> dict[str, Count]:
    """The tests of each area of a pair in a report of pytest; an error of a fixture is a failure, like a skipped test.

    A test with both a failure and an error at its end is one test of the report, or two: either way it failed.
    """
    areas = {_module(file): area for area in pair.areas for file in AREAS[area]}
    counts = {area: Count() for area in pair.areas}
    for case in ET.fromstring(report).iter("testcase"):  # noqa: S314 - pytest wrote it just now
        # The module, and for the test of a class its name too.
        name = case.attrib["classname"]
        count = counts[areas.get(name) or areas[name.rpartition(".")[0]]]
        count.tests += 1
        count.failed += any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
    return counts


def _module(file: str) -> str:
    return "tests." + file.removesuffix(".py").replace("/", ".")


def _says(*command: str | Path) -> str:
    """The version that a program says it is, such as `1.35.4`."""
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return next(word.removeprefix("v") for word in said if word.startswith("v1."))
