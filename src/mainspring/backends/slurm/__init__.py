"""Slurm: sbatch, squeue and scancel, on this machine or through a login host."""

from mainspring.backends.slurm.backend import ENGINE

__all__ = ["ENGINE"]
