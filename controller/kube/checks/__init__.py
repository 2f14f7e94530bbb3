"""The questions of `virtsync check` to the API server: what an agent needs there, and whether it is there."""
