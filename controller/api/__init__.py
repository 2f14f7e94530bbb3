"""The contract: what users, agents and tools mean by a VirtualMachine. Pure."""
