"""The contract with users: the fields of a VirtualMachine, its words, and its JSON. Pure."""
