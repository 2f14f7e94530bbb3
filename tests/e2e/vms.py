"""Guests on all nodes at once, and what a test asks of them."""

from cluster.cluster import Cluster
from lab.world import World, runs


class OnEachNode:
    """One guest on each node, and its object."""

    def __init__(self, world: World, cluster: Cluster) -> None:
        self.world = world
        self.guests = {name: world.define(f"on-{name}", libvirtd=node.libvirtd) for name, node in cluster.nodes.items()}

    def apply(self, **spec: object) -> None:
        """Apply the same spec on each node."""
        for node, guest in self.guests.items():
            self.world.apply(guest, nodeName=node, **spec)

    def switch_on(self) -> None:
        """Want them on, and wait until they are."""
        self.apply(powerState="Running")
        for guest in self.guests.values():
            self.world.until(guest, runs, "running")

    def runs(self) -> dict[str, str]:
        """Which run of each guest this is: another after every start."""
        return {node: self.run_of(node) for node in self.guests}

    def run_of(self, node: str) -> str:
        """That of the guest on one node."""
        guest = self.guests[node]
        return f"{guest.qemu_pid} {self.world.run_id(guest)}"
