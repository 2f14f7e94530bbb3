"""Measures the agent's latency, memory and load on the API server, idle and busy; see `docs/performance.md`.

latency.py   one event at a time: from libvirt's callback to the status that a watch shows
load.py      a thousand VMs: start, storm, resync, reconnect, outage
stuck.py     how hanging QEMUs affect the other VMs
imports.py   the memory that each import takes
threads.py   an agent that shows the processor time of each of its threads
floor.py     the baseline: the minimum work, with which the agent is compared
parts.py     code that the measurements share
report.py    the tables
plot.py      the picture
"""
