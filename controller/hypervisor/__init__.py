"""The adapter to libvirt: the only package that imports it, which translates its states and errors into ours."""
