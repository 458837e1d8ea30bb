"""What a container is created with: limits, devices, mounts, network, labels. Pure; wrong words are refused with a sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mainspring.core.backend import Handle, LaunchRequest
from mainspring.core.errors import LaunchError, MainspringError
from mainspring.core.ids import AttemptId
from mainspring.core.records import Node
from mainspring.core.units import parse_bytes

FOLDER = "/mainspring/attempt"
CACHE = "/mainspring/cache"
LABEL = "mainspring.installation"
PERIOD_US = 100_000
MIN_MEMORY_BYTES = 6 << 20  # less is refused by the engines
GUARDED = ("network", "user")  # what the administrator says of these keeps runs apart from the machine
LOGIN = "registry_login"
OVERRIDES = ("network", LOGIN, "shm_size", "ulimits", "user")
# What a container of root runs at first: it writes the files that it is sent, and becomes the runner. That spares the engine
# the unpacking of an archive into a container that is not up yet, which takes as long as starting it.
BOOT = """
import json, os, signal, sys
runner, folder, cache = sys.argv[1:4]
signal.signal(signal.SIGALRM, lambda *_: os._exit(75))
signal.alarm(60)  # whoever was to say what to do has died; nobody else can close this input
head = json.loads(sys.stdin.buffer.readline() or b"{}")
if head:
    os.umask(0o077)
    os.makedirs(folder + "/spool", exist_ok=True)
    os.makedirs(cache, exist_ok=True)
    data = sys.stdin.buffer.read(head["size"])
    if len(data) < head["size"]:
        sys.exit("The server went away.")
    for path, text in {runner: data, **{folder + "/" + name: text.encode() for name, text in head["files"].items()}}.items():
        with open(path + ".draft", "wb") as file:
            file.write(text)
        os.rename(path + ".draft", path)
    os.chmod(os.path.dirname(runner), 0o755)
    os.chmod(runner, 0o644)
elif not os.path.exists(folder + "/launch.json"):
    sys.exit("Nobody said what to do.")
signal.alarm(0)
os.umask(0o022)
sys.argv = [runner, folder]
sys.path.insert(0, runner)
from mainspring_runner.agent import main
sys.exit(main(folder))
"""
_ULIMIT = re.compile(r"^([a-z]+)=(-?\d+)(?::(-?\d+))?\Z")
_USER = re.compile(r"^\d+(:\d+)?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the cluster's options and a run's overrides say of a container."""

    network: str = ""
    user: str = ""
    shm_size: str = ""
    mounts: tuple[str, ...] = ()
    ulimits: tuple[str, ...] = ()
    runtime: str = ""


def wishes_of(config: Mapping[str, object], overrides: Mapping[str, object], kind: str = "docker") -> Wishes:
    """Return the cluster's options with a run's overrides over them. Raises LaunchError for an override that is none."""
    for name in overrides:
        if name not in OVERRIDES:
            raise LaunchError(f"There is no override {kind}.{name}; there are {', '.join(OVERRIDES)}.")
        if name in GUARDED and config.get(name):
            raise LaunchError(f"This cluster's administrator has set {name}: a run cannot override it.")
    asked = {**{name: config.get(name) for name in Wishes.__dataclass_fields__}, **overrides}
    found = Wishes(
        network=str(asked["network"] or ""),
        user=str(asked["user"] or ""),
        shm_size=str(asked["shm_size"] or ""),
        mounts=_words(asked["mounts"]),
        ulimits=_words(asked["ulimits"]),
        runtime=str(asked["runtime"] or ""),
    )
    if found.user and _USER.match(found.user) is None:
        raise LaunchError(f"User {found.user!r} is not UID or UID:GID in numbers.")
    if found.network == "none":
        raise LaunchError("A run without any network cannot reach the server, and so cannot tell how it ended.")
    if found.network.startswith("container:"):
        raise LaunchError("A run cannot join the network of another container.")
    return found


def check(wishes: Wishes) -> None:
    """Raise LaunchError for a word that no container can be created with."""
    for word in wishes.mounts:
        _mount(word)
    for word in wishes.ulimits:
        _ulimit(word)
    if wishes.shm_size:
        _bytes("shm_size", wishes.shm_size)


def name_of(attempt: str, replica: int) -> str:
    """Return the name of a replica's container: whoever launches twice finds the first one."""
    return f"mainspring-{attempt}.{replica}"


def labels_of(request: LaunchRequest) -> dict[str, str]:
    """Return the labels by which the container is found from outside."""
    return {
        **request.labels,
        LABEL: request.installation,
        "mainspring.attempt": request.attempt,
        "mainspring.replica": str(request.replica),
        "mainspring.run": request.run,
        "mainspring.name": request.name,
        "mainspring.owner": request.owner,
    }


def handle_of(labels: Mapping[str, str]) -> Handle | None:
    """Return the handle of a container by its labels; None for one whose labels were written by somebody else."""
    attempt, replica = labels.get("mainspring.attempt", ""), labels.get("mainspring.replica", "")
    if not attempt or not replica.isdecimal():
        return None
    return make_handle(AttemptId(attempt), int(replica))


def make_handle(attempt: AttemptId, replica: int) -> Handle:
    """Return the handle of a replica: its container's name is all that is needed."""
    return Handle(attempt=attempt, replica=replica, data={"container": name_of(attempt, replica)})


def host_config(
    request: LaunchRequest, wishes: Wishes, *, network: str, cpus: int, volume: str, is_cdi: bool = False
) -> dict[str, Any]:
    """Return the engine's side of a container. `cpus` are those of the machine: more cannot be granted.

    Real devices are asked for by their names of CDI where the machine has those, else of NVIDIA's runtime.
    """
    granted = request.granted
    found: dict[str, Any] = {
        "network_mode": network,
        "cpu_period": PERIOD_US,
        "cpu_quota": max(1000, min(granted.cpu_milli, cpus * 1000) * PERIOD_US // 1000),
        "binds": [f"{volume}:{CACHE}:rw", *(_mount(word) for word in wishes.mounts)],
        "ulimits": [_ulimit(word) for word in wishes.ulimits],
        "log_config": {"type": "json-file", "config": {"max-size": "1m", "max-file": "1"}},
    }
    if granted.memory_bytes:
        limit = max(MIN_MEMORY_BYTES, granted.memory_bytes)
        found |= {"mem_limit": limit, "memswap_limit": limit}
    if wishes.shm_size:
        found["shm_size"] = _bytes("shm_size", wishes.shm_size)
    if wishes.runtime:
        found["runtime"] = wishes.runtime
    devices = real_devices(request.node, [share.index for share in granted.devices])
    if devices and is_cdi:
        found["device_requests"] = [{"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={one}" for one in devices]}]
    elif devices:
        found["device_requests"] = [{"Driver": "nvidia", "DeviceIDs": devices, "Capabilities": [["gpu"]]}]
    return found


def real_devices(node: Node, indices: Sequence[int]) -> list[str]:
    """Return what the engine calls the granted devices that exist; declared ones are left out."""
    by_index = {device.index: device for device in node.devices if not device.declared}
    return [by_index[index].uuid or str(index) for index in indices if index in by_index]


def device_env(node: Node, indices: Sequence[int]) -> dict[str, str]:
    """Return what user code sees of its devices: real ones are numbered anew inside the container, declared ones are not."""
    real = real_devices(node, indices)
    seen = ",".join(str(number) for number in range(len(real))) if real else ",".join(str(index) for index in indices)
    return {"CUDA_VISIBLE_DEVICES": seen, "NVIDIA_VISIBLE_DEVICES": ",".join(real) or "void"}


def _mount(word: str) -> str:
    parts = word.split(":")
    if not 2 <= len(parts) <= 3 or not all(part.startswith("/") for part in parts[:2]) or parts[2:] not in ([], ["ro"], ["rw"]):
        raise LaunchError(f"Mount {word!r} is not /HERE:/THERE or /HERE:/THERE:ro.")
    return ":".join([*parts[:2], parts[2] if len(parts) == 3 else "rw"])


def _ulimit(word: str) -> dict[str, Any]:
    found = _ULIMIT.match(word)
    if found is None:
        raise LaunchError(f"Limit {word!r} is not NAME=SOFT:HARD, such as nofile=1024:4096.")
    return {"Name": found[1], "Soft": int(found[2]), "Hard": int(found[3] or found[2])}


def _bytes(name: str, text: str) -> int:
    try:
        return parse_bytes(text)
    except MainspringError as wrong:
        raise LaunchError(f"{name} {text!r} is no size: {wrong.message}") from wrong


def _words(value: object) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else value
    return tuple(str(word) for word in words if word) if isinstance(words, list | tuple) else ()
