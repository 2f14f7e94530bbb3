"""Generic parts of a controller, such as the work queue, the workers and the log; none of them depends on VMs."""
