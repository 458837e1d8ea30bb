"""The SSH backend passes the shipped contract against real sshds, each in a network, pids and a boot of its own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mainspring.backends.ssh.backend import SshBackend, create
from mainspring.core.backend import Backend, Handle
from mainspring.core.records import Cluster
from mainspring.testing.backend import BackendContract

pytestmark = pytest.mark.xdist_group("ssh")  # the same hosts: one test cuts links that another needs


def until(is_so: Callable[[], bool], limit_s: float = 30.0) -> None:
    """Poll until it is so."""
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(0.05)


def made(hosts: Any, folder: Path, *names: str, **config: object) -> SshBackend:
    """Build a backend of some hosts; their keys are those that the starter made."""
    targets = [f"{hosts.addresses[name]}" for name in names]
    keys = [hosts.fingerprint(name) for name in names]
    told = {"targets": targets, "user": "root", "key": hosts.key, "host_key": keys, "min_free_gib": 0.01, **config}
    return create(Cluster(id="lab", name="lab", backend="ssh", config=told), folder, f"conf{os.getpid()}x{time.monotonic_ns():x}")


def on_host(hosts: Any, name: str, command: str) -> str:
    """Run a command on a host by hand."""
    words = [
        "ssh",
        "-i",
        hosts.key,
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=ERROR",
    ]
    return subprocess.run(
        [*words, f"root@{hosts.addresses[name]}", command], capture_output=True, text=True, check=True, timeout=20
    ).stdout


@pytest.fixture
def backend(ssh_hosts: Any, tmp_path: Path) -> Iterator[SshBackend]:
    found = made(ssh_hosts, tmp_path / "cluster", "bm1")
    yield found
    found.close()


class TestContract(BackendContract):
    @pytest.fixture(autouse=True)
    def _same_installation(self, backend: SshBackend, ssh_hosts: Any) -> None:
        self.installation = backend.installation
        self.hosts = ssh_hosts

    def kill_runner(self, backend: Backend, handle: Handle) -> None:
        on_host(self.hosts, "bm1", f"kill -9 {backend.native(handle)['pid']}")
