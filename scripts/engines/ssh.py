"""Start real hosts for tests: network namespaces on a bridge, each with its own sshd, pids, host name and boot id.

They share this machine's files; each has a home folder of its own, and users besides: ann, bob and dan, and ml, who may log in as
root may, and be ann or bob by sudo. A host is ended with all that runs on it by ending its sshd, which is its process 1. It needs
root. Without the programs `find` returns None.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from engines.networks import HOSTS, free_networks
from engines.sharing import end, is_alive, shared

READY_S = 60.0
COUNT = 3
PEOPLE = {"ann": 60001, "bob": 60002, "dan": 60003, "ml": 60004}
SUDOERS = "Defaults !fqdn\nml ALL=(ann,bob) NOPASSWD: ALL\n"
_PROGRAMS = ("sshd", "ssh", "ssh-keygen", "ip", "unshare", "nsenter", "sudo")
_START = """
set -e
hostname "$1"
mount --bind "$2/boot_id" /proc/sys/kernel/random/boot_id
mount --bind "$2/passwd" /etc/passwd
mount --bind "$2/sudoers" /etc/sudoers
exec "$3" -D -e -f "$2/sshd_config"
"""


@dataclass(frozen=True)
class Hosts:
    """Running hosts; `addresses` maps a name to its address. `pid` is of a process that lives as long as they are wanted."""

    pid: int
    folder: str
    bridge: str
    addresses: dict[str, str]

    @property
    def key(self) -> str:
        """Return the path of the private key that every host takes."""
        return f"{self.folder}/key"

    def fingerprint(self, name: str) -> str:
        """Return the fingerprint of a host's key."""
        told = _run("ssh-keygen", "-l", "-f", f"{self.folder}/{name}/host_key.pub")
        return told.split()[1]

    def cut(self, name: str) -> None:
        """Take the link of a host down: nothing is refused, nothing is answered."""
        _run("ip", "link", "set", self._link(name), "down")

    def heal(self, name: str) -> None:
        """Bring the link up again."""
        _run("ip", "link", "set", self._link(name), "up")

    def delay(self, name: str, ms: int) -> None:
        """Let each packet to a host wait; 0: no longer."""
        verb = (
            ["replace", "dev", self._link(name), "root", "netem", "delay", f"{ms}ms"]
            if ms
            else ["del", "dev", self._link(name), "root"]
        )
        _run("tc", "qdisc", *verb)

    def stop(self, name: str) -> None:
        """Switch a host off: everything on it dies at once."""
        with contextlib.suppress(OSError, ValueError):
            end(int((Path(self.folder) / name / "first").read_text()))

    def start(self, name: str) -> None:
        """Switch a host on after `stop`: another boot, the same files."""
        pid = _sshd(Path(self.folder), name, self.addresses[name])
        (Path(self.folder) / name / "first").write_text(str(pid))

    def change_key(self, name: str) -> None:
        """Give a host another key, as one that is installed anew has; its sshd shows it to whoever connects next."""
        _host_key(Path(self.folder) / name)

    def _link(self, name: str) -> str:
        return f"{self.bridge}{name[2:]}"


def find() -> str | None:
    """Return the path of sshd, None when a program is missing."""
    found = [shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") for name in _PROGRAMS]
    return found[0] if all(found) and os.geteuid() == 0 else None


def share(folder: Path) -> AbstractContextManager[Hosts]:
    """Share the hosts of `folder` with the other users of them."""
    return shared(folder, start, stop, Hosts)


def start(count: int = COUNT) -> Hosts:
    """Start `count` hosts named bm1, bm2, ... Raises RuntimeError."""
    if find() is None:
        raise RuntimeError("Hosts for tests need root and: apt-get install openssh-server openssh-client iproute2 sudo")
    folder = Path(tempfile.mkdtemp(prefix="mainspring-ssh-"))
    folder.chmod(0o755)
    keeper = subprocess.Popen(["sleep", "infinity"], stdin=subprocess.DEVNULL, start_new_session=True)
    number = _bridge()
    bridge = f"ms{number}x"
    engine = Hosts(
        pid=keeper.pid,
        folder=str(folder),
        bridge=bridge,
        addresses={f"bm{n}": f"10.213.{number}.{n + 1}" for n in range(1, count + 1)},
    )
    try:
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", engine.key)
        _run("ip", "addr", "add", f"10.213.{number}.1/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        for name, address in engine.addresses.items():
            _net(engine, name, address)
            _prepare(folder, name)
            engine.start(name)
    except BaseException:
        stop(engine)
        raise
    return engine


def stop(engine: Hosts) -> None:
    """End the hosts and what runs on them; remove the bridge."""
    for name in engine.addresses:
        engine.stop(name)
        with contextlib.suppress(subprocess.CalledProcessError):
            _run("ip", "netns", "del", f"{engine.bridge}-{name}")
    with contextlib.suppress(subprocess.CalledProcessError):
        _run("ip", "link", "del", engine.bridge)
    end(engine.pid)
    shutil.rmtree(engine.folder, ignore_errors=True)


def _net(engine: Hosts, name: str, address: str) -> None:
    space, outer, inner = f"{engine.bridge}-{name}", f"{engine.bridge}{name[2:]}", f"i{engine.bridge}{name[2:]}"
    _run("ip", "netns", "add", space)
    _run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
    _run("ip", "link", "set", outer, "master", engine.bridge, "up")
    _run("ip", "link", "set", inner, "netns", space)
    for words in (["addr", "add", f"{address}/24", "dev", inner], ["link", "set", inner, "up"], ["link", "set", "lo", "up"]):
        _run("ip", "-n", space, *words)


def _prepare(folder: Path, name: str) -> None:
    place = folder / name
    (place / "home").mkdir(parents=True)
    lines = [Path("/etc/passwd").read_text()]
    for user, number in PEOPLE.items():
        (place / user).mkdir(mode=0o700)
        os.chown(place / user, number, number)
        lines.append(f"{user}:*:{number}:{number}::{place / user}:/bin/sh\n")
    (place / "passwd").write_text("".join(lines))
    (place / "sudoers").write_text(SUDOERS)
    (place / "sudoers").chmod(0o440)
    _host_key(place)
    lines = [
        "Port 22",
        f"HostKey {place}/host_key",
        f"PidFile {place}/pid",
        f"AuthorizedKeysFile {folder}/key.pub",
        "StrictModes no",
        "UsePAM no",
        "PermitRootLogin yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "MaxSessions 100",
        "MaxStartups 100",
        "UseDNS no",
        "Match User root",
        f"SetEnv HOME={place}/home",
    ]
    (place / "sshd_config").write_text("\n".join(lines) + "\n")


def _host_key(place: Path) -> None:
    for path in (place / "host_key", place / "host_key.pub"):
        path.unlink(missing_ok=True)
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / "host_key"))


def _sshd(folder: Path, name: str, address: str) -> int:
    """Start a host's sshd as process 1 of its own pids; return its pid as it is seen from here."""
    place = folder / name
    (place / "boot_id").write_text(f"{uuid.uuid4()}\n")
    (place / "pid").unlink(missing_ok=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    space = next(path for path in Path("/run/netns").iterdir() if path.name == f"{_bridge_of(address)}-{name}")
    sshd = find()
    assert sshd is not None
    words = ["nsenter", f"--net={space}", "unshare", "--pid", "--fork", "--mount", "--mount-proc", "--uts"]
    with (place / "sshd.log").open("ab") as log:
        parent = subprocess.Popen(
            [*words, "sh", "-c", _START, "sh", name, str(place), sshd],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and is_alive(parent.pid):
        with contextlib.suppress(OSError), socket.create_connection((address, 22), timeout=1.0) as door:
            if door.recv(4) == b"SSH-":
                return _child(parent.pid)
        time.sleep(0.02)
    raise RuntimeError(f"sshd of {name} does not start: {(place / 'sshd.log').read_text()[-1000:]}")


def _child(pid: int) -> int:
    """Return the one child of a process (nsenter has become unshare)."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _bridge_of(address: str) -> str:
    return f"ms{address.split('.')[2]}x"


def _bridge() -> int:
    """Make a bridge whose number is that of a network which this machine has not; others may be doing so now."""
    for number, _ in free_networks(HOSTS):
        words = _words(("ip", "link", "add", f"ms{number}x", "type", "bridge"))
        if subprocess.run(words, check=False, capture_output=True, timeout=90).returncode == 0:
            return number
    raise RuntimeError("No bridge can be made: are some left over? ip link show type bridge")


def _run(*command: str) -> str:
    return subprocess.run(_words(command), capture_output=True, text=True, check=True, timeout=90).stdout


def _words(command: Sequence[str]) -> list[str]:
    path = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return [path or command[0], *command[1:]]
