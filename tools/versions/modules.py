"""The Go modules of the versions of Kubernetes: kube-apiserver and kubectl, from the sources in tools/kubernetes.

The version that `make setup` builds has its module there. Each other one has a folder in `modules/`, with links to the
sources, because one Go module can require only one version.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from lab import LabError
from lab.binaries import MODULE, find_assets, stamped
from lab.gomodule import CACHE, GoModule

FOLDER = Path(__file__).parent / "modules"
SOURCES = ("main.go", "kube_apiserver.go", "kubectl.go")
UPSTREAM = "k8s.io/kubernetes"


def known() -> dict[str, GoModule]:
    """The module of each version by its minor version, such as `1.35`; the oldest first."""
    folders = [MODULE, *(file.parent for file in FOLDER.glob("*/go.mod"))]
    found = [stamped(GoModule(folder, "Kubernetes", UPSTREAM)) for folder in folders]
    return {minor(module.version): module for module in sorted(found, key=lambda module: _numbers(module.version))}


def assets(server: str, kubectl: str) -> Path:
    """A folder for KUBEBUILDER_ASSETS: these versions of kube-apiserver and kubectl, and the etcd of all other tests.

    It builds what is not built, which takes minutes and shows progress on standard error. LabError if there is no
    module for a version, or if etcd is not built.
    """
    built = {"etcd": find_assets(["etcd"])}
    for command, version in (("kube-apiserver", server), ("kubectl", kubectl)):
        module = known().get(version)
        if not module:
            raise LabError(f"{version} is none of the versions {', '.join(known())}.")
        built[command] = module.build()
    name = hashlib.sha256(repr(built).encode()).hexdigest()[:12]
    folder = CACHE / f"assets-{name}"
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        partial.mkdir()
        for command, commands in built.items():
            (partial / command).symlink_to(commands / command)
        try:
            partial.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return folder


def add(version: str) -> Path:
    """Write the module of a version, such as 1.36.3, in place of the one of its minor version; returns its folder.

    The staging modules have upstream's version, and the Go runtime upstream's settings. This needs the network.
    """
    if minor(version) == minor(stamped(GoModule(MODULE, "", UPSTREAM)).version):
        raise LabError(f"{version} is built from {MODULE}: change the version there.")
    folder = FOLDER / minor(version)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in SOURCES:
        (folder / name).symlink_to(Path("../../../kubernetes") / name)
    module, file = GoModule(folder, "Kubernetes", UPSTREAM), folder / "go.mod"
    file.write_text("module virtsync.dev/tools/versions\n")
    download = json.loads("".join(module.go("mod", "download", "-json", f"{UPSTREAM}@v{version}")))
    file.write_text(_go_mod(version, Path(download["GoMod"]).read_text()))
    for _ in module.go("mod", "tidy"):
        pass
    return folder


def minor(version: str) -> str:
    """`1.35` for `v1.35.4`; LabError if it is no such version."""
    return ".".join(map(str, _numbers(version)[:2]))


def _numbers(version: str) -> tuple[int, int, int]:
    found = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)", version)
    if not found:
        raise LabError(f"{version} is not a version such as 1.35.4.")
    return int(found[1]), int(found[2]), int(found[3])


def _go_mod(version: str, upstream: str) -> str:
    settings = re.findall(r"^(?:go|godebug) .+$", upstream, re.MULTILINE)
    staging = re.findall(r"^\t(\S+) => \./staging/", upstream, re.MULTILINE)
    replaced = [f"\t{name} => {name} v0.{version.partition('.')[2]}" for name in staging]
    lines = ["module virtsync.dev/tools/versions", *settings, f"require {UPSTREAM} v{version}"]
    return "\n\n".join(lines) + "\n\nreplace (\n" + "\n".join(replaced) + "\n)\n"
