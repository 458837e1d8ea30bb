"""Start a real podman for tests: its service on a socket in its own folder, with the image of container tests. Needs root.

It has a bridge of its own; `address` is this machine on it. It touches no firewall rule: containers reach this machine alone.
Without the programs `find` returns None.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from engines.docker import load_images
from engines.networks import PODMAN, make_bridge
from engines.sharing import end, is_alive, shared

READY_S = 60.0
_PROGRAMS = ("podman", "runc", "conmon", "ip")
_GENTLY = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))
# the hard limits of a container that runs tests may be lower than podman's own, and cannot be raised
_CONFIG = """[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "cni"
network_config_dir = "{folder}/networks"
"""
_REGISTRIES = """[[registry]]
prefix = "localhost"
location = "localhost"
insecure = true
"""


@dataclass(frozen=True)
class Podman:
    """A running service. `url` is its address for clients."""

    pid: int
    folder: str
    bridge: str
    address: str

    @property
    def url(self) -> str:
        """Return the address of its socket."""
        return f"unix://{self.folder}/podman.sock"

    def run(self, *words: str) -> str:
        """Run podman's own client and return what it prints. Raises RuntimeError."""
        env = {**os.environ, "CONTAINERS_CONF": f"{self.folder}/containers.conf"}
        command = ["podman", *_places(Path(self.folder)), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180, env=env)
        if done.returncode:
            raise RuntimeError(f"podman {words[0]}: {done.stderr.strip()[-1000:]}")
        return done.stdout


def find() -> str | None:
    """Return the path of podman, None when a program is missing."""
    found = [shutil.which(name) for name in _PROGRAMS]
    return found[0] if all(found) else None


def share(folder: Path) -> AbstractContextManager[Podman]:
    """Share the service of `folder` with the other users of it."""
    return shared(folder, start, stop, Podman)


def start() -> Podman:
    """Start a service and give it the images."""
    if find() is None:
        raise RuntimeError("podman is not installed: scripts/engines/install")
    if os.geteuid() != 0:
        raise RuntimeError("A podman for tests needs root.")
    folder = Path(tempfile.mkdtemp(prefix="mainspring-podman-"))
    (folder / "containers.conf").write_text(_CONFIG.format(folder=folder))
    bridge, address = make_bridge("mspod", PODMAN)
    (folder / "networks").mkdir()
    (folder / "networks" / "87-podman.conflist").write_text(json.dumps(_network(bridge, address, folder)))
    (folder / "registries.conf").write_text(_REGISTRIES)
    words = ["podman", *_places(folder), "system", "service", "--time=0", f"unix://{folder}/podman.sock"]
    with (folder / "log").open("ab") as log:
        env = {**os.environ, "CONTAINERS_CONF": f"{folder}/containers.conf"}
        env["CONTAINERS_REGISTRIES_CONF"] = f"{folder}/registries.conf"
        process = subprocess.Popen(
            words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=folder, env=env
        )
    engine = Podman(pid=process.pid, folder=str(folder), bridge=bridge, address=address)
    try:
        _until_ready(engine)
        load_images(engine.run)
    except BaseException:
        stop(engine)
        raise
    return engine


def stop(engine: Podman) -> None:
    """End the service and all of its containers; leave nothing."""
    with contextlib.suppress(RuntimeError, subprocess.SubprocessError):
        engine.run("rm", "--all", "--force", "--time", "0")
    end(engine.pid, _GENTLY)
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((one for one in mounts if one.startswith(f"{engine.folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    subprocess.run(["ip", "link", "delete", engine.bridge], check=False, capture_output=True)
    shutil.rmtree(engine.folder, ignore_errors=True)


def _network(bridge: str, address: str, folder: Path) -> dict[str, object]:
    """Return the network that `--network bridge` means: addresses on a bridge whose gateway is this machine, and no firewall."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": f"{address.rpartition('.')[0]}.0/24", "gateway": address}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": f"{folder}/leases",
    }
    plugin = {"type": "bridge", "bridge": bridge, "isGateway": True, "ipMasq": False, "ipam": ipam}
    return {"cniVersion": "0.4.0", "name": "podman", "plugins": [plugin]}


def _places(folder: Path) -> list[str]:
    return ["--root", f"{folder}/root", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/temporary", "--log-level", "error"]


def _until_ready(engine: Podman) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and is_alive(engine.pid):
        if Path(engine.folder, "podman.sock").exists():
            return
        time.sleep(0.05)
    raise RuntimeError("podman does not start:\n" + (Path(engine.folder) / "log").read_text()[-2000:])
