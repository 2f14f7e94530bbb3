"""Builds the folder of a release. Two builds of one commit are equal, if Debian's packages in the image are."""

import gzip
import os
import shutil
import tempfile
from pathlib import Path

from controller import __version__
from krew import archive as plugin
from krew import manifest as plugin_manifest
from release import ROOT, commit_epoch, run, sha256
from release.chart import build_chart
from release.debian import debian_packages
from release.image import ImageArchive
from release.python import image_packages, wheel_packages
from release.python_build import build_packages
from release.sbom import bill_of_image, bill_of_wheel

IMAGE = ROOT / "build" / "image.tar"
DIST = ROOT / "dist"
SUMS = "SHA256SUMS"
CONSTRAINTS = "constraints.txt"
COPIED = {"install.yaml": "deploy/install.yaml", "virtsync-agent.service": "deploy/systemd/virtsync-agent.service"}


def build(folder: Path, image: Path = IMAGE) -> list[Path]:
    """Write all files of the release into a folder, whose former contents are removed. `image` must be built.

    ReleaseError with a sentence if something cannot be built. The folder is there only when it is complete.
    """
    epoch = commit_epoch()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        made = Path(name) / "made"
        made.mkdir()
        add_packages(made, epoch)
        add_constraints(made)
        add_manifests(made)
        add_plugin(made)
        build_chart(made, __version__)
        add_image(made, image, epoch)
        add_checksums(made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return sorted(folder.iterdir())


def add_packages(folder: Path, epoch: int) -> None:
    """Add the wheel, the source distribution, and the bill of materials of the wheel."""
    wheel = next(file for file in build_packages(folder, epoch) if file.suffix == ".whl")
    needed = wheel_packages(ROOT / "uv.lock", "virtsync")
    bill = bill_of_wheel(wheel, __version__, needed, epoch)
    (folder / f"virtsync-{__version__}-wheel.cdx.json").write_text(bill)


def add_constraints(folder: Path) -> None:
    """Add what pip reads with `--constraint`: the locked version of each package that the wheel and its extras need.

    There are no hashes, because pip would then demand one for the wheel too.
    """
    plain = ("--no-header", "--no-annotate", "--no-hashes")
    which = ("--frozen", "--no-dev", "--all-extras", "--no-emit-project")
    run(os.environ.get("UV", "uv"), "export", "--quiet", *which, *plain, "--output-file", folder / CONSTRAINTS)


def add_manifests(folder: Path) -> None:
    """Add what kubectl applies: the definitions in one file, and everything else in another; and the systemd unit."""
    definitions = sorted((ROOT / "deploy" / "crds").glob("*.yaml"))
    (folder / "crds.yaml").write_text("---\n".join(file.read_text() for file in definitions))
    for name, source in COPIED.items():
        shutil.copyfile(ROOT / source, folder / name)


def add_plugin(folder: Path) -> None:
    """Add the plugin of kubectl for Krew, and its manifest."""
    packed = folder / plugin_manifest.archive_name()
    plugin.build(packed)
    (folder / "krew.yaml").write_text(plugin_manifest.render(packed))


def add_image(folder: Path, image: Path, epoch: int) -> None:
    """Add the archive of the image, compressed, and its bill of materials."""
    found = ImageArchive(image)
    named = f"virtsync-{__version__}-image-{found.architecture}"
    target = folder / f"{named}.tar.gz"
    with (
        image.open("rb") as source,
        target.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=epoch) as packed,
    ):
        shutil.copyfileobj(source, packed, 1 << 20)
    bill = bill_of_image(target, __version__, debian_packages(found), image_packages(found), epoch)
    (folder / f"{named}.cdx.json").write_text(bill)


def add_checksums(folder: Path) -> None:
    """Add the checksums of all files, as `sha256sum --check` reads them."""
    lines = [f"{sha256(file)}  {file.name}\n" for file in sorted(folder.iterdir())]
    (folder / SUMS).write_text("".join(lines))
