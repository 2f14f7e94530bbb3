"""The image of build/image.tar, unpacked and run by runc as the manifests run it: nothing writable, no capability."""

import json
import os
import re
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from cluster.cluster import search_unpacked
from controller import __version__

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]
ARCHIVE = REPOSITORY / "build/image.tar"
LIMIT_ABOVE_BASE_BYTES = 160 * 10**6
LABEL = "org.opencontainers.image."
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
HANG_LIMIT_S = 60
# Root as in the manifests, what the image says by itself, and somebody whom no file of it knows.
USERS = [0, 65532, 12345]

IMPORT_ALL = """
import importlib, pkgutil, controller
for module in pkgutil.walk_packages(controller.__path__, "controller."):
    if not module.name.endswith("__main__"):
        try:
            print(importlib.import_module(module.name).__name__)
        except ModuleNotFoundError as error:
            print(f"{module.name}-lacks-{error.name}")
"""
SHELLS = ("sh", "bash", "dash", "rbash")
NO_SHELL = """
import subprocess, sys
done = subprocess.run(["virtsync", "check", "--node-name", "node-a"], capture_output=True, text=True)
print(done.stdout, done.stderr)
sys.exit(done.returncode != 1)
"""
"""`virtsync check` finds something missing, which is no failure here."""
SCREEN = "controller.cli.vm.screen"
"""Shows `virtsync vm top` on a terminal, and needs the extra `top`, which nobody needs on a node."""


class Image:
    """An image, unpacked: needs root, for its files keep their owners."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.bundle = folder
        self.root = folder / "rootfs"
        self.root.mkdir(parents=True)
        (folder / "archive").mkdir()
        subprocess.run(["tar", "--extract", "--file", archive, "--directory", folder / "archive"], check=True)
        (manifest,) = json.loads((folder / "archive/manifest.json").read_text())
        self.names: list[str] = manifest["RepoTags"]
        self.text = (folder / "archive" / manifest["Config"]).read_text()
        self.config: dict[str, Any] = json.loads(self.text)["config"]
        self.layers = [folder / "archive" / layer for layer in manifest["Layers"]]
        for layer in self.layers:
            self._add(layer)

    def _add(self, layer: Path) -> None:
        """Unpack one layer onto those before it: first what it takes away, as the specification of images has it."""
        with tarfile.open(layer) as tar:
            marks = [PurePosixPath(name) for name in tar.getnames() if PurePosixPath(name).name.startswith(WHITEOUT)]
        for mark in marks:
            folder = self.root / mark.parent
            if mark.name == OPAQUE:
                gone = list(folder.iterdir()) if folder.is_dir() else []
            else:
                gone = [folder / mark.name.removeprefix(WHITEOUT)]
            for path in gone:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        exclude = ["--exclude=.wh.*", "--numeric-owner", "--same-owner", "--same-permissions"]
        subprocess.run(["tar", "--extract", *exclude, "--file", layer, "--directory", self.root], check=True)

    def run(self, *command: str, uid: int = 0, entrypoint: tuple[str, ...] | None = None) -> str:
        """Run it with a root that nobody can write to and no capability; what it prints. Fails if it fails."""
        subprocess.run(["runc", "spec", "--bundle", self.bundle], check=True)
        file = self.bundle / "config.json"
        spec = json.loads(file.read_text())
        spec["root"]["readonly"] = True
        spec["process"] |= {
            "terminal": False,
            "args": [*(self.config["Entrypoint"] if entrypoint is None else entrypoint), *command],
            "env": self.config["Env"],
            "user": {"uid": uid, "gid": uid},
            "capabilities": {},
            "noNewPrivileges": True,
        }
        file.write_text(json.dumps(spec))
        name = f"virtsync-test-{os.getpid()}"
        try:
            ran = subprocess.run(
                ["runc", "run", "--bundle", self.bundle, name],
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=HANG_LIMIT_S,
            )
        finally:
            subprocess.run(["runc", "delete", "--force", name], check=False, capture_output=True)
            file.unlink()
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    def files(self) -> Iterator[Path]:
        """Every file that is in it in the end."""
        for folder, _, names in os.walk(self.root):
            for name in names:
                yield Path(folder, name)

    def inside(self, path: Path) -> str:
        """The path as the image has it."""
        return f"/{path.relative_to(self.root)}"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    assert ARCHIVE.exists(), f"{ARCHIVE} is missing: run `make image`."
    search_unpacked()
    folder = tmp_path_factory.mktemp("image")
    try:
        yield Image(ARCHIVE, folder)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("uid", USERS)
def test_it_runs_without_any_capability_and_writes_nothing(image: Image, uid: int) -> None:
    status = image.run("/proc/self/status", uid=uid, entrypoint=("cat",))
    assert re.findall(r"Cap(?:Prm|Eff|Bnd|Inh|Amb):\t(\w+)", status) == ["0" * 16] * 5
    refused = image.run("-c", "touch /tmp/x /opt/virtsync/x 2>&1; true", uid=uid, entrypoint=("sh",))
    assert refused.count("Read-only file system") == 2
    assert image.run("--version", uid=uid) == f"virtsync, version {__version__}\n"
    assert "--observe-only" in image.run("agent", "--help", uid=uid)


def test_it_needs_no_shell(image: Image) -> None:
    shells = [image.root / "usr/bin" / name for name in SHELLS]
    hidden = {shell: shell.with_name(f"{shell.name}.hidden") for shell in shells if os.path.lexists(shell)}
    assert hidden
    for shell, away in hidden.items():
        shell.rename(away)
    try:
        with pytest.raises(AssertionError, match="no such file"):
            image.run("-c", "true", entrypoint=("/bin/sh",))
        assert image.run("--version", uid=65532) == f"virtsync, version {__version__}\n"
        # It opens libvirt's client, which finds no libvirtd, and an API server, of which it has no address.
        checked = image.run("-c", NO_SHELL, entrypoint=("python",))
        assert re.search(r"libvirt socket +(not visible|missing)", checked)
    finally:
        for shell, away in hidden.items():
            away.rename(shell)


def test_every_module_of_the_agent_is_in_it_and_finds_what_it_needs(image: Image) -> None:
    """What is taken out of the Kubernetes client is nothing that the agent has, not even late."""
    inside = image.run("-c", IMPORT_ALL, entrypoint=("python", "-W", "error")).split()
    source = REPOSITORY / "controller"
    modules = {
        ".".join(("controller", *file.relative_to(source).with_suffix("").parts)) for file in source.rglob("*.py")
    }
    expected = {name.removesuffix(".__init__") for name in modules} - {"controller", "controller.__main__", SCREEN}
    assert set(inside) == expected | {f"{SCREEN}-lacks-rich"}


def test_all_that_an_agent_loads_is_compiled(image: Image) -> None:
    """It could keep no bytecode where it runs: each start would compile all anew."""
    loaded = image.run("-v", "-c", "import controller.agent.app", entrypoint=("python",))
    assert re.search(r"matches /opt/virtsync/.*/controller/agent/app\.py", loaded)
    assert re.findall(r"# code object from '?(/(?:opt|usr)/.*\.py)'?$", loaded, re.MULTILINE) == []


def test_there_is_nothing_in_it_to_become_somebody_else(image: Image) -> None:
    modes = {image.inside(file): file.lstat().st_mode for file in image.files()}
    assert [name for name, mode in modes.items() if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID)] == []
    assert [name for name, mode in modes.items() if stat.S_ISREG(mode) and mode & stat.S_IWOTH] == []


def test_there_is_nothing_in_it_to_build_or_install_with(image: Image) -> None:
    tools = re.compile(r"((.*-)?(gcc|cc|g\+\+|cpp|ld|as)(-\d+)?|make|pkg-config|pip[\d.]*|uv|uvx|easy_install.*)")
    files = [image.inside(file) for file in image.files()]
    programs = [PurePosixPath(file) for file in files if PurePosixPath(file).parent.name in {"bin", "sbin"}]
    assert {"/usr/bin/python3", "/opt/virtsync/bin/virtsync"} <= set(files)
    assert [program for program in programs if tools.fullmatch(program.name)] == []
    assert [file for file in files if re.search(r"/(site|dist)-packages/(pip|uv|setuptools)[-/]", file)] == []
    left_over = r"/(var/lib/apt/lists|var/cache|var/log|usr/share/(doc|man|locale)|usr/include|root|tmp|src|uv)/"
    left_over += r"(?!\.(bashrc|profile)$)"
    assert [file for file in files if re.match(left_over, file)] == []


def test_it_says_what_it_is(image: Image) -> None:
    labels = image.config["Labels"]
    assert labels[f"{LABEL}title"] == "virtsync"
    assert labels[f"{LABEL}version"] == __version__
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels[f"{LABEL}revision"])
    assert datetime.fromisoformat(labels[f"{LABEL}created"]) <= datetime.now(UTC)
    # As containerd reads the name in the manifests; docker leaves out the host.
    assert [name.removeprefix("docker.io/") for name in image.names] == [f"virtsync/virtsync:{__version__}"]
    # A number, for a kubelet with runAsNonRoot knows no names.
    assert image.config["User"] == "65532:65532"
    assert image.config["Entrypoint"] == ["virtsync"]


def test_how_it_was_built_stays_outside(image: Image) -> None:
    """How a machine reaches packages is its own matter: authorities, indexes, proxies."""
    assert re.findall(r"(?i)ca\.crt|pip_|uv_|_proxy|ssl_cert", image.text) == []
    # The name that the build mounts the authorities by; a builder may leave an empty file there.
    assert [file for file in image.files() if file.name in {"pip.conf", "uv.toml"}] == []
    mounted = image.root / "run/ca.crt"
    assert not mounted.exists() or mounted.stat().st_size == 0


def test_it_is_small(image: Image) -> None:
    """Without the base, which is the layer that hosts share."""
    size_bytes = 0
    for layer in image.layers[1:]:
        with tarfile.open(layer) as tar:
            size_bytes += sum(entry.size for entry in tar if entry.isreg())
    assert size_bytes <= LIMIT_ABOVE_BASE_BYTES


def test_it_is_built_by_the_uv_that_everybody_uses() -> None:
    dockerfile, makefile = ((REPOSITORY / name).read_text() for name in ("Dockerfile", "Makefile"))
    assert re.findall(r"ARG UV_VERSION=(.*)", dockerfile) == re.findall(r"UV_VERSION := (.*)", makefile)
