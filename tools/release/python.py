"""The Python packages of an image or of a wheel, from their metadata and from uv.lock."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.metadata import Metadata, RawMetadata, parse_email
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from release import ReleaseError
from release.image import ImageArchive

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
INSTALLED = re.compile(r"opt/virtsync/lib/python3[.\d]*/site-packages/[^/]+\.dist-info/METADATA")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PythonPackage:
    """One package in one version."""

    name: str
    version: str
    license: str | None
    """An SPDX expression or a name; None: its metadata has none."""
    needs: tuple[str, ...]
    """The names of the packages that it depends on."""


def image_packages(image: ImageArchive) -> list[PythonPackage]:
    """Return the packages in the environment of the image, sorted by name."""
    return _described(image.texts(lambda path: bool(INSTALLED.fullmatch(path))).values())


def wheel_packages(lock: Path, project: str, extras: Iterable[str] = ()) -> list[PythonPackage]:
    """Return the project and what uv.lock lets pip install with it on Linux, sorted by name.

    The licenses are those of the environment that runs this, which must have the locked versions: else ReleaseError.
    """
    locked = {one["name"]: one for one in tomllib.loads(lock.read_text())["package"]}
    needed: dict[str, None] = {project: None}
    optional = locked[project].get("optional-dependencies", {})
    for name in [*_needed(locked[project]), *(one["name"] for extra in extras for one in optional[extra])]:
        _add(locked, name, needed)
    return [
        PythonPackage(
            name,
            version := str(locked[name].get("version") or distribution(name).version),
            _license_of(name, version),
            tuple(sorted({one for one in _needed(locked[name]) if one in needed})),
        )
        for name in sorted(needed)
    ]


def _add(locked: Mapping[str, Json], name: str, needed: dict[str, None]) -> None:
    if name not in needed:
        needed[name] = None
        for one in _needed(locked[name]):
            _add(locked, one, needed)


def _needed(package: Json) -> list[str]:
    return [one["name"] for one in package.get("dependencies", ()) if _applies(one.get("marker"))]


def _applies(marker: Marker | str | None, extra: str = "") -> bool:
    """Whether a marker holds on Linux, with any Python that virtsync runs on."""
    if marker is None:
        return True
    read = Marker(str(marker))
    return any(
        read.evaluate(
            {
                "python_version": python,
                "python_full_version": f"{python}.0",
                "platform_python_implementation": "CPython",
                "implementation_name": "cpython",
                "sys_platform": "linux",
                "platform_system": "Linux",
                "os_name": "posix",
                "extra": extra,
            }
        )
        for python in PYTHONS
    )


def _license_of(name: str, version: str) -> str | None:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        raise ReleaseError(f"{name} is not in this environment: run `make python-packages`.") from None
    if found.version != version:
        raise ReleaseError(f"{name} has version {found.version} here, and {version} in uv.lock.")
    return _license(parse_email(found.read_text("METADATA") or "")[0])


def _described(metadata: Iterable[str]) -> list[PythonPackage]:
    """The packages with these METADATA files; what is not among them is left out of what they need."""
    read = [Metadata.from_email(text, validate=False) for text in metadata]
    names = {canonicalize_name(one.name) for one in read}
    return sorted(
        (
            PythonPackage(
                canonicalize_name(one.name),
                str(one.version),
                _license(parse_email(text)[0]),
                tuple(sorted({canonicalize_name(it.name) for it in one.requires_dist or () if _here(it)} & names)),
            )
            for one, text in zip(read, metadata, strict=True)
        ),
        key=lambda package: package.name,
    )


def _here(requirement: Requirement) -> bool:
    return _applies(requirement.marker)


def _license(raw: RawMetadata) -> str | None:
    """The license as the metadata gives it: by an expression, by a short text, or by a classifier."""
    if expression := raw.get("license_expression"):
        return expression
    text = (raw.get("license") or "").strip()
    if text and "\n" not in text:
        return text
    named = [one.rpartition(" :: ")[2] for one in raw.get("classifiers", ()) if one.startswith("License :: OSI")]
    return " AND ".join(sorted(named)) or None
