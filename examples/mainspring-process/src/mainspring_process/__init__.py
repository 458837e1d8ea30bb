"""A backend that runs processes of this machine: the smallest one that runs things."""

from mainspring_process.backend import ENGINE

__all__ = ["ENGINE"]
