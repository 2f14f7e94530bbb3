"""How fast, how big and how quiet the agent is, alone and under load; `docs/performance.md` explains it.

latency.py   one event at a time: from libvirt's callback to the status that a watch shows
load.py      a thousand VMs: start, storm, resync, reconnect, outage
stuck.py     what QEMUs that hang do to the other VMs
imports.py   what each import costs in memory
floor.py     the least that can be done: what all of this is held against
parts.py     what the measurements share
report.py    the tables of it
plot.py      the picture of it
"""
