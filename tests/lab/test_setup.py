"""What the set-up does to a machine, and what it tells whoever has set something up."""

import os
import re
import subprocess
from pathlib import Path

from cluster.__main__ import what_to_try
from cluster.cluster import UNPACKED
from gitops import redis
from lab.binaries import CACHE
from lab.prometheus import UNPACKED as PROMETHEUS

SCRIPT = Path(__file__).parents[2] / "tools/setup/system-packages.sh"
IMAGE = SCRIPT.parents[1] / "image/build.sh"


def test_no_container_engine_redis_or_prometheus_is_installed() -> None:
    """A package of Debian enables and starts the service that it brings; these are only unpacked."""
    text = SCRIPT.read_text()
    installed = {name for names in re.findall(r"packages=['\"](.*?)['\"]", text, re.DOTALL) for name in names.split()}
    # that the search finds any
    assert {"qemu-system-x86", "iptables"} <= installed
    assert installed.isdisjoint({"containerd", "runc", "docker.io", "podman", "redis-server", "prometheus"})
    unpacked = re.findall(r"\bunpack ([a-z0-9 -]+)$", text, re.MULTILINE)
    names = ["prometheus", "promtool", "containerd runc", "netavark", "redis-server redis-tools libjemalloc2 liblzf1"]
    assert unpacked == names
    netavark = CACHE / "netavark"
    assert '"$CACHE/netavark/usr/lib/podman"' in IMAGE.read_text()
    for folder, packages in zip((*PROMETHEUS, UNPACKED, netavark, redis.UNPACKED), unpacked, strict=True):
        assert folder.is_relative_to(CACHE / packages.split()[0])


def test_gh_is_needed_only_where_it_is_missing(tmp_path: Path) -> None:
    """Whatever has put gh on the PATH, the setup of `make publish` then does nothing: not even dpkg-query is there."""
    gh = tmp_path / "gh"
    gh.write_text("#!/bin/sh\n")
    gh.chmod(0o755)
    setup = ["/bin/sh", str(SCRIPT), "publish"]
    assert subprocess.run(setup, env={"PATH": str(tmp_path), "HOME": "/"}, check=False).returncode == 0
    gh.unlink()
    done = subprocess.run(setup, env={"PATH": str(tmp_path), "HOME": "/"}, check=False, capture_output=True, text=True)
    assert (done.returncode, "dpkg-query was not found" in done.stderr) == (1, True)
    makefile = (SCRIPT.parents[2] / "Makefile").read_text()
    assert re.search(r"^publish-setup:.*\n\t@tools/setup/system-packages.sh publish$", makefile, re.MULTILINE)
    assert {"release-check", "publish"} <= set(re.findall(r"^([a-z-]+): publish-setup ##", makefile, re.MULTILINE))


def test_whoever_starts_a_cluster_is_told_how_to_end_it(tmp_path: Path) -> None:
    told = what_to_try(tmp_path)
    (command,) = re.findall(r"^PYTHONPATH=tools .venv/bin/(python -m cluster down .*)$", told, re.MULTILINE)
    assert "Ctrl-C" in told
    ended = subprocess.run(
        [".venv/bin/" + command.split()[0], *command.split()[1:]],
        cwd=SCRIPT.parents[2],
        env=os.environ | {"PYTHONPATH": "tools"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"Nothing runs in {tmp_path}" in ended.stderr
