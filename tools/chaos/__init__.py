"""Random faults on real parts, and checks that everything becomes correct afterwards; `make chaos` runs it."""
