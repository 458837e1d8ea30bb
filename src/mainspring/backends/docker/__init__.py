"""Docker and podman: a container for each replica, on this machine or another."""

from mainspring.backends.docker.options import ENGINE, PODMAN

__all__ = ["ENGINE", "PODMAN"]
