"""Members of a gang find each other: each tells where it is, user code begins when all have, and sees where the others are.

The variables are those that torchrun, `torch.distributed`, TensorFlow and plain programs read; nothing is started for them.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
from typing import Any

from .exchange import split

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SIOCGIFADDR = 0x8915


def my_address(launch: dict[str, Any]) -> str:
    """Return `host:port` where other members reach this one: the host that the engine names, or one found here; a free port."""
    host = host_of(launch)
    with socket.socket(socket.AF_INET) as holder:
        holder.bind(("", 0))
        return f"{host}:{holder.getsockname()[1]}"


def host_of(launch: dict[str, Any]) -> str:
    """Return the address of this machine for others: what the engine names, or what is found here."""
    return str(launch.get("host") or "") or _host(str(launch["server_url"]), bool(launch.get("socket")))


def variables(rank: int, addresses: list[str], devices: str) -> dict[str, str]:
    """Return what user code of the member `rank` sees; `addresses` are those of all members in order."""
    host, _, port = addresses[0].rpartition(":")
    size, local = str(len(addresses)), max(1, len([one for one in devices.split(",") if one]))
    hosts = [one.rpartition(":")[0] for one in addresses]
    return {
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
        "RANK": str(rank),
        "WORLD_SIZE": size,
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "NODE_RANK": str(rank),
        "PET_NNODES": size,
        "PET_NODE_RANK": str(rank),
        "PET_NPROC_PER_NODE": str(local),
        "PET_MASTER_ADDR": host,
        "PET_MASTER_PORT": port,
        "TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}),
        "MAINSPRING_PEERS": ",".join(addresses),
        "MAINSPRING_HOSTS": ",".join(hosts),
    }


def _host(server_url: str, is_tunnelled: bool) -> str:
    """Return the address of this machine by which it reaches the server; behind a tunnel that of its way out, or of a card."""
    server = split(server_url)[1]
    if server in LOOPBACK and not is_tunnelled:
        return "127.0.0.1"  # the whole gang is on this machine
    for goal in ("192.0.2.1",) if server in LOOPBACK else (server, "192.0.2.1"):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
                asker.connect((goal, 9))  # sends nothing
                return str(asker.getsockname()[0])
        except OSError:
            continue
    return _card() or socket.gethostname()


def _card() -> str:
    """Return the address of the first network card that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for _, name in socket.if_nameindex():
            try:
                told = fcntl.ioctl(asker.fileno(), _SIOCGIFADDR, struct.pack("256s", os.fsencode(name)[:15]))
            except OSError:
                continue
            address = socket.inet_ntoa(told[20:24])
            if not address.startswith("127."):
                return address
    return ""
