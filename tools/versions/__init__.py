"""`make versions`: the tests of what depends on Kubernetes, on each version of it that is supported."""
