"""Start a real Slurm for tests: munge, one controller, two nodes with four declared GPUs each, ended by pid.

All its files lie in a folder of its own; the commands (`sbatch`, `squeue`, ...) find it by the variables of `Slurm.env`.
`share_accounted` gives one that has accounts and qualities of service besides (`accounts.py`).
Slurm wants root here, as its nodes start jobs for any user: for `USER` too, who may log in at the login host. Without the
programs `find` returns None.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from engines import accounts
from engines.sharing import end, free_ports, is_alive, shared

READY_S = 60.0
NODES = ("n1", "n2")
GPUS = 4
FEATURES = {"n1": "lab,slow", "n2": "lab,fast"}
CLUSTER = "lab"
_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "sshd", "ssh-keygen", "unshare")
_GENTLY = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
_NULL = os.makedev(1, 3)
_MEMORY = Path("/sys/fs/cgroup/memory")
USER = "ml"  # somebody without any right of root's, whom the cluster knows
_NUMBER = 60004
# whoever is started so knows that user too: nobody else on this machine does
_KNOWING = 'mount --bind "$0" /etc/passwd && exec "$@"'


@dataclass(frozen=True)
class Slurm:
    """A running cluster. `pid` is the controller's; `nodes` maps a node to its daemon, `munge` is the guard of both."""

    pid: int
    folder: str
    munge: int
    nodes: dict[str, int]
    sshd: int
    port: int  # of the login host's sshd, on loopback
    accounting: list[int]  # its database and slurmdbd; empty where there is none

    @property
    def env(self) -> dict[str, str]:
        """Return the variables by which Slurm's commands find this cluster."""
        return {"SLURM_CONF": f"{self.folder}/slurm.conf"}

    @property
    def key(self) -> str:
        """Return the path of the private key that the login host takes."""
        return f"{self.folder}/login/key"

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the login host's key."""
        words = ["ssh-keygen", "-l", "-f", f"{self.folder}/login/host_key.pub"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[1]

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands and return what it prints. Raises CalledProcessError."""
        return _run(Path(self.folder), command)

    def start_node(self, name: str) -> None:
        """Start the daemon of a node again after `stop_node`."""
        self.nodes[name] = _node(Path(self.folder), name)
        _until_idle(self, READY_S)

    def stop_node(self, name: str) -> None:
        """Kill a node: its daemon and every job step on it."""
        with contextlib.suppress(OSError, ValueError):  # another process may have started it again
            self.nodes[name] = int(Path(self.folder, f"{name}.pid").read_text())
        for pid in [self.nodes[name], *_steps(Path(self.folder), name)]:
            end(pid)


def find() -> str | None:
    """Return the path of the controller, None when a program is missing."""
    found = [shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") for name in _PROGRAMS]
    return found[0] if all(found) else None


def share(folder: Path) -> AbstractContextManager[Slurm]:
    """Share the cluster of `folder` with the other users of it."""
    return shared(folder, _start, _stop, Slurm)


def share_accounted(folder: Path) -> AbstractContextManager[Slurm]:
    """Share a cluster of `folder` that takes jobs for its accounts alone, and keeps account of them."""
    return shared(folder, lambda: _start(is_accounted=True), _stop, Slurm)


def _start(*, is_accounted: bool = False) -> Slurm:
    if find() is None:
        raise RuntimeError("Slurm is not installed: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        raise RuntimeError("A Slurm for tests needs root: its nodes start jobs for any user.")
    folder = Path(tempfile.mkdtemp(prefix="mainspring-slurm-"))
    folder.chmod(0o755)
    (folder / USER).mkdir(mode=0o700)
    os.chown(folder / USER, _NUMBER, _NUMBER)
    known = Path("/etc/passwd").read_text()
    (folder / "passwd").write_text(f"{known}{USER}:*:{_NUMBER}:{_NUMBER}::{folder / USER}:/bin/sh\n")
    munge = _munge(folder)
    started: list[int] = [munge]
    accounting: list[int] = []
    try:
        if is_accounted:
            kept = accounts.start(folder)
            accounting = kept.pids
            started += accounting
            _configure(folder, accounts.lines_for(folder, kept.port))
            for words in accounts.commands(CLUSTER):
                _run(folder, words)
        else:
            kind = ["AccountingStorageType=accounting_storage/none", "JobCompType=jobcomp/filetxt"]
            _configure(folder, [*kind, f"JobCompLoc={folder}/completed.txt"])
        controller = _spawn(folder, "slurmctld", ["-D", "-i", "-f", str(folder / "slurm.conf")])
        started.append(controller)
        nodes = {}
        for name in NODES:
            nodes[name] = _node(folder, name)
            started.append(nodes[name])
        (port,) = free_ports(1)
        started.append(_login(folder, port))
        engine = Slurm(
            pid=controller,
            folder=str(folder),
            munge=munge,
            nodes=nodes,
            sshd=started[-1],
            port=port,
            accounting=accounting,
        )
        _until_idle(engine, READY_S)
    except BaseException:
        for pid in reversed(started):
            end(pid)
        _remove_groups(folder)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return engine


def _stop(engine: Slurm) -> None:
    with contextlib.suppress(subprocess.SubprocessError, OSError):
        engine.run("scancel", "--user=root", "--signal=KILL")
    for name in engine.nodes:
        engine.stop_node(name)
    end(engine.pid, _GENTLY)
    accounts.stop(engine.accounting)
    end(engine.munge, _GENTLY)
    end(engine.sshd)
    _remove_groups(Path(engine.folder))


def _munge(folder: Path) -> int:
    """Start the guard that Slurm's parts know each other by, with a key of its own."""
    place = folder / "munge"
    place.mkdir(mode=0o755)
    key = place / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    words = [f"--key-file={key}", f"--socket={place / 'socket'}", f"--pid-file={place / 'pid'}"]
    words += [f"--log-file={place / 'log'}", f"--seed-file={place / 'seed'}", "--foreground", "--force"]
    pid = _spawn(folder, "munged", words)
    deadline = time.monotonic() + READY_S
    while not _answers(place / "socket"):
        if time.monotonic() > deadline or not is_alive(pid):
            end(pid)
            raise RuntimeError("munged does not start:\n" + _tail(place / "log") + _tail(folder / "munged.log"))
        time.sleep(0.02)
    return pid


def _login(folder: Path, port: int) -> int:
    """Start the sshd of the login host: whoever has the key finds Slurm's commands set up there."""
    place = folder / "login"
    place.mkdir(mode=0o755)
    for name in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)], check=True)
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {place}/host_key",
        f"PidFile {place}/pid",
        f"AuthorizedKeysFile {place}/key.pub",
        "StrictModes no",
        "UsePAM no",
        "PermitRootLogin yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "MaxStartups 100",
        f"SetEnv SLURM_CONF={folder}/slurm.conf HOME={place}",
        f"Match User {USER}",
        f"SetEnv SLURM_CONF={folder}/slurm.conf HOME={folder / USER}",
    ]
    (place / "sshd_config").write_text("\n".join(lines) + "\n")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return _spawn(folder, "sshd", ["-D", "-e", "-f", str(place / "sshd_config")])


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as door:
        try:
            door.connect(str(path))
        except OSError:
            return False
    return True


def _configure(folder: Path, accounting: Sequence[str]) -> None:
    controller, *ports = free_ports(1 + len(NODES))
    devices = folder / "dev"
    devices.mkdir()
    for index in range(GPUS):  # a declared GPU needs a device file; any will do
        os.mknod(devices / f"gpu{index}", stat.S_IFCHR | 0o666, _NULL)
    (folder / "state").mkdir()
    (folder / "gres.conf").write_text(f"NodeName={','.join(NODES)} Name=gpu Type=h100 File={devices}/gpu[0-{GPUS - 1}]\n")
    host = socket.gethostname()
    cpus = max(2, os.cpu_count() or 2)
    lines = [
        f"ClusterName={CLUSTER}",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={controller}",
        "SlurmUser=root",
        "SlurmdUser=root",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/%n.pid",
        f"SlurmctldLogFile={folder}/slurmctld.txt",
        f"SlurmdLogFile={folder}/%n.txt",
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder}/munge/socket",
        "CryptoType=crypto/munge",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "ProctrackType=proctrack/linuxproc",
        f"TaskPlugin={_limits(folder)}",
        "MpiDefault=none",
        "GresTypes=gpu",
        "SlurmdParameters=config_overrides",
        "ReturnToService=2",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=bf_interval=1,sched_min_interval=100000,batch_sched_delay=0",
        "SlurmdTimeout=10",
        "KillWait=5",
        "MinJobAge=300",
        "JobRequeue=1",
        *accounting,
        "JobAcctGatherType=jobacct_gather/none",
        "MaxArraySize=1001",
    ]
    for name, port in zip(NODES, ports, strict=True):
        shape = f"CPUs={cpus * 4} RealMemory=8192 Gres=gpu:h100:{GPUS} Feature={FEATURES[name]} State=UNKNOWN"
        lines.append(f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} {shape}")
    lines.append(f"PartitionName=main Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO")
    lines.append(f"PartitionName=short Nodes={NODES[0]} MaxTime=10 State=UP")
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")


def _limits(folder: Path) -> str:
    """Let Slurm limit memory by control groups of version 1, below one of our own; return the plug-in for tasks."""
    if not (_MEMORY / "memory.oom_control").exists():
        return "task/none"
    group = _MEMORY / folder.name
    group.mkdir(exist_ok=True)
    place = folder / "cgroup"
    place.mkdir()
    (place / "memory").symlink_to(group)
    lines = ("CgroupPlugin=cgroup/v1", f"CgroupMountpoint={place}", "ConstrainRAMSpace=yes", "AllowedSwapSpace=0")
    (folder / "cgroup.conf").write_text("\n".join(lines) + "\n")
    return "task/cgroup"


def _remove_groups(folder: Path) -> None:
    """Remove the control groups that a Slurm left, the innermost first."""
    for group in sorted((_MEMORY / folder.name).glob("**/"), reverse=True):
        with contextlib.suppress(OSError):
            group.rmdir()


def _node(folder: Path, name: str) -> int:
    (folder / name).mkdir(exist_ok=True)
    return _spawn(folder, "slurmd", ["-D", "-N", name, "-f", str(folder / "slurm.conf")], name)


def _run(folder: Path, words: Sequence[str]) -> str:
    env = {**os.environ, "SLURM_CONF": f"{folder}/slurm.conf"}
    try:
        return subprocess.run(words, env=env, capture_output=True, text=True, check=True, timeout=90).stdout
    except subprocess.CalledProcessError as wrong:
        wrong.add_note(str(wrong.stderr))
        raise


def _spawn(folder: Path, program: str, words: Sequence[str], name: str = "") -> int:
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    assert path is not None
    knowing = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", _KNOWING, str(folder / "passwd")]
    with (folder / f"{name or program}.log").open("ab") as log:
        process = subprocess.Popen(
            [*knowing, path, *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=folder
        )
    return process.pid


def _steps(folder: Path, name: str) -> list[int]:
    """Return the shepherds of the jobs on a node, and all that they started: their spool folder is the node's own."""
    parents: dict[int, int] = {}
    roots = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            environ = (entry / "environ").read_bytes().split(b"\0")
            is_ours = f"SLURM_CONF={folder}/slurm.conf".encode() in environ
            if is_ours and f"SLURMD_NODENAME={name}".encode() in environ:
                roots.append(int(entry.name))
    shepherds = {parents[pid] for pid in roots if _is_shepherd(parents.get(pid, 0))}
    return [*shepherds, *roots]


def _is_shepherd(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip().startswith("slurmstepd")
    return False


def _until_idle(engine: Slurm, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    told = ""
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.SubprocessError):
            told = engine.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T")
            states = dict(line.split() for line in told.splitlines())
            if set(states) == set(NODES) and all(state in ("idle", "mixed", "allocated") for state in states.values()):
                return
        time.sleep(0.1)
    folder = Path(engine.folder)
    raise RuntimeError(f"Slurm's nodes are not ready: {told}\n" + "".join(_tail(path) for path in sorted(folder.glob("*.txt"))))


def _tail(path: Path) -> str:
    with contextlib.suppress(OSError):
        return f"{path.name}: {path.read_text(errors='replace')[-1000:]}\n"
    return ""
