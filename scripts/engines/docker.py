"""Start a real Docker for tests: a daemon of its own on a socket in its own folder, with the image of container tests.

It has a bridge of its own; `address` is this machine on it. It touches no firewall rule: containers reach this machine alone.
Needs root. Without the programs `find` returns None.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from engines.images import python_layer
from engines.networks import DOCKER, make_bridge
from engines.sharing import end, is_alive, shared

READY_S = 60.0
IMAGE = "mainspring-test/python:1"
BARE_IMAGE = "mainspring-test/bare:1"  # has no Python
_PROGRAMS = ("dockerd", "containerd", "runc", "docker", "ip")
_GENTLY = ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0))
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Docker:
    """A running daemon. `url` is its address for clients."""

    pid: int
    folder: str
    bridge: str
    address: str

    @property
    def url(self) -> str:
        """Return the address of its socket."""
        return f"unix://{self.folder}/docker.sock"

    def run(self, *words: str) -> str:
        """Run Docker's own client and return what it prints. Raises RuntimeError."""
        done = subprocess.run(["docker", "--host", self.url, *words], capture_output=True, text=True, check=False, timeout=180)
        if done.returncode:
            raise RuntimeError(f"docker {words[0]}: {done.stderr.strip()[-1000:]}")
        return done.stdout


def find() -> str | None:
    """Return the path of the daemon, None when a program is missing."""
    found = [shutil.which(name, path=_PATH) for name in _PROGRAMS]
    return found[0] if all(found) else None


def share(folder: Path) -> AbstractContextManager[Docker]:
    """Share the daemon of `folder` with the other users of it."""
    return shared(folder, start, stop, Docker)


def start() -> Docker:
    """Start a daemon and give it the images."""
    program = find()
    if program is None:
        raise RuntimeError("Docker is not installed: scripts/engines/install")
    if os.geteuid() != 0:
        raise RuntimeError("A Docker for tests needs root.")
    folder = Path(tempfile.mkdtemp(prefix="mainspring-docker-"))
    bridge, address = make_bridge("msdock", DOCKER)
    words = [program, "--host", f"unix://{folder}/docker.sock", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
    words += ["--pidfile", f"{folder}/pid", "--bridge", bridge, "--iptables=false", "--ip-masq=false", "--log-level", "warn"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            words,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=folder,
            env={**os.environ, "PATH": _PATH},
        )
    engine = Docker(pid=process.pid, folder=str(folder), bridge=bridge, address=address)
    try:
        _until_ready(engine)
        load_images(engine.run)
    except BaseException:
        stop(engine)
        raise
    return engine


def load_images(run: Callable[..., str]) -> None:
    """Give an engine the images, by its own client."""
    run("import", "--change", "ENV PATH=/usr/local/bin:/usr/bin:/bin", str(python_layer()), IMAGE)
    run("run", "--name", "bare", "--network", "none", IMAGE, "sh", "-c", "rm -f /usr/bin/python3* /usr/bin/perl*")
    run("commit", "bare", BARE_IMAGE)
    run("rm", "bare")


def stop(engine: Docker) -> None:
    """End the daemon and all of its containers; leave nothing."""
    with contextlib.suppress(RuntimeError, subprocess.SubprocessError):
        containers = engine.run("ps", "--all", "--quiet").split()
        if containers:
            engine.run("rm", "--force", *containers)
        engine.run("network", "prune", "--force")  # their bridges would stay
    end(engine.pid, _GENTLY)
    with contextlib.suppress(OSError, ValueError):
        end(int((Path(engine.folder) / "exec/containerd/containerd.pid").read_text()))
    for mount in sorted(_mounts(engine.folder), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    subprocess.run(["ip", "link", "delete", engine.bridge], check=False, capture_output=True)
    shutil.rmtree(engine.folder, ignore_errors=True)


def _until_ready(engine: Docker) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and is_alive(engine.pid):
        with contextlib.suppress(RuntimeError, subprocess.SubprocessError):
            engine.run("version")
            return
        time.sleep(0.1)
    raise RuntimeError("Docker does not start:\n" + (Path(engine.folder) / "log").read_text()[-2000:])


def _mounts(folder: str) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(f"{folder}/")]
