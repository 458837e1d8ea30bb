"""Networks for the bridges of engines: 10.213.NUMBER.0/24, each kind of engine within numbers of its own."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterator, Sequence

HOSTS, PODMAN, DOCKER, KUBERNETES = range(1, 100), range(100, 150), range(150, 200), range(200, 250)


def free_networks(numbers: Sequence[int]) -> Iterator[tuple[int, ipaddress.IPv4Network]]:
    """Yield those that this machine has no address in: of two bridges with one network, the first gets all answers."""
    told = subprocess.run(["ip", "-json", "-4", "address"], check=True, capture_output=True, text=True).stdout
    taken = [
        ipaddress.IPv4Interface(f"{one['local']}/{one['prefixlen']}").network
        for link in json.loads(told)
        for one in link["addr_info"]
    ]
    for number in numbers:
        network = ipaddress.IPv4Network(f"10.213.{number}.0/24")
        if not any(network.overlaps(other) for other in taken):
            yield number, network


def make_bridge(kind: str, numbers: Sequence[int]) -> tuple[str, str]:
    """Make a bridge `KINDNUMBER` with a network of its own; return its name and this machine's address on it."""
    for number, network in free_networks(numbers):
        name, address = f"{kind}{number}", str(network[1])
        made = subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=False, capture_output=True)
        if made.returncode == 0:
            subprocess.run(["ip", "address", "add", f"{address}/24", "dev", name], check=True, capture_output=True)
            subprocess.run(["ip", "link", "set", name, "up"], check=True, capture_output=True)
            return name, address
    raise RuntimeError("No bridge can be made: are some left over? ip link show type bridge")
