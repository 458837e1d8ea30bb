"""This machine as a cluster: process groups, cgroups where permitted, real or declared GPUs."""

from mainspring.backends.local.backend import create

__all__ = ["create"]
