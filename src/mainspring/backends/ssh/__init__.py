"""Machines that are reached over SSH: nothing is installed there, a runner needs Python 3.9 alone."""

from mainspring.backends.ssh.backend import ENGINE

__all__ = ["ENGINE"]
