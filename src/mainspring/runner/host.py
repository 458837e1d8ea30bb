"""What a server asks of a machine that it reaches over SSH: what there is, runners to start, to see and to end.

One JSON object a line on standard input, {id, do, ...}; one a line as the answer, {id, answer} or {id, error}. It ends with its
input; the runners that it started live on, in sessions of their own. What it tells is read from files and from /proc, so that
the next one knows as much.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import Any

from . import gpus, limits
from .folder import boot_id, is_alive, read_json, stat_of

NOT_PASSED_ON = ("SSH_", "XDG_SESSION", "MAINSPRING_")
_ADDRESS = ("server_url", "server_fingerprint", "socket")  # where the server is: it may come back elsewhere
SILENCE_S = 600  # whoever asks nothing for so long has gone, though its connection has not ended yet
DRAIN_S = 30.0  # what a runner that only tells the end has left
# The runner enters its groups before it is a runner: a limit that came later would not hold for what it started meanwhile.
_ENTER = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ >"$1/cgroup.procs"; shift; n=$((n-1)); done; exec "$@"'


class RefusedError(Exception):
    """It cannot be done here; the text says why. `kind` tells the server which of its errors that is."""

    def __init__(self, text: str, kind: str = "launch") -> None:
        super().__init__(text)
        self.kind = kind


class Host:
    """This machine for one installation of the product. `root` is the installation's folder here."""

    def __init__(self, root: str, runner: str, installation: str) -> None:
        self.root = root
        self._runner = runner
        self._installation = installation
        self._limits = limits.Limits(installation)
        self._children: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def inventory(self, _asked: dict[str, Any]) -> dict[str, Any]:
        """Return what this machine has."""
        disk = shutil.disk_usage(self.root)
        driver, devices = gpus.devices()
        return {
            "boot_id": boot_id(),
            "name": os.uname().nodename,
            "system": f"{os.uname().sysname} {os.uname().release}",
            "python": sys.version.split()[0],
            "cpus": len(os.sched_getaffinity(0)),
            "memory_bytes": _memory_bytes(),
            "disk_free": disk.free,
            "driver": driver,
            "devices": devices,
            "gpu_errors": gpus.errors() if devices else {},
            "has_limits": bool(self._limits.homes),
            "kills_leavers": _kills_leavers(),
        }

    def launch(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Start the runner of a replica unless it lives."""
        place = self._place(asked)
        with self._lock:
            if self._lives(asked):
                told = read_json(os.path.join(place, "launch.json")) or {}
                fresh = {**told, **{name: asked["launch"][name] for name in _ADDRESS if name in asked["launch"]}}
                if told and fresh != told:
                    _write_private(os.path.join(place, "launch.json"), json.dumps(fresh))
            else:
                self._start(asked, place)
        return {"folder": place}

    def look(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return which of the replicas have a living runner."""
        self._reap()
        marked: set[Any] | None = None
        states = {}
        for one in asked["replicas"]:
            seen = read_json(os.path.join(self._place(one), "runner.json"))
            lives = (seen is not None and is_alive(seen)) or (one["attempt"], one["replica"]) in self._children
            if not lives:
                if marked is None:
                    marked = {(name, number) for _, name, number, is_runner in self._marked() if is_runner}
                lives = (one["attempt"], one["replica"]) in marked
            was_elsewhen = seen is not None and seen.get("boot_id") not in ("", None, boot_id())
            states[f"{one['attempt']}.{one['replica']}"] = "running" if lives else "rebooted" if was_elsewhen else "gone"
        return {"states": states}

    def stop(self, asked: dict[str, Any]) -> dict[str, Any]:
        """SIGTERM the runner, which passes it on; kill what is left where there is none. Say whether there was one."""
        runners = self._runners(asked)
        for pid in runners:
            limits.send(pid, signal.SIGTERM)
        if not runners:
            self.kill({**asked, "is_last": True})
        return {"is_asked": bool(runners)}

    def kill(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Kill every process of the replica; return the seconds that a runner that is only telling the end still has."""
        place = self._place(asked)
        is_telling = not asked.get("is_last") and os.path.exists(os.path.join(place, "ended.json"))
        spared = set(self._runners(asked)) if is_telling else set()
        started = read_json(os.path.join(place, "started"))
        found = limits.members(self._groups(place)) | set(self._pids(asked))
        for pid in found - spared:
            limits.send(pid)
        if started is not None and is_alive(started):
            try:
                os.killpg(int(started.get("pgid") or started["pid"]), signal.SIGKILL)
            except (ProcessLookupError, PermissionError, ValueError):
                pass
        return {"left_s": DRAIN_S if spared else 0.0}

    def owned(self, _asked: dict[str, Any]) -> dict[str, Any]:
        """Return each replica of this installation of which a process lives."""
        return {"replicas": sorted({(attempt, replica) for _, attempt, replica, _ in self._marked()})}

    def native(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return the process, its command line, groups and folder."""
        place = self._place(asked)
        seen = read_json(os.path.join(place, "runner.json")) or {}
        words = b""
        try:
            with open(f"/proc/{int(seen.get('pid', 0))}/cmdline", "rb") as file:
                words = file.read()
        except OSError:
            pass
        return {
            "pid": seen.get("pid"),
            "command": [word.decode("utf-8", "replace") for word in words.split(b"\0") if word],
            "cgroups": self._groups(place),
            "folder": place,
            "host": os.uname().nodename,
            "output": _tail(os.path.join(place, "runner.log")),
        }

    def exit(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return what the runner wrote before it ended."""
        return {"exit": read_json(os.path.join(self._place(asked), "exit.json"))}

    def forget(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Remove the replica's folder and groups."""
        self._reap()
        place = self._place(asked)
        limits.remove(self._groups(place))
        shutil.rmtree(place, ignore_errors=True)
        return {}

    def socket(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return a path where this machine's end of a tunnel can be; with `is_open`, lead everybody there from now on."""
        path = os.path.join(_short(self.root), f"tunnel-{asked['number']}")
        link = os.path.join(self.root, "server")
        if asked.get("is_open"):
            for name in os.listdir(os.path.dirname(path)):
                if name.startswith("tunnel-") and name != os.path.basename(path):
                    os.unlink(os.path.join(os.path.dirname(path), name))
            draft = f"{link}.{os.getpid()}"
            os.symlink(path, draft)
            os.rename(draft, link)
        elif os.path.lexists(path):
            os.unlink(path)
        return {"path": path, "link": link}

    def _start(self, asked: dict[str, Any], place: str) -> None:
        free = shutil.disk_usage(self.root).free
        if free < asked["min_free_bytes"]:
            raise RefusedError(f"Only {free >> 20} MiB are free on its disk at {self.root}.", "capacity")
        name = os.path.basename(place)
        groups = self._limits.make(name, asked["cpu_milli"], asked["memory_bytes"])
        try:
            cache = os.path.join(self.root, "cache")
            for folder in (place, cache):
                os.makedirs(folder, mode=0o700, exist_ok=True)
            _write_private(os.path.join(place, "token"), asked["token"])
            record = {**asked["launch"], "cache_dir": cache, "cgroup": groups[0] if groups else "", "cgroups": groups}
            record["host"] = (os.environ.get("SSH_CONNECTION", "").split() + [""] * 3)[2]  # where others reach this machine
            _write_private(os.path.join(place, "launch.json"), json.dumps(record))
            words = [sys.executable, "-S", "-E", self._runner, place]
            if groups:
                words = ["/bin/sh", "-c", _ENTER, "sh", str(len(groups)), *groups, *words]
            log = os.open(os.path.join(place, "runner.log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._children[asked["attempt"], int(asked["replica"])] = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=place,
                    env=self._env(asked),
                    start_new_session=True,
                )
            finally:
                os.close(log)
        except OSError as wrong:
            limits.remove(groups)
            raise RefusedError(f"The runner cannot be started in {place}: {wrong.strerror or wrong}.") from wrong

    def _env(self, asked: dict[str, Any]) -> dict[str, str]:
        """Return what `ssh HOST COMMAND` would give a command, and the marks by which it is found."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED_ON)}
        return {
            **kept,
            "MAINSPRING_INSTALLATION": self._installation,
            "MAINSPRING_ATTEMPT": asked["attempt"],
            "MAINSPRING_REPLICA": str(asked["replica"]),
        }

    def _place(self, asked: dict[str, Any]) -> str:
        name = f"{asked['attempt']}.{int(asked['replica'])}"
        if "/" in name or name.startswith("."):
            raise RefusedError(f"{name!r} cannot name a folder.")
        return os.path.join(self.root, "attempts", name)

    def _groups(self, place: str) -> list[str]:
        told = (read_json(os.path.join(place, "launch.json")) or {}).get("cgroups")
        return [str(one) for one in told] if isinstance(told, list) else []

    def _lives(self, asked: dict[str, Any]) -> bool:
        return bool(self._runners(asked))

    def _runners(self, asked: dict[str, Any]) -> list[int]:
        """Return the runner of the replica: the recorded process, or one that has only just been started."""
        self._reap()
        seen = read_json(os.path.join(self._place(asked), "runner.json"))
        if seen is not None and is_alive(seen):
            return [int(seen["pid"])]
        child = self._children.get((asked["attempt"], int(asked["replica"])))
        if child is not None:
            return [child.pid]  # one that is just becoming a runner shows no marks for a moment
        return self._pids(asked, is_runner=True)

    def _pids(self, asked: dict[str, Any], is_runner: bool = False) -> list[int]:
        wanted = (asked["attempt"], int(asked["replica"]))
        return [pid for pid, name, number, own in self._marked() if (name, number) == wanted and (own or not is_runner)]

    def _marked(self) -> list[tuple[int, str, int, bool]]:
        """Return (pid, attempt, replica, whether it is a runner) of each living process with the installation's mark.

        User code has a spool in its environment, its runner has none.
        """
        mark = f"MAINSPRING_INSTALLATION={self._installation}".encode()
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            fields = stat_of(int(name)) if mark in words else None
            if fields is None or fields[0] in "ZX":
                continue
            env = dict(word.decode("utf-8", "replace").partition("=")[::2] for word in words if word.startswith(b"MAINSPRING_"))
            attempt, replica = env.get("MAINSPRING_ATTEMPT", ""), env.get("MAINSPRING_REPLICA", "")
            if attempt and replica.isdecimal():
                found.append((int(name), attempt, int(replica), "MAINSPRING_SPOOL" not in env))
        return found

    def _reap(self) -> None:
        for key, child in list(self._children.items()):
            if child.poll() is not None:
                self._children.pop(key, None)


VERBS = {
    "inventory": Host.inventory,
    "launch": Host.launch,
    "look": Host.look,
    "stop": Host.stop,
    "kill": Host.kill,
    "owned": Host.owned,
    "native": Host.native,
    "exit": Host.exit,
    "forget": Host.forget,
    "socket": Host.socket,
}


def main(head: dict[str, Any]) -> int:
    """Answer until the input ends. Each question has a thread: one that takes long holds up no other."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.makedirs(head["root"], mode=0o700, exist_ok=True)
    host = Host(head["root"], head["runner"], head["installation"])
    lock = threading.Lock()

    def work(asked: dict[str, Any]) -> None:
        told = _answer(host, asked)
        with lock:
            out.write(json.dumps(told).encode() + b"\n")
            out.flush()

    signal.alarm(SILENCE_S)
    for line in sys.stdin.buffer:
        signal.alarm(SILENCE_S)
        threading.Thread(target=work, args=(json.loads(line),), daemon=True).start()
    return 0


def _answer(host: Host, asked: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"id": asked["id"], "answer": VERBS[asked["do"]](host, asked)}
    except RefusedError as refused:
        return {"id": asked["id"], "error": str(refused), "kind": refused.kind}
    except Exception as wrong:  # the thread's top: whoever asked is told
        return {"id": asked["id"], "error": f"{type(wrong).__name__}: {wrong}", "kind": "launch"}


def _memory_bytes() -> int:
    try:
        with open("/proc/meminfo") as file:
            return int(file.read().split("MemTotal:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return 0


def _kills_leavers() -> bool:
    """Say whether this machine ends what people leave running when they log out."""
    try:
        with open("/etc/systemd/logind.conf") as file:
            words = [line.strip().replace(" ", "").casefold() for line in file]
    except OSError:
        return False
    return "killuserprocesses=yes" in words or "killuserprocesses=1" in words or "killuserprocesses=true" in words


def _short(root: str) -> str:
    """Return a folder, private to this user, whose sockets have names that are short enough for the kernel."""
    if len(root) < 80:
        return root
    import hashlib  # long roots only

    path = f"/tmp/mainspring-{os.getuid()}-{hashlib.sha256(root.encode()).hexdigest()[:16]}"  # noqa: S108
    os.makedirs(path, mode=0o700, exist_ok=True)
    told = os.lstat(path)
    if told.st_uid != os.getuid() or told.st_mode & 0o777 != 0o700:
        raise RefusedError(f"{path} belongs to somebody else.")
    return path


def _tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read()[-2000:].decode("utf-8", "replace")
    except OSError:
        return ""


def _write_private(path: str, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    draft = f"{path}.{os.getpid()}.{threading.get_ident()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(draft, path)
