"""Start a real registry of images for tests: on loopback, with a login, and one image in it.

Without the program `find` returns None.
"""

from __future__ import annotations

import base64
import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from engines.sharing import end, free_ports, is_alive, shared

READY_S = 90.0
USER, PASSWORD = "reader", "only-for-tests-7"
_HASHED = "$2y$04$uS3E95jmMv7lo.NPnJ1QXe7tkWmyryI6mY90smQOdi6d3bxy61SS2"
_GENTLY = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
_CONFIG = """version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}
"""


@dataclass(frozen=True)
class Registry:
    """A running registry."""

    pid: int
    folder: str
    port: int

    def name(self, image: str) -> str:
        """Return what an image is called that is here."""
        return f"localhost:{self.port}/{image}"

    def push(self, run: Callable[..., str], image: str, called: str) -> str:
        """Let Docker's client (`run`) put an image here; return its name. The engine keeps no tag of it."""
        name = self.name(called)
        config = Path(self.folder) / "client"
        config.mkdir(exist_ok=True)
        word = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (config / "config.json").write_text(json.dumps({"auths": {f"localhost:{self.port}": {"auth": word}}}))
        run("tag", image, name)
        run("--config", str(config), "push", name)
        run("rmi", name)
        return name


def find() -> str | None:
    """Return the path of the registry, None when it is missing."""
    return shutil.which("docker-registry")


def share(folder: Path) -> AbstractContextManager[Registry]:
    """Share the registry of `folder` with the other users of it."""
    return shared(folder, start, stop, Registry)


def start() -> Registry:
    """Start a registry. Raises RuntimeError."""
    program = find()
    if program is None:
        raise RuntimeError("docker-registry is not installed: scripts/engines/install")
    folder = Path(tempfile.mkdtemp(prefix="mainspring-registry-"))
    (port,) = free_ports(1)
    (folder / "htpasswd").write_text(f"{USER}:{_HASHED}\n")
    (folder / "config.yml").write_text(_CONFIG.format(folder=folder, port=port))
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and is_alive(process.pid):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return Registry(pid=process.pid, folder=str(folder), port=port)
    end(process.pid)
    raise RuntimeError("The registry does not start:\n" + (folder / "log").read_text()[-2000:])


def stop(engine: Registry) -> None:
    """End the registry; leave nothing."""
    end(engine.pid, _GENTLY)
    shutil.rmtree(engine.folder, ignore_errors=True)
