"""Hosts that are not nodes: their objects in the API, their tokens and their kubeconfigs."""
