"""A node of the Kubernetes for tests: a containerd with our images in it, and a kubelet; ended by pid, as by a power cut.

All nodes are this machine: each has a folder, a control group and an address of its own, and its pods a range of addresses on
the one bridge. The first belongs to the cluster. The second comes when a test wants it, and is gone when that is over.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import urllib.error
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engines.images import image_archive
from engines.kubernetes import settings
from engines.kubernetes.daemons import READY_S, end_containers, make_groups, remove_groups, spawn, tail, unmount, until
from engines.kubernetes.program import program
from engines.sharing import end, free_ports, is_alive

FIRST, SECOND = "n1", "n2"
STARTS = 3
IMAGE = "mainspring.test/python:1"
_ADDRESS = {FIRST: 1, SECOND: 2}  # the last part; the first node has this machine's own
_PODS = {FIRST: (10, 199), SECOND: (200, 250)}
_PIDS = "node.json"


@dataclass(frozen=True)
class Machine:
    """One node of the cluster with that folder. `gateway` is this machine's address on the bridge, `ask` is an admin's."""

    name: str
    cluster: Path
    bridge: str
    gateway: str
    gpus: int
    ask: Callable[..., Any]

    @property
    def folder(self) -> Path:
        """Return where its files are."""
        return folder_of(self.cluster, self.name)

    @property
    def address(self) -> str:
        """Return its own address on the bridge."""
        return f"{self.gateway.rpartition('.')[0]}.{_ADDRESS[self.name]}"

    def start(self) -> dict[str, int]:
        """Start its daemons and wait until it takes pods; return their pids. Its images are kept when it is started again."""
        folder, binary = self.folder, program()
        if not (folder / "containerd").is_mount():
            # its images in memory, 250 MB: they are there in no time and gone as quickly, and it waits for no disk
            (folder / "containerd").mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", str(folder / "containerd")], check=True)
        config = settings.containerd(folder, self.bridge, self.gateway, _PODS[self.name])
        pids = {"containerd": spawn(folder, "containerd", ["containerd", "--config", str(config)])}
        _keep(folder, pids)
        ctr = ["ctr", "--address", str(folder / "containerd.sock"), "--namespace", "k8s.io"]
        until(lambda: _runs([*ctr, "version"]), folder)
        there = subprocess.run([*ctr, "images", "list", "--quiet"], check=True, capture_output=True, text=True).stdout.split()
        if IMAGE not in there:
            # one image by two names: that of a sandbox has to wait, what runs in a pod says itself what it is
            archive = image_archive(folder / "containerd" / "image.tar", (settings.SANDBOX, IMAGE), ["sleep", "infinity"])
            subprocess.run([*ctr, "images", "import", str(archive)], check=True, capture_output=True, timeout=READY_S)
            archive.unlink()
        with contextlib.suppress(urllib.error.HTTPError):  # it is there already
            # a kubelet looks for its node before it has registered it, waits half a minute then, and may give up
            self.ask("POST", "/api/v1/nodes", {"metadata": {"name": self.name}})
        group = _group_of(self.cluster, self.name)
        make_groups(group)
        (port,) = free_ports(1)
        words = settings.kubelet(folder, self.cluster / settings.CONFIG, group, self.address, port, self.name)
        for _ in range(STARTS):  # one that cannot register itself in time ends, and is begun again, as by any machine's init
            began = datetime.now(UTC)
            pids["kubelet"] = kubelet = spawn(folder, "kubelet", [str(binary), "kubelet", *words])
            _keep(folder, pids)
            until(lambda began=began, kubelet=kubelet: self._is_ready(began) or not is_alive(kubelet), folder)  # type: ignore[misc]
            if is_alive(kubelet):
                break
        else:
            raise RuntimeError(f"The kubelet of {self.name} ended {STARTS} times:\n{tail(folder / 'kubelet.log')}")
        # the kubelet would copy the one to the other within ten seconds: nobody waits for that
        both = ("capacity", "allocatable")
        devices = [{"op": "add", "path": f"/status/{of}/nvidia.com~1gpu", "value": str(self.gpus)} for of in both]
        self.ask("PATCH", f"/api/v1/nodes/{self.name}/status", devices, "application/json-patch+json")
        return pids

    def cut_power(self) -> None:
        """Kill its daemons and all that runs in its pods; nobody is told."""
        cut_power(self.folder)

    def _is_ready(self, since: datetime) -> bool:
        """Say whether it takes pods, by a kubelet that was heard of since that moment."""
        with contextlib.suppress(urllib.error.URLError):
            lease = self.ask("GET", f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{self.name}")
            node = self.ask("GET", f"/api/v1/nodes/{self.name}")
            self.ask("GET", "/api/v1/namespaces/default")
            is_heard = datetime.fromisoformat(lease["spec"]["renewTime"]) > since
            tainted = any(one["key"].startswith("node.kubernetes.io/") for one in node["spec"].get("taints", ()))
            ready = [one["status"] for one in node["status"].get("conditions", ()) if one["type"] == "Ready"]
            return is_heard and ready == ["True"] and not tainted
        return False


@contextmanager
def joined(machine: Machine) -> Iterator[Machine]:
    """Start another node than the first, and take it from the cluster afterwards. Raises FileExistsError if it is there."""
    machine.folder.mkdir()
    address = [f"{machine.address}/32", "dev", machine.bridge]
    try:
        subprocess.run(["ip", "address", "add", *address], check=True)
        machine.start()
        yield machine
    finally:
        remove(machine.cluster, machine.name)
        subprocess.run(["ip", "address", "delete", *address], check=False, capture_output=True)
        with contextlib.suppress(urllib.error.URLError):
            machine.ask("DELETE", f"/api/v1/nodes/{machine.name}")
        shutil.rmtree(machine.folder, ignore_errors=True)


def folder_of(cluster: Path, name: str) -> Path:
    """Return where the files of a node are: the cluster's own folder is the first one's."""
    return cluster if name == FIRST else cluster / name


def cut_power(folder: Path) -> None:
    """Kill the daemons of a node and all that runs in its pods, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        pids = json.loads((folder / _PIDS).read_text())
        if "kubelet" in pids:
            end(pids["kubelet"])
        end_containers(folder, pids["containerd"])


def remove(cluster: Path, name: str) -> None:
    """Let nothing of a node be left on this machine but its files."""
    folder = folder_of(cluster, name)
    cut_power(folder)
    unmount(folder)
    remove_groups(_group_of(cluster, name))


def _group_of(cluster: Path, name: str) -> str:
    return cluster.name if name == FIRST else f"{cluster.name}-{name}"


def _keep(folder: Path, pids: Mapping[str, int]) -> None:
    """Write down what is to be ended: another process than the one that started it may have to."""
    (folder / _PIDS).write_text(json.dumps(pids))


def _runs(words: Sequence[str]) -> bool:
    return subprocess.run(words, check=False, capture_output=True, timeout=90).returncode == 0
