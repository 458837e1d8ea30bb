"""This machine as a cluster: process groups, cgroups where permitted, real or declared GPUs."""

from mainspring.backends.local.backend import ENGINE, create

__all__ = ["ENGINE", "create"]
