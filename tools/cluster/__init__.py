"""A real Kubernetes cluster on this machine: a control plane, and nodes that are namespaces with kubelet and libvirtd.

It needs root, and of the machine nothing but its kernel: no container engine, no registry of images, no network. What
it starts ends with its owner, also when that is killed with -9.
"""
