"""Kubernetes: Jobs in one name space of a cluster of any flavour."""

from mainspring.backends.kubernetes.backend import ENGINE

__all__ = ["ENGINE"]
