"""Facts about many hosts: who is silent, what is marked, which domains no object refers to. Pure."""
