"""The bills of materials name what is there, follow CycloneDX's schema, and are equal for equal contents."""

import json
from pathlib import Path
from typing import Any

import pytest

from controller import __version__
from release.debian import DebianPackage, installed
from release.python import PythonPackage, wheel_packages
from release.sbom import bill_of_image, bill_of_wheel, problems

LOCK = Path(__file__).parents[2] / "uv.lock"
STATUS = """\
Package: python3
Status: install ok installed
Architecture: amd64
Version: 3.11.2-1+b1
Pre-Depends: python3-minimal (= 3.11.2-1+b1)
Depends: libc6 (>= 2.34) | libc-other, libpython3-stdlib:any (= 3.11), awk
Description: interactive language
 Depends: not a field, but a line of the one before

Package: python3-minimal
Status: install ok installed
Architecture: amd64
Version: 3.11.2-1+b1

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u13

Package: mawk
Status: install ok installed
Architecture: amd64
Version: 1.3.4
Provides: awk

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""
PYTHON = [
    PythonPackage("virtsync", __version__, "Apache-2.0", ("click", "odd")),
    PythonPackage("click", "8.2.1", "BSD-3-Clause", ()),
    PythonPackage("odd", "1", "its own license", ("click",)),
]

Json = dict[str, Any]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "artifact"
    path.write_bytes(b"contents")
    return path


def _components(bill: str) -> dict[str, Json]:
    return {one["name"]: one for one in json.loads(bill)["components"]}


def _needs(bill: str) -> dict[str, list[str]]:
    return {one["ref"]: one.get("dependsOn", []) for one in json.loads(bill)["dependencies"]}


def test_the_packages_of_debian_are_those_that_dpkg_has_installed() -> None:
    found = {package.name: package for package in installed(STATUS, "debian-12")}
    assert list(found) == ["libc6", "mawk", "python3", "python3-minimal"]
    needs = ("libc6", "mawk", "python3-minimal")
    assert found["python3"] == DebianPackage("python3", "3.11.2-1+b1", "amd64", "debian-12", needs)


def test_the_bill_of_an_image_names_each_package_and_what_it_needs(artifact: Path) -> None:
    bill = bill_of_image(artifact, __version__, installed(STATUS, "debian-12"), PYTHON, 1_700_000_000)
    assert problems(bill) == ""
    found = _components(bill)
    assert {name: one["version"] for name, one in found.items()} == {
        **{package.name: package.version for package in PYTHON},
        "libc6": "2.36-9+deb12u13",
        "mawk": "1.3.4",
        "python3": "3.11.2-1+b1",
        "python3-minimal": "3.11.2-1+b1",
    }
    libc = "pkg:deb/debian/libc6@2.36-9%2Bdeb12u13?arch=amd64&distro=debian-12"
    assert found["libc6"]["purl"] == libc
    assert found["click"]["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert found["odd"]["licenses"] == [{"license": {"name": "its own license"}}]
    needs = _needs(bill)
    assert libc in needs[found["python3"]["bom-ref"]]
    assert needs[found["odd"]["bom-ref"]] == ["pkg:pypi/click@8.2.1"]
    assert set(needs["image"]) == {found[name]["bom-ref"] for name in found} - {
        "pkg:pypi/click@8.2.1",
        "pkg:pypi/odd@1",
    }
    metadata = json.loads(bill)["metadata"]
    assert metadata["timestamp"] == "2023-11-14T22:13:20+00:00"
    assert metadata["component"]["type"] == "container"
    assert [one["alg"] for one in metadata["component"]["hashes"]] == ["SHA-256"]


def test_the_bill_of_the_wheel_has_what_the_lock_has_for_it(artifact: Path) -> None:
    packages = wheel_packages(LOCK, "virtsync")
    bill = bill_of_wheel(artifact, __version__, packages, 1_700_000_000)
    assert problems(bill) == ""
    found = _components(bill)
    assert {"click", "kopf", "kubernetes", "libvirt-python", "urllib3", "tenacity"} <= found.keys()
    # Neither what only development needs, nor what only another system needs.
    assert found.keys().isdisjoint({"virtsync", "pytest", "cyclonedx-python-lib", "colorama", "rich"})
    assert [name for name, one in found.items() if not one.get("licenses")] == []
    assert set(_needs(bill)["wheel"]) >= {found["click"]["bom-ref"], found["kopf"]["bom-ref"]}


def test_equal_contents_give_equal_bills_and_others_do_not(artifact: Path) -> None:
    def bill(packages: list[PythonPackage], epoch: int = 1) -> str:
        return bill_of_image(artifact, __version__, [], packages, epoch)

    assert bill(PYTHON) == bill([*reversed(PYTHON)])
    serials = {json.loads(one)["serialNumber"] for one in (bill(PYTHON), bill(PYTHON, 2))}
    artifact.write_bytes(b"others")
    serials.add(json.loads(bill(PYTHON))["serialNumber"])
    assert len(serials) == 3


def test_a_bill_that_breaks_the_schema_is_found() -> None:
    assert problems('{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"name": "x"}]}')
