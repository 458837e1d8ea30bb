"""What `mainspring cluster add docker` and `... podman` take."""

from __future__ import annotations

import os
from pathlib import Path

from mainspring.backends.docker.backend import DockerBackend
from mainspring.backends.docker.door import Door
from mainspring.core.backend import Engine, Option, OptionKind
from mainspring.core.records import Cluster

IMAGE = "python:3.12-slim"
DOCKER_SOCKET = "unix:///var/run/docker.sock"
_OPTIONS = (
    Option(
        name="host", help="Where the engine listens: unix:///PATH, ssh://USER@HOST or tcp://HOST:PORT. Default: its usual socket."
    ),
    Option(name="image", help="Image of runs that name none.", default=IMAGE),
    Option(name="gpus", help="GPUs declared by you; without it the real ones.", kind=OptionKind.NUMBER),
    Option(name="gpu_model", help="Model name of declared GPUs.", default="gpu"),
    Option(name="cpus", help="CPUs that runs may hold; default: all.", kind=OptionKind.NUMBER),
    Option(name="memory", help="Memory that runs may hold, such as 16GiB; default: all."),
    Option(name="network", help="host, bridge, or a network's name. Default: host while the server is on loopback, else bridge."),
    Option(name="user", help="UID or UID:GID that containers run as; default: the image's."),
    Option(name="shm_size", help="Shared memory of a container, such as 8GiB."),
    Option(name="mounts", help="Folders that containers see: /HERE:/THERE or /HERE:/THERE:ro.", kind=OptionKind.LIST),
    Option(name="ulimits", help="Limits of processes: NAME=SOFT:HARD, such as memlock=-1:-1.", kind=OptionKind.LIST),
    Option(name="runtime", help="The container runtime, such as nvidia; default: the engine's."),
    Option(name="registry_user", help="Who logs in to the registry of images."),
    Option(name="registry_password", help="The password for that; `-` asks for it.", kind=OptionKind.SECRET),
)


def create(cluster: Cluster, folder: Path, installation: str) -> DockerBackend:
    """Build the backend of a Docker engine."""
    host = str(cluster.config.get("host") or os.environ.get("DOCKER_HOST") or DOCKER_SOCKET)
    return DockerBackend(cluster, folder, installation, Door(host, "docker"))


def create_podman(cluster: Cluster, folder: Path, installation: str) -> DockerBackend:
    """Build the backend of a podman engine: its socket speaks Docker's language."""
    return DockerBackend(cluster, folder, installation, Door(str(cluster.config.get("host") or _podman_socket()), "podman"))


def _podman_socket() -> str:
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() != 0 and folder:
        return f"unix://{folder}/podman/podman.sock"
    return "unix:///run/podman/podman.sock"


ENGINE = Engine(create=create, help="Containers of a Docker engine, here or behind SSH.", options=_OPTIONS)
PODMAN = Engine(create=create_podman, help="Containers of podman, by its socket.", options=_OPTIONS)
