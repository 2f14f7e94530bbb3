"""The adapter to libvirt. Only this package imports libvirt; it translates libvirt's states and errors into ours."""
