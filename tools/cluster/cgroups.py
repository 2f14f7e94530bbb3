"""A separate cgroup for each node in every hierarchy: kubelets that share a cgroup remove each other's pods."""

import hashlib
from contextlib import suppress
from pathlib import Path


def group_name(folder: Path) -> str:
    """The name of the cgroup of the cluster in this folder."""
    return f"virtsync-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def folders(name: str) -> list[Path]:
    """The folders of the cgroup with this path, one in each hierarchy of this machine."""
    return [mount / name for mount in _hierarchies()]


def make(name: str) -> None:
    """Make the cgroup with this path in each hierarchy, with all resources of its parent."""
    for mount in _hierarchies():
        cgroup = mount
        for part in Path(name).parts:
            _pass_on_controllers(cgroup)
            parent, cgroup = cgroup, cgroup / part
            cgroup.mkdir(exist_ok=True)
            # Version 1 begins with none.
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (parent / file).exists():
                    (cgroup / file).write_text((parent / file).read_text())
        _pass_on_controllers(cgroup)


def _pass_on_controllers(cgroup: Path) -> None:
    """Enable all controllers of a cgroup for its children, where that is necessary (version 2)."""
    controllers = cgroup / "cgroup.controllers"
    if controllers.exists():
        for controller in controllers.read_text().split():
            with suppress(OSError):  # some cannot be passed on by a cgroup with processes
                (cgroup / "cgroup.subtree_control").write_text(f"+{controller}")


def _hierarchies() -> list[Path]:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(where) for _, where, kind, *_ in mounts if kind in {"cgroup", "cgroup2"}]
