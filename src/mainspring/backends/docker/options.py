"""What `mainspring cluster add docker` and `... podman` take."""

from __future__ import annotations

import os
from pathlib import Path

from mainspring.backends.docker.backend import DockerBackend
from mainspring.backends.docker.container import LOGIN
from mainspring.backends.docker.door import Door
from mainspring.backends.docker.road import road_of
from mainspring.core.backend import Engine, Option, OptionKind
from mainspring.core.errors import LaunchError
from mainspring.core.records import Cluster

IMAGE = "python:3.12-slim"
DOCKER_SOCKET = "unix:///var/run/docker.sock"
PODMAN_SOCKET = "unix:///run/podman/podman.sock"
_OPTIONS = (
    Option(
        name="host", help="Where the engine listens: unix:///PATH, ssh://USER@HOST or tcp://HOST:PORT. Default: its usual socket."
    ),
    Option(name="key", help="With ssh://: the private key. Default: what ssh's own configuration says.", kind=OptionKind.PATH),
    Option(name="ssh_config", help="With ssh://: the configuration of ssh to use instead of yours.", kind=OptionKind.PATH),
    Option(name="ssh_option", help="With ssh://: a word for ssh's -o: ProxyJump=gate.example.org.", kind=OptionKind.LIST),
    Option(name="host_key", help="With ssh://: a fingerprint of the host's key that you have compared.", kind=OptionKind.LIST),
    Option(name="accept_new", help="With ssh://: accept the first key that the host shows.", kind=OptionKind.FLAG),
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
    return _build(cluster, folder, installation, host, "docker", DOCKER_SOCKET)


def create_podman(cluster: Cluster, folder: Path, installation: str) -> DockerBackend:
    """Build the backend of a podman engine: its socket speaks Docker's language."""
    return _build(cluster, folder, installation, str(cluster.config.get("host") or _podman_socket()), "podman", PODMAN_SOCKET)


def _build(cluster: Cluster, folder: Path, installation: str, host: str, program: str, socket: str) -> DockerBackend:
    way = None
    wrong = ""
    if host.startswith("ssh://"):
        try:
            way = road_of(host, cluster.config, folder, socket.removeprefix("unix://"))
        except LaunchError as refused:
            wrong = refused.message
    return DockerBackend(cluster, folder, installation, Door(host, program, way, wrong))


def _podman_socket() -> str:
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() != 0 and folder:
        return f"unix://{folder}/podman/podman.sock"
    return PODMAN_SOCKET


_SECRET = (LOGIN,)
ENGINE = Engine(
    create=create, help="Containers of a Docker engine, here or behind SSH.", options=_OPTIONS, secret_overrides=_SECRET
)
PODMAN = Engine(create=create_podman, help="Containers of podman, by its socket.", options=_OPTIONS, secret_overrides=_SECRET)
