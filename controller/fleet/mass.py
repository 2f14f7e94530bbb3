"""Finds out whether many nodes fell silent together, as when a network or a load balancer fails. Pure.

Most nodes of such a mass come back soon, and each mark of a VM costs two writes. So their VMs are marked later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from controller.fleet.silence import Sight

VM_BURST, VMS_PER_S = 500, 50.0
"""The rate limit for marks of VMs."""
HYPERVISORS_BURST, HYPERVISORS_PER_S = 100, 100.0
"""The rate limit for marks of Hypervisors, which are marked first: 2000 nodes take 20 s."""
TOGETHER_S = 40.0
SHARE, LEAST = 1 / 3, 3
"""Nodes are a mass if at least this share of all nodes, and at least this number, fall silent within `TOGETHER_S`."""
LATE = 1 / 2
"""A node counts for the mass after this part of its grace, when it has missed two renewals. Otherwise the first nodes
of a mass would be marked before the others are silent, because agents do not renew at the same time."""
MASS_WAITS_S = 160.0
"""How long a node of a mass is silent before its VMs are marked."""


def mass(sight: Sight, vms: Mapping[str, int]) -> frozenset[str]:
    """Return the nodes that fell silent together with so many others that their VMs are marked later.

    `vms` has the number of VMs by node. There is no mass if all of them can be marked in one burst.
    """
    late = sorted(
        (seen.since.monotonic_s, node) for node, seen in sight.nodes.items() if sight.age_s(node) >= seen.grace_s * LATE
    )
    least = max(LEAST, math.ceil(len(sight.nodes) * SHARE))
    found: list[str] = []
    first = count = added = 0
    for last, (since_s, node) in enumerate(late):
        count += vms.get(node, 0)
        while since_s - late[first][0] > TOGETHER_S:
            count -= vms.get(late[first][1], 0)
            first += 1
        if last - first + 1 >= least and count > VM_BURST:
            found += [node for _, node in late[max(first, added) : last + 1]]
            added = last + 1
    return frozenset(found)
