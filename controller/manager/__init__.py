"""The manager: it marks reports that are out of date and finds VMs that run elsewhere. It switches no VM."""
