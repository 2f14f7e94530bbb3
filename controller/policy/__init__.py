"""Decisions about one VM and one Lease, from values alone. Pure."""
