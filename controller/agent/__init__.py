"""The agent: the process that manages the VMs of one node."""
