"""polkit decides who may use libvirt: a real polkitd, and a real libvirtd that asks it, with the rules of Debian."""

import json
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.libvirtd import Libvirtd
from lab.polkit import Polkit

pytestmark = pytest.mark.root
USER = "nobody"
# The check as this user: everything is imported as root, who alone can read it.
CHECK = """
import json, os, pwd, sys
from pathlib import Path
from controller.hypervisor.checks import check_polkit
user, uri, socket = sys.argv[1:]
entry = pwd.getpwnam(user)
os.setgroups([])
os.setgid(entry.pw_gid)
os.setuid(entry.pw_uid)
found = check_polkit(uri, Path(socket))
print(json.dumps({"state": found.state.value, "detail": found.detail, "fix": found.fix}))
"""
MAY_USE_LIBVIRT = """
polkit.addRule(function(action, subject) {
    if (action.id == "org.libvirt.unix.manage" && subject.user == "nobody") { return polkit.Result.YES; }
});
"""
# As an administrator allows an agent that only observes: each call that reads, and no other.
MAY_READ = (
    MAY_USE_LIBVIRT
    + """
polkit.addRule(function(action, subject) {
    if (subject.user != "nobody") { return polkit.Result.NOT_HANDLED; }
    var reads = /^org[.]libvirt[.]api[.][a-z-]+[.](getattr|read|search-domains)$/;
    return reads.test(action.id) ? polkit.Result.YES : polkit.Result.NOT_HANDLED;
});
"""
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that each user can enter, short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="virtsync-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def asking(polkit: Polkit, **settings: str) -> Iterator[Libvirtd]:
    """A libvirtd that asks polkit about each client, and has these lines in its configuration."""
    with Libvirtd(polkit.folder / "libvirt", bus=polkit.address) as libvirtd:
        conf = libvirtd.folder / "etc" / "libvirtd.conf"
        lines = {"auth_unix_rw": '"polkit"'} | settings
        kept = conf.read_text().replace('auth_unix_rw = "none"\n', "")
        conf.write_text(kept + "".join(f"{name} = {value}\n" for name, value in lines.items()))
        libvirtd.restart()
        yield libvirtd


def checked(libvirtd: Libvirtd) -> dict[str, Any]:
    """What `virtsync check` finds for the user."""
    words = [sys.executable, "-c", CHECK, USER, libvirtd.uri, str(libvirtd.socket)]
    found: dict[str, Any] = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return found


def virsh(libvirtd: Libvirtd, *words: str) -> subprocess.CompletedProcess[str]:
    """Run virsh as the user."""
    return subprocess.run(
        ["virsh", "-q", "-c", libvirtd.uri, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        user=USER,
        group=pwd.getpwnam(USER).pw_gid,
        extra_groups=[],
    )


def test_a_user_outside_of_the_group_is_refused_and_told_how_to_join(folder: Path) -> None:
    with Polkit(folder) as polkit, asking(polkit) as libvirtd:
        found = checked(libvirtd)
        assert found["state"] == "missing"
        assert "org.libvirt.unix.manage" in found["detail"]
        assert found["fix"].startswith(f"usermod --append --groups libvirt {USER} ")


def test_a_user_of_the_group_can_start_and_stop_vms(folder: Path) -> None:
    with Polkit(folder, members=[USER]) as polkit, asking(polkit) as libvirtd:
        assert checked(libvirtd)["state"] == "ok"
        guest = libvirtd.define("web")
        assert virsh(libvirtd, "start", guest.name).returncode == 0
        guest.wait_until_booted()
        assert virsh(libvirtd, "destroy", guest.name).returncode == 0


def test_a_rule_of_the_administrator_can_allow_one_user(folder: Path) -> None:
    with Polkit(folder, rules=MAY_USE_LIBVIRT) as polkit, asking(polkit) as libvirtd:
        assert checked(libvirtd)["state"] == "ok"


def test_with_libvirts_own_checks_a_rule_can_allow_to_look_and_not_to_act(folder: Path) -> None:
    with Polkit(folder, rules=MAY_READ) as polkit, asking(polkit, access_drivers='[ "polkit" ]') as libvirtd:
        guest = libvirtd.define("web")
        assert virsh(libvirtd, "domstate", guest.name).stdout.strip() == "shut off"
        refused = virsh(libvirtd, "start", guest.name)
        assert refused.returncode == 1
        assert "access denied" in refused.stderr
        guest.start()
        assert virsh(libvirtd, "domstate", guest.name).stdout.strip() == "running"
