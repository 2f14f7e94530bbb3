"""The world of a scenario: a real libvirtd with QEMU, a real API server, and the agent as a process of its own."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.controlplane import ControlPlane
from lab.libvirtd import Libvirtd
from lab.world import World


@pytest.fixture
def world(crd: ControlPlane, libvirtd: Libvirtd, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A namespace, a node name and guests of the test's own, all named after it."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))[:40].strip("-")
    with World(crd, libvirtd, name, tmp_path) as entered:
        yield entered
