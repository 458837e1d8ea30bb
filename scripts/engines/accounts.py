"""Accounting for a Slurm of tests: a MariaDB and a slurmdbd beside it, in the folder of the cluster, ended by pid.

Two accounts are in it (`ACCOUNTS`), both root's, and a quality of service (`QOS`) that runs one job of a user at a time.
Debian's mariadb-server-core is enough: the database is made for this cluster alone, and its password with it.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.sharing import end, free_ports, is_alive

READY_S = 60.0
ACCOUNTS = ("physics", "biology")
QOS = "single"
_PROGRAMS = ("mariadbd", "mariadb-install-db", "slurmdbd", "sacctmgr")
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Accounting:
    """What was started, in this order, and the port of slurmdbd on loopback."""

    pids: list[int]
    port: int


def find() -> bool:
    """Say whether all programs are here."""
    return all(shutil.which(name, path=_PATH) for name in _PROGRAMS)


def start(folder: Path) -> Accounting:
    """Start both for the cluster of `folder`, whose munge is up. Raises RuntimeError."""
    place = folder / "accounting"
    place.mkdir(mode=0o755)
    password = secrets.token_hex(16)
    _make_database(place, password)
    database, port = free_ports(2)
    pids = [_database(place, database)]
    try:
        _until_open(database, pids[0], place / "mariadbd.log")
        pids.append(_daemon(folder, place, database, port, password))
        _until_open(port, pids[1], place / "slurmdbd.txt")
    except BaseException:
        stop(pids)
        raise
    return Accounting(pids=pids, port=port)


def stop(pids: Sequence[int]) -> None:
    """End both, the last one first. What they wrote goes with the folder."""
    for pid in reversed(pids):
        end(pid)


def lines_for(folder: Path, port: int) -> list[str]:
    """Return the lines of slurm.conf: jobs are taken for known accounts alone, within their limits."""
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={port}",
        f"AccountingStoragePass={folder}/munge/socket",
        "AccountingStorageEnforce=associations,limits,qos",
        "JobCompType=jobcomp/none",
    ]


def commands(cluster: str) -> list[list[str]]:
    """Return the calls of sacctmgr that make the accounts; slurmctld is to be started after them."""
    made = [["add", "cluster", cluster], ["add", "qos", QOS], ["modify", "qos", QOS, "set", "MaxJobsPerUser=1"]]
    for account in ACCOUNTS:
        made.append(["add", "account", account, f"cluster={cluster}"])
        made.append(["add", "user", "root", f"account={account}", f"cluster={cluster}"])
    made.append(["modify", "user", "root", "set", f"qos=normal,{QOS}", f"DefaultAccount={ACCOUNTS[0]}"])
    return [["sacctmgr", "--immediate", "--quiet", *words] for words in made]


def _make_database(place: Path, password: str) -> None:
    words = [
        "--no-defaults",
        f"--datadir={place}/data",
        "--auth-root-authentication-method=socket",
        "--skip-test-db",
        "--user=root",
    ]
    command = [_program("mariadb-install-db"), *words]
    made = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place, timeout=READY_S)
    if made.returncode != 0:
        raise RuntimeError(f"mariadb-install-db: {made.stdout[-1000:]}{made.stderr[-1000:]}")
    first = place / "first.sql"
    first.touch(mode=0o600)
    first.write_text(
        f"CREATE USER slurm@'127.0.0.1' IDENTIFIED BY '{password}';\nGRANT ALL ON accounts.* TO slurm@'127.0.0.1';\n"
    )


def _database(place: Path, port: int) -> int:
    words = ["--no-defaults", f"--datadir={place}/data", f"--socket={place}/socket", f"--port={port}", "--bind-address=127.0.0.1"]
    words += ["--user=root", f"--pid-file={place}/mariadbd.pid", f"--init-file={place}/first.sql", "--skip-name-resolve"]
    words += ["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M", "--performance-schema=OFF"]
    return _spawn(place, "mariadbd", words)


def _daemon(folder: Path, place: Path, database: int, port: int, password: str) -> int:
    config = folder / "slurmdbd.conf"
    config.touch(mode=0o600)
    lines = [
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder}/munge/socket",
        "DbdHost=localhost",
        "DbdAddr=127.0.0.1",
        f"DbdPort={port}",
        "SlurmUser=root",
        "StorageType=accounting_storage/mysql",
        "StorageHost=127.0.0.1",
        f"StoragePort={database}",
        "StorageUser=slurm",
        f"StoragePass={password}",
        "StorageLoc=accounts",
        f"LogFile={place}/slurmdbd.txt",
        f"PidFile={place}/slurmdbd.pid",
    ]
    config.write_text("\n".join(lines) + "\n")
    return _spawn(place, "slurmdbd", ["-D"], SLURM_CONF=str(folder / "slurm.conf"))


def _program(name: str) -> str:
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise RuntimeError(f"{name} is not installed: apt-get install mariadb-server-core mariadb-client-core slurmdbd")
    return path


def _spawn(place: Path, name: str, words: Sequence[str], **env: str) -> int:
    with (place / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [_program(name), *words],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=place,
            env={"PATH": _PATH, **env},
        )
    return process.pid


def _until_open(port: int, pid: int, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            if time.monotonic() > deadline or not is_alive(pid):
                told = log.read_text(errors="replace")[-2000:] if log.exists() else "it wrote nothing"
                raise RuntimeError(f"{log.stem} does not start:\n{told}") from None
            time.sleep(0.05)
        else:
            if is_alive(pid):  # else somebody else's
                return
            raise RuntimeError(f"{log.stem} did not get its port {port}.")
