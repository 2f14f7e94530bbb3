"""The API of virtsync: the fields of a VirtualMachine, the names of their values, and the JSON format. Pure."""
