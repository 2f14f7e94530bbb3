"""From the release before to this one, and back, as docs/operations.md says."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.cluster import NODES, Cluster
from lab.world import Json, is_off, power_of, runs
from tests.e2e.agents import MANAGER, REPOSITORY, VERSION, Agents
from tests.e2e.vms import OnEachNode
from tests.integration.before import BEFORE

pytestmark = pytest.mark.e2e

BEFORE_ANY_RELEASE = BEFORE
"""While nothing is released: the last commit without the Hypervisor and the manager."""

HANG_LIMIT = "--timeout=120s"
TAG = "before"


class Release:
    """The release before this one: its manifests, and an image that is built from its source."""

    def __init__(self, folder: Path) -> None:
        self.name = _release_before()
        self.folder = folder
        packed = subprocess.run(["git", "archive", self.name], cwd=REPOSITORY, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        self.definition = folder / "deploy/crds"
        self.install = folder / "deploy/install.yaml"
        now = self.install.read_text()
        then = now.replace(f"image: virtsync/virtsync:{_version(folder)}", f"image: virtsync/virtsync:{TAG}")
        assert then != now
        self.install.write_text(then)

    def build(self) -> Path:
        """The archive of its image; built as ours is, for the first had no Dockerfile."""
        shutil.rmtree(self.folder / "tools/image", ignore_errors=True)
        shutil.copytree(REPOSITORY / "tools/image", self.folder / "tools/image")
        for name in ("Dockerfile", ".dockerignore"):
            shutil.copy(REPOSITORY / name, self.folder)
        recipe = self.folder / "Dockerfile"
        # The build ends by loading the agent, whose modules had other names before.
        recipe.write_text(recipe.read_text().replace("import controller.agent.app", "import controller"))
        subprocess.run([self.folder / "tools/image/build.sh"], env=os.environ | {"TAG": TAG}, check=True)
        return self.folder / "build/image.tar"


@pytest.fixture
def before(agents: Agents, cluster: Cluster, tmp_path: Path) -> Iterator[Release]:
    """The release before, on the cluster in place of the present one, which is there again afterwards."""
    release = Release(tmp_path / "before")
    cluster.import_image(release.build())
    cluster.kubectl("delete", "-f", str(REPOSITORY / "deploy/install.yaml"), HANG_LIMIT)
    cluster.kubectl("delete", "-f", str(REPOSITORY / "deploy/crds"), HANG_LIMIT)
    try:
        cluster.kubectl("apply", "-f", str(release.definition), "-f", str(release.install))
        agents.until_ready()
        yield release
    finally:
        agents.apply()
        agents.until_ready()


@pytest.mark.long
@pytest.mark.timeout(900)  # it builds an image
def test_from_the_release_before_and_back(
    before: Release, agents: Agents, cluster: Cluster, vms: OnEachNode, capsys: pytest.CaptureFixture[str]
) -> None:
    world = vms.world
    off, held = world.define("off"), world.define("held")
    vms.switch_on()
    world.apply(off, nodeName="node-a", powerState="Stopped")
    world.until_ready(off, "InSync")
    held.start()
    world.apply(held, nodeName="node-a")
    world.until_ready(held, "Observed")
    world.kubectl("annotate", "kvm", held.name, "hold.virtsync.dev/test=kept")
    world.patch(held, powerState="Stopped")
    world.until_ready(held, "Held")
    everything, wishes = [*vms.guests.values(), off, held], _wishes(vms)
    runs_before = vms.runs(), held.qemu_pid
    assert {_image(agents, node) for node in NODES} == {f"virtsync/virtsync:{TAG}"}

    began = time.monotonic()
    agents.apply()
    agents.until_ready()
    took_s = time.monotonic() - began

    with capsys.disabled():
        sys.stdout.write(f"\nfrom {before.name} to {VERSION} on 2 nodes: {took_s:.1f} s\n")
    assert {_image(agents, node) for node in NODES} == {f"virtsync/virtsync:{VERSION}"}
    assert _wishes(vms) == wishes
    assert (vms.runs(), held.qemu_pid) == runs_before
    for guest in vms.guests.values():
        assert {state for state, _, _ in world.told(guest)[-1:]} == {"Running"}
    assert _ours(cluster, before) == _named(REPOSITORY / "deploy/install.yaml")
    for node in NODES:
        lease = json.loads(agents.kubectl("get", "lease", node, "--output=json"))
        assert lease["spec"]["holderIdentity"] == agents.pod(node)["metadata"]["uid"]
    # It goes on where the one before has stopped.
    world.kubectl("annotate", "kvm", held.name, "hold.virtsync.dev/test-")
    world.until(held, is_off, "off")
    world.patch(off, powerState="Running")
    world.until(off, runs, "running")
    world.patch(off, powerState="Stopped")
    world.until(off, is_off, "off again")

    # Back: the agents of the release before, on the definition of this one.
    cluster.kubectl("apply", "-f", str(before.install))
    if ("Deployment", "virtsync-manager") not in _named(before.install):
        agents.kubectl("delete", MANAGER)
    agents.until_ready()

    assert {_image(agents, node) for node in NODES} == {f"virtsync/virtsync:{TAG}"}
    assert vms.runs() == runs_before[0]
    assert {guest.name for guest in everything} == set(_wishes(vms))
    for guest in vms.guests.values():
        assert runs(world.get(guest))
        guest.wait_until_booted()
        guest.poweroff()
        world.until_off(guest, "Guest")
        world.until(guest, runs, "running again")
    assert power_of(world.get(held)) == "Stopped"


# --- helpers


def _release_before() -> str:
    """The newest tag of a version that is not the present commit's, else the commit named above."""
    tags = _git("tag", "--merged", "HEAD", "--no-contains", "HEAD", "--list", "v*", "--sort=-version:refname").split()
    name = tags[0] if tags else BEFORE_ANY_RELEASE
    if subprocess.run(["git", "cat-file", "-e", f"{name}^{{commit}}"], cwd=REPOSITORY, check=False).returncode:
        pytest.fail(f"This clone has not the history back to {name}: run `git fetch --unshallow --tags`.")
    return name


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout


def _version(folder: Path) -> str:
    """The version that a checkout is of."""
    (found,) = re.findall(r'^__version__ = "(.*)"$', (folder / "controller/__init__.py").read_text(), re.MULTILINE)
    return str(found)


def _image(agents: Agents, node: str) -> str:
    image: str = agents.pod(node)["spec"]["containers"][0]["image"]
    return image


def _wishes(vms: OnEachNode) -> dict[str, Json]:
    """What users have written, and that it is still the same object."""
    listed = json.loads(vms.world.kubectl("get", "kvm", "--output=json"))["items"]
    kept = ("uid", "generation", "annotations")
    return {vm["metadata"]["name"]: {"spec": vm["spec"]} | {k: vm["metadata"].get(k) for k in kept} for vm in listed}


def _named(manifests: Path) -> set[tuple[str, str]]:
    """Kind and name of each object of a file."""
    return {(one["kind"], one["metadata"]["name"]) for one in yaml.safe_load_all(manifests.read_text())}


def _ours(cluster: Cluster, before: Release) -> set[tuple[str, str]]:
    """Kind and name of all on the cluster that this release or the one before has brought."""
    files = before.install, REPOSITORY / "deploy/install.yaml"
    kinds = ",".join(sorted({kind for file in files for kind, _ in _named(file)}))
    mark = "--selector=app.kubernetes.io/part-of=virtsync,app.kubernetes.io/managed-by=kustomize"
    listed = json.loads(cluster.kubectl("get", kinds, "--all-namespaces", mark, "--output=json").stdout)["items"]
    return {(one["kind"], one["metadata"]["name"]) for one in listed}
