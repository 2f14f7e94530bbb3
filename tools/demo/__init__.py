"""A demonstration of virtsync on the terminal; `make demo` runs it.

All parts are real, on this machine: an API server, libvirtd with QEMU guests, agents, a manager, a Git repository. Two
witnesses that are independent of the agent show what happens: libvirt's events show what the host does, and a watch
shows the API server's objects. Each step waits until they have shown its result; the first failed step ends the demo.

host.py       the steps on one host, and its parts
fleet.py      the steps on two hosts with a manager, and what they need in addition
narration.py  prints the steps, the commands and the reports; waits for what a step expects
witnesses.py  records libvirt's events and the API server's watch
"""
