"""Random faults on real parts, and whether all is right afterwards: `make chaos` runs it."""
