"""Hosts that are no nodes: their objects in the API, their tokens and their kubeconfigs."""
