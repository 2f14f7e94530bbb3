"""Bills of materials in CycloneDX: what is in the image, and what the wheel needs.

Two builds of the same release have equal bills: the serial number is made from the contents, and the time is that of
the commit.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from release import PROJECT, ReleaseError, sha256
from release.debian import DebianPackage
from release.python import PythonPackage

NAME = "virtsync"
LICENSE = "Apache-2.0"


def bill_of_wheel(wheel: Path, version: str, packages: Sequence[PythonPackage], epoch: int) -> str:
    """Return the bill of a wheel: its own package is one of `packages`, the others are what pip installs with it."""
    root = Component(
        name=NAME,
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref="wheel",
        purl=PackageURL("pypi", name=NAME, version=version),
        licenses=[LicenseFactory().make_from_string(LICENSE)],
        hashes=[_hash(wheel)],
    )
    others = [one for one in packages if one.name != NAME]
    needs = next(one.needs for one in packages if one.name == NAME)
    return _written(root, needs, [], others, epoch)


def bill_of_image(
    image: Path, version: str, debian: Sequence[DebianPackage], python: Sequence[PythonPackage], epoch: int
) -> str:
    """Return the bill of an image archive."""
    root = Component(
        name=NAME,
        version=version,
        type=ComponentType.CONTAINER,
        bom_ref="image",
        licenses=[LicenseFactory().make_from_string(LICENSE)],
        hashes=[_hash(image)],
    )
    return _written(root, [NAME], debian, python, epoch)


def problems(bill: str) -> str:
    """Return what CycloneDX's own schema finds wrong with a bill; empty if nothing."""
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill)
    return "" if error is None else str(error)


def _written(
    root: Component,
    needs: Iterable[str],
    debian: Sequence[DebianPackage],
    python: Sequence[PythonPackage],
    epoch: int,
) -> str:
    ours = {one.name: _python_component(one) for one in python}
    distribution = {one.name: _debian_component(one) for one in debian}
    bom = Bom(components=[*ours.values(), *distribution.values()])
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    named = "\n".join(sorted(str(one.purl) for one in bom.components))
    digests = " ".join(sorted(one.content for one in root.hashes))
    bom.serial_number = uuid5(NAMESPACE_URL, f"{PROJECT} {root.bom_ref} {epoch} {digests}\n{named}")
    bom.register_dependency(root, [*(ours[name] for name in needs), *distribution.values()])
    for package in python:
        bom.register_dependency(ours[package.name], [ours[name] for name in package.needs])
    for one in debian:
        bom.register_dependency(distribution[one.name], [distribution[name] for name in one.needs])
    text = JsonV1Dot6(bom).output_as_string(indent=2) + "\n"
    if wrong := problems(text):
        raise ReleaseError(f"The bill of materials of the {root.bom_ref} breaks the schema of CycloneDX: {wrong}")
    return text


def _python_component(package: PythonPackage) -> Component:
    purl = PackageURL("pypi", name=package.name, version=package.version)
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=str(purl),
        purl=purl,
        licenses=[LicenseFactory().make_from_string(package.license)] if package.license else [],
    )


def _debian_component(package: DebianPackage) -> Component:
    where = {"arch": package.architecture, "distro": package.distribution}
    purl = PackageURL("deb", "debian", package.name, package.version, where)
    return Component(
        name=package.name, version=package.version, type=ComponentType.LIBRARY, bom_ref=str(purl), purl=purl
    )


def _hash(file: Path) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=sha256(file))
