"""A real Kubernetes cluster on this machine: a control plane, and nodes that are namespaces with kubelet and libvirtd.

It needs root and the machine's kernel, but no container engine, no image registry and no network. Everything that it
starts ends with its owner, also when the owner is killed with SIGKILL.
"""
