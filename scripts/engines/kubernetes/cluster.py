"""Start a whole Kubernetes for tests: etcd, API server, controllers, scheduler, one node or two; ended by pid.

All its files lie in a folder of its own. Pods and node have addresses on a bridge of its own, where they reach this machine.
Nodes have GPUs by our word only. Without Go, or one of Debian's programs, `find` returns None.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from engines.kubernetes import nodes, report, servers, settings
from engines.kubernetes.certificates import certify
from engines.kubernetes.daemons import PATH, spawn, until
from engines.kubernetes.program import can_be_built, program
from engines.networks import KUBERNETES, free_networks
from engines.sharing import end, free_ports, shared

NODE, IMAGE = nodes.FIRST, nodes.IMAGE
GPUS = 8
USERS = {"admin": "system:masters", "team": "", "nobody": ""}  # what rights the last two have is up to each test
_SYSCTLS = ("kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "net/ipv4/ip_forward")
_PROGRAMS = ("etcd", "containerd", "containerd-shim-runc-v2", "runc", "ctr", "ip", "iptables", "debootstrap")


@dataclass(frozen=True)
class Kubernetes:
    """A running cluster. `pid` is the API server's; `address` is this machine's on the bridge, where pods reach it.

    `etcd` is the address of its store.
    """

    pid: int
    folder: str
    url: str
    etcd: str
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

    def node(self, name: str, gpus: int) -> nodes.Machine:
        """Return one of its nodes, which need not be there, with so many GPUs by our word."""
        return nodes.Machine(name, Path(self.folder), self.bridge, self.address, gpus, self.ask)

    def second_node(self, gpus: int = 2) -> AbstractContextManager[nodes.Machine]:
        """Have a second node while a test needs it; see `nodes.joined`."""
        return nodes.joined(self.node(nodes.SECOND, gpus))

    def another_server(self, *more: str) -> AbstractContextManager[servers.Server]:
        """Have one more API server of the same cluster while a test needs it; `more` are flags of its own."""
        return servers.another(Path(self.folder), self.etcd, self.address, self.tokens["admin"], more)

    def compact(self) -> int:
        """Let the store forget what was before now; return the last revision that it still knows."""
        return servers.compact(self.etcd)

    def told(self) -> str:
        """Return what it knows of its nodes, of the pods that have not succeeded, and the newest events: why something waits."""
        return report.of(self.ask)


def find() -> str | None:
    """Return the path of containerd, None when a program is missing, or a way to build Kubernetes."""
    found = [shutil.which(name, path=PATH) for name in _PROGRAMS]
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
        url, etcd = _control_plane(folder, binary, address, pids)
        engine = Kubernetes(
            pid=pids["apiserver"],
            folder=str(folder),
            url=url,
            etcd=etcd,
            address=address,
            bridge=bridge,
            pids=pids,
            sysctls=sysctls,
            tokens=_tokens(folder),
        )
        pids |= engine.node(NODE, GPUS).start()
    except BaseException:
        _end(pids, folder, bridge, sysctls)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return engine


def _stop(engine: Kubernetes) -> None:
    _end(engine.pids, Path(engine.folder), engine.bridge, engine.sysctls)


def _control_plane(folder: Path, binary: Path, address: str, pids: dict[str, int]) -> tuple[str, str]:
    """Start etcd, API server, controllers and scheduler; return the addresses of the API and of etcd."""
    port, *ports = free_ports(5)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    (folder / "sa.key").write_bytes(key.private_bytes(*form))
    certify(folder, list(USERS))
    tokens = {user: secrets.token_hex(16) for user in USERS}
    rows = [f'{tokens[user]},{user},{user},"{groups}"\n' for user, groups in USERS.items()]
    (folder / "tokens.csv").write_text("".join(rows))
    pids["etcd"] = spawn(folder, "etcd", ["etcd", *settings.etcd(folder, ports[0], ports[1])])
    etcd = f"http://127.0.0.1:{ports[0]}"
    pids["apiserver"] = spawn(folder, "apiserver", [str(binary), "apiserver", *settings.apiserver(folder, etcd, port, address)])
    url, authority = f"https://127.0.0.1:{port}", f"{folder}/certificates/apiserver.crt"
    until(lambda: servers.answers(url, authority, tokens["admin"], pids, folder), folder)
    config = folder / settings.CONFIG
    config.write_text(settings.kubeconfig(url, authority, tokens["admin"], "default"))
    words = settings.controllers(folder, config, ports[2])
    pids["controllers"] = spawn(folder, "controllers", [str(binary), "controllers", *words])
    words = settings.scheduler(folder, config, ports[3])
    pids["scheduler"] = spawn(folder, "scheduler", [str(binary), "scheduler", *words])
    return url, etcd


def _end(pids: Mapping[str, int], folder: Path, bridge: str, sysctls: Mapping[str, str]) -> None:
    """End all daemons, then what they left: nodes with their containers, mounts, links, settings of the kernel."""
    for name in (nodes.SECOND, nodes.FIRST):
        nodes.remove(folder, name)
    for name in ("scheduler", "controllers", "apiserver", "etcd"):
        if name in pids:
            end(pids[name])
    for link in _links(bridge):
        subprocess.run(["ip", "link", "delete", link], check=False, capture_output=True)
    for name, value in sysctls.items():
        with contextlib.suppress(OSError):
            Path("/proc/sys", name).write_text(value)


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


def _links(bridge: str) -> list[str]:
    told = subprocess.run(["ip", "-json", "link", "show", "master", bridge], check=False, capture_output=True, text=True).stdout
    return [*(one["ifname"] for one in json.loads(told or "[]") if one), bridge]


def _tokens(folder: Path) -> dict[str, str]:
    rows = [line.split(",") for line in (folder / "tokens.csv").read_text().splitlines()]
    return {row[1]: row[0] for row in rows}
