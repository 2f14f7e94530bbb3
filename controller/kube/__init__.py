"""The Kubernetes API, at the border: the only package that talks to it."""

GROUP = "virtsync.dev"
VERSION = "v1alpha1"
PLURAL = "virtualmachines"
KIND = "VirtualMachine"
