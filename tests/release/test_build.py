"""What a release has besides the image: built twice, in two folders, and compared; and its checksums."""

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from controller import __version__
from lab.binaries import CACHE
from release import ReleaseError, commit_epoch
from release.build import add_checksums, add_constraints, add_manifests
from release.chart import build_chart
from release.compare import differences
from release.python import wheel_packages
from release.python_build import build_packages

ROOT = Path(__file__).parents[2]


def _checkout(target: Path) -> Path:
    """The files that Git has, as they are now, with other times and modes."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
    return target


def test_two_builds_of_the_packages_are_equal_and_have_what_they_should(tmp_path: Path) -> None:
    epoch = commit_epoch()
    built = []
    for name, umask in (("one", 0o022), ("the-other", 0o077)):
        before = os.umask(umask)
        try:
            checkout = _checkout(tmp_path / name)
            (checkout / "out").mkdir()
            build_packages(checkout / "out", epoch, source=checkout)
        finally:
            os.umask(before)
        built.append(checkout / "out")
    assert differences(*built) == []
    wheel, sdist = (next(built[0].glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
    assert [wheel.name, sdist.name] == [f"virtsync-{__version__}-py3-none-any.whl", f"virtsync-{__version__}.tar.gz"]
    with zipfile.ZipFile(wheel) as files:
        assert "controller/agent/app.py" in files.namelist()
        assert {name.split("/")[0] for name in files.namelist()} == {"controller", f"virtsync-{__version__}.dist-info"}
    with tarfile.open(sdist) as tar:
        assert {"deploy/install.yaml", "docs/install.md", "CHANGELOG.md"} <= {
            name.partition("/")[2] for name in tar.getnames()
        }


def test_the_manifests_of_a_release_are_those_of_deploy(tmp_path: Path) -> None:
    add_manifests(tmp_path)
    definitions = [*yaml.safe_load_all((tmp_path / "crds.yaml").read_text())]
    sources = [yaml.safe_load(file.read_text()) for file in sorted((ROOT / "deploy/crds").iterdir())]
    assert definitions == sources
    assert (tmp_path / "install.yaml").read_bytes() == (ROOT / "deploy/install.yaml").read_bytes()
    assert (tmp_path / "virtsync-agent.service").exists()


def test_the_constraints_are_the_versions_of_the_bill_of_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (version,) = re.findall(r"^UV_VERSION := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    monkeypatch.setenv("UV", str(CACHE / f"uv-{version}" / "bin" / "uv"))
    written = []
    for name in ("one", "the-other"):
        (tmp_path / name).mkdir()
        add_constraints(tmp_path / name)
        written.append((tmp_path / name / "constraints.txt").read_text())
    assert written[0] == written[1]
    read = [Requirement(line) for line in written[0].splitlines()]
    locked = {it.name: str(it.specifier) for it in read}
    assert len(locked) == len(read)
    # The extra is there too, and the project itself is not.
    needed = wheel_packages(ROOT / "uv.lock", "virtsync", extras=["top"])
    assert locked.items() >= {it.name: f"=={it.version}" for it in needed if it.name != "virtsync"}.items()
    assert locked.keys().isdisjoint({"virtsync", "pytest", "hatchling"})


def test_sha256sum_accepts_the_checksums_and_finds_a_change(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text(name)
    add_checksums(tmp_path)
    assert re.findall(r"  (.*)", (tmp_path / "SHA256SUMS").read_text()) == ["a", "b"]
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=tmp_path, check=False).returncode == 0
    (tmp_path / "b").write_text("c")
    assert subprocess.run(check, cwd=tmp_path, check=False, capture_output=True).returncode == 1


def test_a_chart_is_packed_as_helm_does_and_equal_each_time(tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text(f"name: virtsync\nversion: {__version__}\nappVersion: {__version__}\n")
    (chart / "templates" / "a.yaml").write_text("a: b\n")
    (tmp_path / "crd.yaml").write_text("c: d\n")
    (chart / "crd.yaml").symlink_to(tmp_path / "crd.yaml")
    digests = set()
    for folder in (tmp_path / "one", tmp_path / "other"):
        folder.mkdir()
        archive = build_chart(folder, __version__, chart)
        digests.add(hashlib.sha256(archive.read_bytes()).hexdigest())
        os.utime(chart / "Chart.yaml", (1, 1))
    assert archive.name == f"virtsync-{__version__}.tgz"
    assert len(digests) == 1
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["virtsync/Chart.yaml", "virtsync/crd.yaml", "virtsync/templates/a.yaml"]
        assert all(entry.isreg() for entry in tar)


def test_a_chart_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Chart.yaml").write_text("name: virtsync\nversion: 9.9.9\nappVersion: 9.9.9\n")
    with pytest.raises(ReleaseError, match=r"9\.9\.9"):
        build_chart(tmp_path, __version__, tmp_path)
