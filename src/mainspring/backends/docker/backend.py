"""The Docker backend: one container for each replica, whose own layer is the attempt's folder. Podman speaks the same language.

The container's name comes from attempt and replica: whoever launches twice finds the first one. Nothing is kept in memory that
a restart of the server would miss: only pulls in flight, which are begun again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mainspring.backends.deadlines import Deadlines
from mainspring.backends.devices import nvidia_devices, nvidia_driver, nvidia_symptoms
from mainspring.backends.docker import container
from mainspring.backends.docker.door import Door, MissingLibraryError, TakenError, UnsettledError, login, pack
from mainspring.backends.docker.images import Images, Pull, digest_of, name_of
from mainspring.backends.grants import granted_env
from mainspring.backends.launches import exit_record, json_object, launch_record, runner_zip
from mainspring.core.backend import (
    Capabilities,
    ExitRecord,
    Handle,
    Inventory,
    LaunchRequest,
    Notice,
    Observation,
    ObservedState,
    Probe,
)
from mainspring.core.errors import BackendError, LaunchError
from mainspring.core.ids import AttemptId
from mainspring.core.records import Cause, Cluster, Node, Outcome
from mainspring.core.resources import Device
from mainspring.core.units import parse_bytes

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
LIVING = frozenset({"running", "paused", "restarting", "stopping"})
MARGIN_S = 2.0
SETTLE_S = 0.5
DRAIN_S = 30.0  # what a runner that only tells the end has left
ROOT = (0, 0)
NO_MEMORY = "It used more memory than it was given."
SHARED = "It may use the whole machine, which the cluster local counts too: give it a part of its own."
_PLAIN = re.compile(r"[^a-zA-Z0-9_.-]")
NO_DEVICES = "It cannot hand the GPUs of this machine to containers."
_CONFIGURE = {
    "docker": "runtime configure --runtime=docker && sudo systemctl restart docker",
    "podman": "cdi generate --output=/etc/cdi/nvidia.yaml",
}
Key = tuple[AttemptId, int]
Found = Mapping[str, Any] | None


@dataclass(slots=True)
class DockerBackend:
    """One engine. Thread safe: launches of one replica are kept apart by a lock here, by the container's name elsewhere."""

    cluster: Cluster
    folder: Path
    installation: str
    door: Door
    images: Images = field(init=False)
    _pulling: dict[Key, Pull] = field(default_factory=dict)
    _failed: dict[Key, BackendError] = field(default_factory=dict)
    _locks: dict[Key, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _bundle: Path | None = None
    _info: Mapping[str, Any] | None = None
    _deadlines: Deadlines = field(init=False)

    def __post_init__(self) -> None:
        """Tie what pulls and what kills to this backend."""
        config = self.cluster.config
        user, password = str(config.get("registry_user") or ""), str(config.get("registry_password") or "")
        self.images = Images(self.door, login(user, password))
        self._deadlines = Deadlines(self._kill)

    @property
    def capabilities(self) -> Capabilities:
        """Return what the engine can do; containers of another machine, or of a network of their own, do not see our loopback."""
        is_apart = not self.door.is_here or str(self.cluster.config.get("network") or "host") != "host"
        return Capabilities(fractions=True, limits=True, images=True, needs_network=is_apart)

    def probe(self) -> Probe:
        """Ask the engine what it is, and say what does not hold on it."""
        try:
            if self.door.road is not None:
                self.door.road.forget_trouble()
            info = self.door.info()
            version = self.door.version()
            wrong = self._unfit(info)
        except (MissingLibraryError, LaunchError) as refused:
            return Probe(is_ready=False, notices=(Notice(text=refused.message, command=refused.hint),))
        if str(info.get("OSType", "linux")) != "linux":
            return Probe(is_ready=False, version=version, notices=(Notice(text="It runs no Linux containers."),))
        runtimes = ", ".join(sorted(info.get("Runtimes") or {})) or "unknown"
        facts = {
            "engine": f"{self.door.program} {version} at {self.door.host}",
            "system": f"{info.get('OperatingSystem', '')}, kernel {info.get('KernelVersion', '')}",
            "storage": str(info.get("Driver", "")),
            "control groups": f"version {info.get('CgroupVersion') or 1}",
            "runtimes": runtimes,
            "driver": nvidia_driver() if self.door.is_here else "",
            "image of runs that name none": str(self.cluster.config.get("image") or ""),
        }
        notices = [wrong] if wrong is not None else self._notices(info)
        return Probe(is_ready=wrong is None, version=version, notices=tuple(notices), facts=facts)

    def inventory(self) -> Inventory:
        """Return the engine's machine as the one node."""
        info = self._told(is_fresh=True)
        config = self.cluster.config
        memory = parse_bytes(str(config["memory"])) if config.get("memory") else int(info.get("MemTotal") or 0)
        cpus = float(str(config["cpus"])) if config.get("cpus") else float(info.get("NCPU") or 1)
        name = str(info.get("Name") or "engine")
        node = Node(
            id=f"{self.cluster.id}.{name}",
            cluster=self.cluster.id,
            name=name,
            cpu_milli=int(cpus * 1000),
            memory_bytes=memory,
            disk_bytes=self._free_disk(info),
            devices=self._devices(),
            symptoms=nvidia_symptoms() if self.door.is_here and not config.get("gpus") else (),
        )
        return Inventory(nodes=(node,))

    def launch(self, request: LaunchRequest) -> Handle:
        """Start the container unless it lives, or have its image pulled first; see the contract."""
        key = (request.attempt, request.replica)
        handle = container.make_handle(*key)
        with self._lock_of(key):
            failed = self._failed.pop(key, None)
            if failed is not None:
                raise failed
            if key in self._pulling:
                return handle
            image = request.image or str(self.cluster.config.get("image") or "")
            told = self.door.inspect(container.name_of(*key))
            found = self.images.find(image) if told is None else None
            if told is not None or found is not None:
                self._start(request, image, [], told, found)
                return handle
            mine = _login_of(request)
            self._pulling[key] = self.images.pull(image, lambda pull: self._pulled(request, pull), mine)
        return handle

    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Look at all of our containers at once."""
        states = {str(one["Names"][0]).lstrip("/"): str(one.get("State")) for one in self._ours() if one.get("Names")}
        return [self._observation(handle, states) for handle in handles]

    def stop(self, handle: Handle, grace_s: float) -> None:
        """SIGTERM the runner, which passes it on; kill the container once the grace is over."""
        name = container.name_of(handle.attempt, handle.replica)
        self._pulling.pop((handle.attempt, handle.replica), None)
        told = self.door.inspect(name)
        if told is None:
            return
        if _state(told) not in LIVING:
            if _state(told) == "created":  # a crash between creating and starting it
                self.door.remove(name)
            return
        self.door.kill(name, "SIGTERM")
        self._deadlines.set(handle, grace_s + MARGIN_S)

    def owned(self) -> Sequence[Handle]:
        """Return each replica whose container lives, or never began, by its labels; and those whose image is on its way."""
        alive = [one for one in self._ours() if str(one.get("State")) in LIVING or str(one.get("State")) == "created"]
        found = {(one.attempt, one.replica): one for label in alive if (one := container.handle_of(label.get("Labels") or {}))}
        for key in list(self._pulling):
            found.setdefault(key, container.make_handle(*key))
        return list(found.values())

    def native(self, handle: Handle) -> Mapping[str, object]:
        """Return what the engine tells of the container."""
        told = self.door.inspect(container.name_of(handle.attempt, handle.replica)) or {}
        state, config = told.get("State") or {}, told.get("Config") or {}
        return {
            "container": container.name_of(handle.attempt, handle.replica),
            "id": told.get("Id", ""),
            "host": self.door.host,
            "image": config.get("Image", ""),
            "digest": told.get("Image", ""),
            "pid": state.get("Pid", 0),
            "state": {name: state.get(name) for name in ("Status", "ExitCode", "OOMKilled", "Error", "StartedAt", "FinishedAt")},
            "command": [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])],
            "host_config": {name: value for name, value in (told.get("HostConfig") or {}).items() if value},
        }

    def read_exit(self, handle: Handle) -> ExitRecord | None:
        """Return what the runner wrote before it ended; else what the engine saw of an end for want of memory."""
        name = container.name_of(handle.attempt, handle.replica)
        record = exit_record(json_object(self.door.read(name, f"{container.FOLDER}/exit.json")))
        if record is not None or not _ran_out_of_memory(self.door.inspect(name)):
            return record
        return ExitRecord(outcome=Outcome(cause=Cause.OUT_OF_MEMORY, exit_code=137, message=NO_MEMORY))

    def forget(self, handle: Handle) -> None:
        """Remove the container with all that it wrote."""
        self._deadlines.drop(handle)
        key = (handle.attempt, handle.replica)
        self._failed.pop(key, None)
        self.door.remove(container.name_of(*key))
        with self._lock:
            self._locks.pop(key, None)

    def close(self) -> None:
        """Let go of the connection; containers live on."""
        self.door.close()

    def _start(self, request: LaunchRequest, image: str, lines: Sequence[str], told: Found = None, found: Found = None) -> None:
        """Create the container if there is none, give it its files, start its runner; once more if it was between two states.

        `told` and `found` are the container and the image, where the engine has just shown them.
        """
        try:
            self._begin(request, image, lines, told, found)
        except UnsettledError:
            time.sleep(SETTLE_S)
            self._begin(request, image, lines)

    def _begin(self, request: LaunchRequest, image: str, lines: Sequence[str], told: Found = None, found: Found = None) -> None:
        name = container.name_of(request.attempt, request.replica)
        told = told or (None if found else self.door.inspect(name)) or self._create(request, name, image, found)
        found = found or self.images.find(str(told["Image"])) or {}
        state = _state(told)
        is_new = state == "created"
        if state in LIVING:
            self._put(request, told, found)  # it may have to learn where the server is now
            return
        try:
            if (told.get("Config") or {}).get("OpenStdin"):
                self.door.feed(name, self._fodder(request, found, lines, is_new=is_new))
            else:
                self._put(request, told, found, lines if is_new else None)
                self.door.start(name)
        except (LaunchError, UnsettledError):
            if is_new:
                self.door.remove(name)
            raise

    def _create(self, request: LaunchRequest, name: str, image: str, found: Found) -> Mapping[str, Any]:
        found = found or self.images.find(image)
        if found is None:
            raise LaunchError(f"Image {image} was removed from the engine meanwhile.")
        wishes = container.wishes_of(self.cluster.config, request.overrides, self.door.program)
        is_loopback = urlsplit(request.server_url).hostname in LOOPBACK
        network = wishes.network or ("host" if is_loopback and self.door.is_here else "bridge")
        if network != "host" and is_loopback:
            raise LaunchError(
                f"A container in the network {network} cannot reach this server, which listens on loopback alone.",
                hint="mainspring down; mainspring up --bind 0.0.0.0 --advertise https://ADDRESS-OF-THIS-MACHINE:PORT",
            )
        zipped = f"/mainspring/{self._runner().name}"
        host = container.host_config(
            request,
            wishes,
            network=network,
            cpus=int(self._told().get("NCPU") or 1),
            volume=self._cache_of(request.project, wishes.user, found),
            is_cdi=self.door.program == "podman" or _has_cdi(),
        )
        env = {"MAINSPRING_INSTALLATION": self.installation, "MAINSPRING_ATTEMPT": request.attempt}
        fault = os.environ.get("MAINSPRING_RUNNER_FAULT")  # chaos tests: where runners are to die
        user = wishes.user or str((found.get("Config") or {}).get("User") or "0")
        is_fed = self.door.is_fast and user.partition(":")[0] in ("0", "root")
        boot = ["-c", container.BOOT, zipped, container.FOLDER, container.CACHE] if is_fed else [zipped, container.FOLDER]
        config = {
            "entrypoint": [self.images.python_of(found), "-S", "-E"],
            "command": boot,
            "stdin_open": is_fed,
            "environment": {**env, "MAINSPRING_REPLICA": str(request.replica), **({"MAINSPRING_FAULT": fault} if fault else {})},
            "labels": container.labels_of(request),
            "working_dir": "/",
            "user": wishes.user or None,
            "detach": True,
        }
        try:
            self.door.create(name, str(found["Id"]), host, **config)
        except TakenError:  # somebody else was first
            told = self.door.inspect(name)
            if told is None:
                raise LaunchError(f"Container {name} vanished as it was made.") from None
            return told
        return {
            "State": {"Status": "created"},
            "Image": found["Id"],
            "Config": {"User": user, "OpenStdin": is_fed},
        }

    def _put(
        self, request: LaunchRequest, told: Mapping[str, Any], image: Mapping[str, Any], lines: Sequence[str] | None = None
    ) -> None:
        """Give a container the runner and what it is to do, owned by the user that it runs as."""
        name, folder = container.name_of(request.attempt, request.replica), container.FOLDER.lstrip("/")
        owner = self._owner(name, told, image)
        entries: list[tuple[str, bytes | None, int, tuple[int, int]]] = [
            (f"{folder}/{file}", text.encode(), 0o600, owner) for file, text in self._orders(request, image).items()
        ]
        if lines is not None:
            runner = self._runner()
            words = [(f"{folder}/{file}", text.encode(), 0o600, owner) for file, text in _first_words(image, lines).items()]
            entries = [
                ("mainspring", None, 0o755, ROOT),
                (container.CACHE.lstrip("/"), None, 0o777, owner),
                (f"mainspring/{runner.name}", runner.read_bytes(), 0o644, ROOT),
                (folder, None, 0o700, owner),
                *entries,
                (f"{folder}/spool", None, 0o700, owner),
                *words,
            ]
        self.door.put(name, pack(entries))

    def _fodder(self, request: LaunchRequest, image: Mapping[str, Any], lines: Sequence[str], *, is_new: bool) -> bytes:
        """Return what a container reads that is to write its files itself."""
        runner = self._runner().read_bytes()
        files = self._orders(request, image)
        if is_new:
            files |= _first_words(image, lines)
        return json.dumps({"size": len(runner), "files": files}).encode() + b"\n" + runner

    def _orders(self, request: LaunchRequest, image: Mapping[str, Any]) -> dict[str, str]:
        """Return the files that tell a runner what to do."""
        devices = [share.index for share in request.granted.devices]
        env = {**granted_env(request.granted), **container.device_env(request.node, devices)}
        group = "/sys/fs/cgroup" if str(self._told().get("CgroupVersion")) == "2" else "/sys/fs/cgroup/memory"
        record = launch_record(request, container.CACHE, {**env, "MAINSPRING_IMAGE": digest_of(image)}, cgroup=group, cgroups=[])
        return {"launch.json": json.dumps(record), "token": request.token}

    def _cache_of(self, project: str, user: str, image: Mapping[str, Any]) -> str:
        """Return the volume of blobs and environments: one for each project and each user that its containers run as.

        User code can write to it, as it is the runner's own user. What it leaves there reaches nobody but its own project.
        """
        who = (user or str((image.get("Config") or {}).get("User") or "0")).partition(":")[0]
        return f"mainspring-cache-{self.installation}-{_PLAIN.sub('_', who)}-{_PLAIN.sub('_', project) or 'default'}"

    def _owner(self, name: str, told: Mapping[str, Any], image: Mapping[str, Any]) -> tuple[int, int]:
        """Return the user and group that a container runs as, as numbers."""
        said = str((told.get("Config") or {}).get("User") or (image.get("Config") or {}).get("User") or "0")
        user, _, group = said.partition(":")
        passwd = "" if user.isdecimal() else (self.door.read(name, "/etc/passwd") or b"").decode("utf-8", "replace")
        for line in passwd.splitlines():
            words = line.split(":")
            if len(words) > 3 and words[0] == user:
                return int(words[2]), int(group) if group.isdecimal() else int(words[3])
        if not user.isdecimal():
            raise LaunchError(f"The image runs as {user!r}, whom it does not know.", hint="Name --user UID:GID for the cluster.")
        return int(user), int(group) if group.isdecimal() else int(user)

    def _pulled(self, request: LaunchRequest, pull: Pull) -> None:
        """Go on with a launch once its image is there; what goes wrong is told at the next launch."""
        key = (request.attempt, request.replica)
        with self._lock_of(key):
            if self._pulling.pop(key, None) is None:
                return  # stopped meanwhile
            try:
                if pull.error is not None:
                    raise pull.error
                self._start(request, pull.image, pull.lines)
            except BackendError as wrong:
                self._failed[key] = wrong

    def _observation(self, handle: Handle, states: Mapping[str, str]) -> Observation:
        state = states.get(container.name_of(handle.attempt, handle.replica))
        pull = self._pulling.get((handle.attempt, handle.replica))
        if pull is not None:
            words = f"pulling its image {pull.image}{': ' + pull.told if pull.told else ''}"
            return Observation(handle=handle, state=ObservedState.RUNNING, detail=f"{words}.", waiting=words)
        if state in LIVING:
            return Observation(handle=handle, state=ObservedState.RUNNING)
        return Observation(handle=handle, state=ObservedState.GONE, detail=f"Its container is {state or 'gone'}.")

    def _kill(self, handle: Handle, is_last: bool) -> float:
        """Kill the container; return the seconds that a runner that is only telling the end still has."""
        name = container.name_of(handle.attempt, handle.replica)
        if not is_last and self.door.stat(name, f"{container.FOLDER}/ended.json") is not None:
            return DRAIN_S
        self.door.kill(name, "SIGKILL")
        return 0.0

    def _ours(self) -> list[Mapping[str, Any]]:
        return self.door.containers(f"{container.LABEL}={self.installation}")

    def _devices(self) -> tuple[Device, ...]:
        config = self.cluster.config
        count = int(str(config.get("gpus") or 0))
        if not count:
            return nvidia_devices() if self.door.is_here and self._gives_devices() else ()
        return tuple(Device(index=n, model=str(config.get("gpu_model") or "gpu"), declared=True) for n in range(count))

    def _gives_devices(self) -> bool:
        """Say whether the engine can hand NVIDIA devices to containers: by its runtime, or by CDI."""
        told = self._told()
        return "nvidia" in (told.get("Runtimes") or {}) or bool(told.get("DiscoveredDevices")) or _has_cdi()

    def _free_disk(self, info: Mapping[str, Any]) -> int:
        place = str(info.get("DockerRootDir") or "")
        free = shutil.disk_usage(place).free if self.door.is_here and place and os.path.isdir(place) else 0
        return free >> 30 << 30  # whole GiB: a node that changes with each look would be planned anew each time

    def _unfit(self, info: Mapping[str, Any]) -> Notice | None:
        """Return which of the cluster's options the engine cannot fulfil. Raises LaunchError for one that is malformed."""
        wishes = container.wishes_of(self.cluster.config, {}, self.door.program)
        container.check(wishes)
        runtimes = sorted(info.get("Runtimes") or {})
        if wishes.runtime and runtimes and wishes.runtime not in runtimes:
            text = f"It has no runtime {wishes.runtime!r}, only {', '.join(runtimes)}."
            configure = f"sudo nvidia-ctk {_CONFIGURE['docker']}" if wishes.runtime == "nvidia" else ""
            return Notice(text=text, command=configure)
        if wishes.network not in ("", "host", "bridge") and not self.door.has_network(wishes.network):
            command = f"{self.door.program} network create {wishes.network}"
            return Notice(text=f"It has no network {wishes.network!r}.", command=command)
        return None

    def _notices(self, info: Mapping[str, Any]) -> list[Notice]:
        found = []
        image = str(self.cluster.config.get("image") or "")
        if image and self.images.find(image) is None:
            text = f"It has not got the image {image} yet: the first run that names none waits until that is pulled."
            found.append(Notice(text=text, command=f"{self.door.program} pull {image}"))
        if self.door.is_here and not (self.cluster.config.get("cpus") and self.cluster.config.get("memory")):
            found.append(Notice(text=SHARED, command=f"mainspring cluster add {self.door.program} --cpus 4 --memory 8GiB"))
        if self.door.is_here and not self.cluster.config.get("gpus") and nvidia_devices() and not self._gives_devices():
            found.append(Notice(text=NO_DEVICES, command=f"sudo nvidia-ctk {_CONFIGURE[self.door.program]}"))
        found += [Notice(text=str(word)) for word in info.get("Warnings") or () if "limit" in str(word)]
        return found

    def _told(self, *, is_fresh: bool = False) -> Mapping[str, Any]:
        """Return what the engine tells of itself; what does not change is asked once."""
        if self._info is None or is_fresh:
            self._info = self.door.info()
        return self._info

    def _runner(self) -> Path:
        if self._bundle is None or not self._bundle.exists():
            self._bundle = runner_zip(self.folder)
        return self._bundle

    def _lock_of(self, key: Key) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(key, threading.Lock())


def _first_words(image: Mapping[str, Any], lines: Sequence[str]) -> dict[str, str]:
    """Return what the spool of a run begins with: how its image came, and which one it is."""
    log = [*lines, f"It is {digest_of(image)}."] if lines else []
    event = {"kind": "image", "image": name_of(image), "digest": digest_of(image)}
    return {"spool/log": "".join(f"[mainspring] {line}\n" for line in log), "spool/events": json.dumps(event) + "\n"}


def _login_of(request: LaunchRequest) -> Mapping[str, str] | None:
    """Return the login of the registry that a run names by a secret of its project. Raises LaunchError for one that is none."""
    told = str(request.overrides.get(container.LOGIN) or "")
    user, colon, password = told.partition(":")
    if told and (not colon or user == "secret"):
        raise LaunchError(
            f"The secret that {container.LOGIN} names is gone, or is not USER:PASSWORD.",
            hint="mainspring secret set NAME, with USER:PASSWORD of the registry",
        )
    return login(user, password) if told else None


def _has_cdi() -> bool:
    return any(Path(folder, "nvidia.yaml").exists() for folder in ("/etc/cdi", "/var/run/cdi"))


def _state(told: Mapping[str, Any]) -> str:
    return str((told.get("State") or {}).get("Status", ""))


def _ran_out_of_memory(told: Mapping[str, Any] | None) -> bool:
    return bool(((told or {}).get("State") or {}).get("OOMKilled"))
