"""Measures what a fleet costs one real API server: simulated agents, a real manager; see `docs/scale.md`.

phases.py     what is done to the fleet, and what is measured
agent.py      one simulated agent: its watches, its Lease, its lists
agents.py     all of them: they start, fall silent and return together
manager.py    the real `virtsync manager`
stage.py      the API server, the rights, the flow control, the objects
objects.py    the objects as JSON
client.py     requests, and how they ended
marks.py      which objects show that their agent is silent
readings.py   what the processes have used
limits.py     which sizes the machine can bear
report.py     the table
"""
