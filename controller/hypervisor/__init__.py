"""libvirt, translated at the border: the only package that imports it."""
