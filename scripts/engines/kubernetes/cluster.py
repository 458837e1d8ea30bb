"""Start a whole Kubernetes for tests: etcd, API server, controllers, scheduler, containerd, one kubelet; ended by pid.

All its files lie in a folder of its own. Pods and node have addresses on a bridge of its own, where they reach this machine.
The node has GPUs by our word only. Without Go, or one of Debian's programs, `find` returns None.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from engines.images import image_archive
from engines.kubernetes import report, settings
from engines.kubernetes.certificates import certify
from engines.kubernetes.program import can_be_built, program
from engines.networks import KUBERNETES, free_networks
from engines.sharing import end, free_ports, is_alive, shared

READY_S = 240.0  # the machine may be busy with other engines
NODE = "n1"
GPUS = 8
IMAGE = "mainspring.test/python:1"
USERS = {"admin": "system:masters", "team": "", "nobody": ""}  # what rights the last two have is up to each test
_SYSCTLS = ("kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "net/ipv4/ip_forward")
_PROGRAMS = ("etcd", "containerd", "containerd-shim-runc-v2", "runc", "ctr", "ip", "iptables", "debootstrap")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Kubernetes:
    """A running cluster. `pid` is the API server's; `address` is this machine's on the bridge, where pods reach it."""

    pid: int
    folder: str
    url: str
    address: str
    bridge: str
    pids: dict[str, int]
    sysctls: dict[str, str]
    tokens: dict[str, str]

    @property
    def authority(self) -> str:
        """Return the path of the certificate that vouches for the API server."""
        return f"{self.folder}/certificates/apiserver.crt"

    def kubeconfig(self, user: str = "admin", namespace: str = "default") -> str:
        """Return the path of a kubeconfig for one of `USERS`, with one context `test`."""
        path = Path(self.folder, f"{user}.{namespace}.kubeconfig")
        if not path.exists():
            draft = path.with_suffix(f".{os.getpid()}")
            draft.write_text(settings.kubeconfig(self.url, self.authority, self.tokens[user], namespace))
            draft.replace(path)
        return str(path)

    def ask(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Any:
        """Send an admin's request and return the JSON that comes back. Raises HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.tokens['admin']}", "Content-Type": kind}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        context = ssl.create_default_context(cafile=self.authority)
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return json.loads(answer.read() or b"null")

    def empty(self, namespace: str) -> None:
        """End all pods of a name space at once: one whose server is gone would keep its CPUs until its grace is over."""
        with contextlib.suppress(urllib.error.URLError):
            self.ask("DELETE", f"/api/v1/namespaces/{namespace}/pods", {"gracePeriodSeconds": 0})

    def told(self) -> str:
        """Return what it knows of its nodes, of the pods that have not succeeded, and the newest events: why something waits."""
        return report.of(self.ask)


def find() -> str | None:
    """Return the path of containerd, None when a program is missing, or a way to build Kubernetes."""
    found = [shutil.which(name, path=_PATH) for name in _PROGRAMS]
    return found[1] if all(found) and settings.cni_folder() and can_be_built() else None


def share(folder: Path) -> AbstractContextManager[Kubernetes]:
    """Share the cluster of `folder` with the other users of it."""
    return shared(folder, _start, _stop, Kubernetes)


def _start() -> Kubernetes:
    if find() is None:
        raise RuntimeError("Kubernetes' programs are missing: scripts/engines/install, and Go")
    if os.geteuid() != 0:
        raise RuntimeError("A Kubernetes for tests needs root: it makes a bridge and starts containers.")
    binary = program()
    folder = Path(tempfile.mkdtemp(prefix="mainspring-kubernetes-"))
    folder.chmod(0o755)
    pids: dict[str, int] = {}
    sysctls = {name: Path("/proc/sys", name).read_text().strip() for name in _SYSCTLS}
    bridge, address = _bridge()
    try:
        url = _control_plane(folder, binary, address, pids)
        engine = Kubernetes(
            pid=pids["apiserver"],
            folder=str(folder),
            url=url,
            address=address,
            bridge=bridge,
            pids=pids,
            sysctls=sysctls,
            tokens=_tokens(folder),
        )
        _node(engine, binary, pids)
        _until(lambda: _is_ready(engine), folder)
        # the kubelet would copy the one to the other within ten seconds: nobody waits for that
        both = ("capacity", "allocatable")
        devices = [{"op": "add", "path": f"/status/{of}/nvidia.com~1gpu", "value": str(GPUS)} for of in both]
        engine.ask("PATCH", f"/api/v1/nodes/{NODE}/status", devices, "application/json-patch+json")
    except BaseException:
        _end(pids, folder, bridge, sysctls)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return engine


def _stop(engine: Kubernetes) -> None:
    _end(engine.pids, Path(engine.folder), engine.bridge, engine.sysctls)


def _control_plane(folder: Path, binary: Path, address: str, pids: dict[str, int]) -> str:
    """Start etcd, API server, controllers and scheduler; return the API's address."""
    port, *ports = free_ports(5)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    (folder / "sa.key").write_bytes(key.private_bytes(*form))
    certify(folder, list(USERS))
    tokens = {user: secrets.token_hex(16) for user in USERS}
    rows = [f'{tokens[user]},{user},{user},"{groups}"\n' for user, groups in USERS.items()]
    (folder / "tokens.csv").write_text("".join(rows))
    pids["etcd"] = _spawn(folder, "etcd", ["etcd", *settings.etcd(folder, ports[0], ports[1])])
    words = settings.apiserver(folder, f"http://127.0.0.1:{ports[0]}", port, address)
    pids["apiserver"] = _spawn(folder, "apiserver", [str(binary), "apiserver", *words])
    url = f"https://127.0.0.1:{port}"
    _until(lambda: _answers(folder, url, tokens["admin"], pids), folder)
    config = folder / "engine.kubeconfig"
    config.write_text(settings.kubeconfig(url, f"{folder}/certificates/apiserver.crt", tokens["admin"], "default"))
    words = settings.controllers(folder, config, ports[2])
    pids["controllers"] = _spawn(folder, "controllers", [str(binary), "controllers", *words])
    words = settings.scheduler(folder, config, ports[3])
    pids["scheduler"] = _spawn(folder, "scheduler", [str(binary), "scheduler", *words])
    return url


def _node(engine: Kubernetes, binary: Path, pids: dict[str, int]) -> None:
    """Start containerd with our image in it, and the kubelet."""
    folder = Path(engine.folder)
    settings.containerd(folder, engine.bridge, engine.address, settings.SANDBOX)
    socket = folder / "containerd.sock"
    pids["containerd"] = _spawn(folder, "containerd", ["containerd", "--config", str(folder / "containerd.toml")])
    ctr = ["ctr", "--address", str(socket), "--namespace", "k8s.io"]
    _until(lambda: socket.exists() and _runs([*ctr, "version"]), folder)
    for name, command in ((settings.SANDBOX, ["sleep", "infinity"]), (IMAGE, ["sh"])):
        archive = image_archive(folder / "image.tar", name, command)
        subprocess.run([*ctr, "images", "import", str(archive)], check=True, capture_output=True, timeout=READY_S)
        archive.unlink()
    for group in _groups():
        _make_group(group / folder.name)
    (port,) = free_ports(1)
    words = settings.kubelet(folder, engine.address, port, NODE)
    pids["kubelet"] = _spawn(folder, "kubelet", [str(binary), "kubelet", *words])


def _end(pids: Mapping[str, int], folder: Path, bridge: str, sysctls: Mapping[str, str]) -> None:
    """End all daemons, then what they left: shims with their containers, mounts, links, settings of the kernel."""
    for name in ("kubelet", "scheduler", "controllers", "apiserver"):
        if name in pids:
            end(pids[name])
    shims = _shims(folder)
    for pid in _below(shims):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if "containerd" in pids:
        end(pids["containerd"])
    for pid in shims:
        end(pid)
    if "etcd" in pids:
        end(pids["etcd"])
    for path in sorted(_mounts(folder), reverse=True):
        subprocess.run(["umount", "--lazy", path], check=False, capture_output=True)
    for root in _groups():
        for group in sorted((root / folder.name).glob("**/"), reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()
    for link in _links(bridge):
        subprocess.run(["ip", "link", "delete", link], check=False, capture_output=True)
    for name, value in sysctls.items():
        with contextlib.suppress(OSError):
            Path("/proc/sys", name).write_text(value)


def _groups() -> list[Path]:
    """Return the roots of the control groups: one for each controller of version 1, or the one of version 2."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [path for path in root.iterdir() if path.is_dir() and not path.is_symlink() and (path / "cgroup.procs").exists()]


def _make_group(path: Path) -> None:
    """Make a control group that another kubelet of this machine leaves alone."""
    path.mkdir(exist_ok=True)
    for name in ("cpuset.mems", "cpuset.cpus"):  # version 1: empty, and nothing can run there
        if (path / name).exists() and not (path / "cgroup.controllers").exists():
            (path / name).write_text((path.parent / name).read_text())


def _bridge() -> tuple[str, str]:
    """Make a bridge in a range that nobody uses; return its name and this machine's address on it."""
    for number, network in free_networks(KUBERNETES):
        name, address = f"msk{number}", str(network[1])
        # With a hardware address of its own: otherwise it takes the lowest of its ports', which come and go with the pods, and
        # the others do not find it for seconds each time.
        made = ["ip", "link", "add", name, "address", f"02:00:0a:d5:{number:02x}:01", "type", "bridge"]
        if subprocess.run(made, check=False, capture_output=True).returncode != 0:
            continue  # somebody was quicker
        subprocess.run(["ip", "address", "add", f"{address}/24", "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        return name, address
    raise RuntimeError("No range of addresses is free for a bridge.")


def _answers(folder: Path, url: str, token: str, pids: Mapping[str, int]) -> bool:
    for name in ("etcd", "apiserver"):
        if not is_alive(pids[name]):
            raise RuntimeError(f"{name} ended:\n{_tail(folder / f'{name}.log')}")
    request = urllib.request.Request(f"{url}/readyz", headers={"Authorization": f"Bearer {token}"})
    with contextlib.suppress(OSError, urllib.error.URLError):
        context = ssl.create_default_context(cafile=f"{folder}/certificates/apiserver.crt")
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            return bool(answer.status == 200)
    return False


def _is_ready(engine: Kubernetes) -> bool:
    for name in ("containerd", "kubelet", "controllers", "scheduler"):
        if not is_alive(engine.pids[name]):
            raise RuntimeError(f"{name} ended:\n{_tail(Path(engine.folder, f'{name}.log'))}")
    with contextlib.suppress(urllib.error.URLError):
        node = engine.ask("GET", f"/api/v1/nodes/{NODE}")
        engine.ask("GET", "/api/v1/namespaces/default")
        tainted = any(one["key"].startswith("node.kubernetes.io/") for one in node["spec"].get("taints", ()))
        ready = [one["status"] for one in node["status"]["conditions"] if one["type"] == "Ready"]
        return ready == ["True"] and not tainted
    return False


def _until(is_so: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + READY_S
    while not is_so():
        if time.monotonic() > deadline:
            tails = "\n".join(f"{path.name}: {_tail(path)}" for path in sorted(folder.glob("*.log")))
            raise RuntimeError(f"Kubernetes does not come up within {READY_S:g} s:\n{tails}")
        time.sleep(0.1)


def _spawn(folder: Path, name: str, words: Sequence[str]) -> int:
    path = shutil.which(words[0], path=_PATH)
    assert path is not None
    env = {**os.environ, "PATH": _PATH}
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [path, *words[1:]], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=folder, env=env
        )
    return process.pid


def _runs(words: Sequence[str]) -> bool:
    return subprocess.run(words, check=False, capture_output=True, timeout=90).returncode == 0


def _shims(folder: Path) -> list[int]:
    """Return the processes that hold our containers: they carry containerd's socket in their arguments."""
    mark = f"{folder}/containerd.sock".encode()
    return [pid for pid in _pids() if _words(pid)[:1] and b"containerd-shim" in _words(pid)[0] and mark in _words(pid)]


def _below(roots: Sequence[int]) -> list[int]:
    """Return all descendants, the newest first."""
    parents: dict[int, list[int]] = {}
    for pid in _pids():
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(pid)
    found: list[int] = []
    todo = list(roots)
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found[::-1]


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _words(pid: int) -> list[bytes]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


def _mounts(folder: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(f"{folder}/")]


def _links(bridge: str) -> list[str]:
    told = subprocess.run(["ip", "-json", "link", "show", "master", bridge], check=False, capture_output=True, text=True).stdout
    return [*(one["ifname"] for one in json.loads(told or "[]") if one), bridge]


def _tokens(folder: Path) -> dict[str, str]:
    rows = [line.split(",") for line in (folder / "tokens.csv").read_text().splitlines()]
    return {row[1]: row[0] for row in rows}


def _tail(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")[-1500:]
    return ""
