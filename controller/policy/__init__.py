"""Pure decisions about one VM, and about the Lease of the node. They depend only on the values passed in."""
