"""From the version before to this one and back, by the manifests of both, as docs/operations.md says.

The agents and the manager have the tokens of their Pods and the rights that the manifests give them; only the kubelet
is not there. `test_upgrade.py` has what an agent must know of the reports of the other version.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.world import Json, World, power_of, runs, until
from tests.deploy.callers import AGENTS, REPOSITORY, pod_token
from tests.integration.before import unpack_before

DEPLOY = REPOSITORY / "deploy"
HOLD = "hold.virtsync.dev/ann"
HANG_LIMIT_S = 60

Env = dict[str, str]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Env]:
    """The folder of the version before, and what makes an agent one of that version."""
    folder = tmp_path_factory.mktemp("before")
    return folder, unpack_before(folder)


@pytest.fixture(scope="module")
def installed_before(before: tuple[Path, Env], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server of its own, on which the version before is installed."""
    with ControlPlane(tmp_path_factory.mktemp("controlplane")) as running:
        running.kubectl("apply", "-f", str(before[0] / "deploy/crds"), "-f", str(before[0] / "deploy/install.yaml"))
        running.kubectl("wait", "crd/virtualmachines.virtsync.dev", "--for=condition=Established", "--timeout=60s")
        served = ("get", "kvm")
        until(lambda: not running.kubectl(*served, check=False).returncode, "VirtualMachines are not served")
        yield running


class Cluster:
    """A host, its VMs, and its agent in one of the two versions, with the token of a Pod."""

    def __init__(self, world: World, before: tuple[Path, Env]) -> None:
        self.world, self.controlplane = world, world.controlplane
        self._folder, self._older = before
        self._identity = str(uuid4())
        self._agents_kubeconfig = self.kubeconfig_of("virtsync-agent")

    def kubeconfig_of(self, account: str) -> Path:
        """Make a Pod of this ServiceAccount on the host; a kubeconfig with its token."""
        path = self.world.folder / f"kubeconfig-{account}"
        self.controlplane._write_kubeconfig(path, pod_token(self.controlplane, AGENTS, account, self.world.node))
        return path

    def start_agent(self, *, older: bool = False) -> Agent:
        return self.world.start_agent(
            env=self._older if older else None,
            kubeconfig=self._agents_kubeconfig,
            lease_namespace=AGENTS,
            identity=self._identity,
        )

    def upgrade(self) -> None:
        """What docs/operations.md says."""
        self.controlplane.install_crds()
        self.controlplane.kubectl("apply", "-f", str(DEPLOY / "install.yaml"))

    def go_back(self) -> None:
        """What docs/operations.md says: the definitions stay."""
        self.controlplane.kubectl("apply", "-f", str(self._folder / "deploy/install.yaml"))
        self.controlplane.kubectl("-n", AGENTS, "delete", "deployment", "virtsync-manager")

    def wishes(self) -> dict[str, Json]:
        """What users have written, and that it is still the same object."""
        kept = ("uid", "generation", "annotations")
        return {
            vm["metadata"]["name"]: {"spec": vm["spec"]} | {key: vm["metadata"].get(key) for key in kept}
            for vm in self.world.objects()
        }

    def lease_holder(self) -> str:
        lease = self.controlplane.kubectl("-n", AGENTS, "get", "lease", self.world.node, "-o", "json").stdout
        holder: str = json.loads(lease)["spec"]["holderIdentity"]
        return holder

    def corrects_drift(self, guest: Guest) -> None:
        """Whether the agent that runs now starts a VM that its guest has switched off."""
        guest.wait_until_booted()
        guest.poweroff()
        self.world.until_off(guest, "Guest")
        self.world.until(guest, runs, "running again")


@pytest.mark.timeout(400)
def test_objects_and_holds_are_kept_there_and_back(
    installed_before: ControlPlane, before: tuple[Path, Env], tmp_path: Path
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="virtsync-") as folder,
        Libvirtd(Path(folder)) as libvirtd,
        World(installed_before, libvirtd, "there-and-back", tmp_path) as world,
    ):
        cluster = Cluster(world, before)
        on, held, off = world.start("on"), world.start("held"), world.define("off")
        world.apply(on, powerState="Running")
        world.apply(held, powerState="Stopped", shutdown={"mode": "Force"})
        world.kubectl("annotate", "kvm", held.name, f"{HOLD}=backup")
        world.apply(off, powerState="Stopped")
        wishes, run = cluster.wishes(), world.run_id(held)
        reasons = {on: "InSync", held: "Held", off: "InSync"}

        agent = cluster.start_agent(older=True)
        for guest, reason in reasons.items():
            world.until_ready(guest, reason)
        cluster.corrects_drift(on)
        agent.stop()

        cluster.upgrade()
        agent = cluster.start_agent()
        manager = world.start_manager(
            str(uuid4()), namespace=AGENTS, kubeconfig=cluster.kubeconfig_of("virtsync-manager")
        )
        for guest, reason in reasons.items():
            vm = world.until(guest, lambda vm: "decidedReason" in vm["status"], "reported by the present version")
            assert vm["status"]["decidedReason"] == reason
        cluster.corrects_drift(on)
        assert cluster.wishes() == wishes
        agent.stop()
        manager.stop()

        cluster.go_back()
        agent = cluster.start_agent(older=True)
        for guest, reason in reasons.items():
            vm = world.until(guest, lambda vm: "decidedReason" not in vm["status"], "reported by the version before")
            assert vm["status"]["conditions"][0]["reason"] == reason
        cluster.corrects_drift(on)
        assert cluster.lease_holder() == cluster._identity
        assert cluster.wishes() == wishes
        assert world.run_id(held) == run
        assert power_of(world.get(off)) == "Stopped"
        agent.stop()

        # And here again, with the hold of before.
        cluster.upgrade()
        cluster.start_agent()
        world.until(held, lambda vm: "decidedReason" in vm["status"], "reported by the present version")
        assert (cluster.wishes(), world.run_id(held)) == (wishes, run)


def test_an_agent_of_the_version_before_does_not_obey_a_maintenance(world: World, before: tuple[Path, Env]) -> None:
    guest = world.start()
    world.apply(guest, powerState="Running")
    agent = world.start_agent()
    world.until_ready(guest, "InSync")

    def declare(maintenance: Json | None) -> None:
        patch = json.dumps({"spec": {"maintenance": maintenance}})
        world.kubectl("patch", "kvmhost", world.node, "--type=merge", "-p", patch)

    declare({"mode": "Hold", "reason": "new RAM"})
    world.kubectl("wait", "kvmhost", world.node, "--for=condition=Quiesced", f"--timeout={HANG_LIMIT_S}s")
    guest.poweroff()
    world.until_ready(guest, "Held")
    agent.stop()

    agent = world.start_agent(env=before[1])
    world.until(guest, runs, "started in spite of the maintenance")
    guest.wait_until_booted()
    agent.stop()

    # The declaration was kept, and the present version obeys it again.
    guest.poweroff()
    world.start_agent()
    world.until_ready(guest, "Held")
    declare(None)
    world.until(guest, runs, "running after the maintenance")
