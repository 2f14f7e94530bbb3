"""What people are told about VMs and hosts: pure functions from an object and the time to words."""
