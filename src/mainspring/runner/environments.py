"""Environments of this node: one for each lock, Python and platform; built once, shared by runs, kept until room is needed.

    KEY/        the environment, read-only once it is whole
    KEY.json    that it is whole, and what it is: written last, by rename. Without it KEY/ is a ruin, and is built anew
    KEY.lock    flock: exclusive while it is built or removed, shared while a run uses it; its time is that of the last use
    tools/      uv, if it had to be got, and its cache; `tools.lock` is held by whoever builds
    removed     keys of what was removed lately: the run that did it may have ended before it could tell, so the next ones do

A build goes on in the tools that a killed runner started: they hold the lock too, and nobody else begins meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

from . import setup
from .cache import is_short
from .folder import Folder, append, boot_id, reach, read_json
from .installers import NotBuiltError, Shell, StoppedError, build_env, describe, fill, find_uv, remove

_WAIT_S = 0.1
_PATIENCE_S = 1.0  # others only look, and are done sooner
_SHOWN = 12  # characters of a key, as people see it
_TOLD_S = 7 * 86400.0  # for so long it is told what was removed


def furnish(
    folder: Folder,
    spec: dict[str, Any],
    cache: str,
    env: dict[str, str],
    wheels: Callable[[], str | None],
    is_stopped: Callable[[], bool],
) -> Held | None:
    """Return the environment of the run's lock, which is in its folder already; None when a stop came before it was ready.

    `wheels` brings a folder that is asked before any index (empty: none, None: stopped); it is called only if something is to
    be built. Raises CannotStartError where the lock is at fault, NotReadyError where the node is, OSError, and as `wheels`.
    """
    is_kept = not cache.startswith(folder.root)  # else it ends with the attempt, as its pod does
    there = Environments(os.path.join(cache, "environments"), folder.say, folder.event, is_stopped, is_kept)
    try:
        return there.take(folder.at("lock.txt"), wheels, spec, env, folder.spool)
    except NotBuiltError as wrong:
        if wrong.is_users:
            raise setup.CannotStartError(f"The environment cannot be built. {wrong}", 1) from wrong
        raise setup.NotReadyError(f"The environment cannot be built on this node. {wrong}") from wrong


class Environments:
    """What is below one folder of the node. `say(sentence)` goes to the run's log, `event(kind, **facts)` to the server."""

    def __init__(
        self,
        root: str,
        say: Callable[[str], None],
        event: Callable[..., None],
        is_stopped: Callable[[], bool],
        is_kept: bool = True,
    ) -> None:
        self.root = root
        self._is_kept = is_kept
        self._say = say
        self._event = event
        self._is_stopped = is_stopped
        os.makedirs(root, mode=0o700, exist_ok=True)

    def take(
        self, lock: str, wheels: Callable[[], str | None], spec: dict[str, Any], env: dict[str, str], spool: str
    ) -> Held | None:
        """Return the environment of the file `lock`, built if need be; see `furnish`. Raises NotBuiltError, CannotStartError."""
        begun = time.monotonic()
        digest = str(spec["environment"]["lock"])
        tools_env, secrets = build_env(env, spool)
        shell = Shell(tools_env, secrets, self._say, self._is_stopped)
        try:
            python, told = self._python(spec, env, shell)
            facts = {"lock": digest, **told}
            key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
            is_told = False
            while not self._is_stopped():
                held = self._hold(key, fcntl.LOCK_SH)
                if held is not None and self._whole(key) is not None:
                    os.utime(held)
                    found = Held(os.path.join(self.root, key), key, facts, held)
                    self._tell("environment_used", found, time.monotonic() - begun)
                    return found
                if held is not None:
                    os.close(held)
                held = self._hold(key, fcntl.LOCK_EX)
                if held is None:
                    if not is_told and time.monotonic() - begun > _PATIENCE_S:
                        is_told = True
                        self._say(f"Environment {key[:_SHOWN]} is being built by another run; this one waits for it.")
                    time.sleep(_WAIT_S)
                    continue
                try:
                    if self._whole(key) is None:
                        shell.locks = [held]
                        self._build(key, facts, shell, python, lock, wheels)
                finally:
                    os.close(held)
        except StoppedError:
            pass
        return None

    def make_room(self, limit_bytes: int, unwanted: tuple[str, ...] = ()) -> list[str]:
        """Remove what was used least lately until the rest takes `limit_bytes` at most, and the disk has some room.

        `unwanted` go first, whatever the limit. Never one in use. Return the keys of those that are gone.
        """
        for ruin in self._ruins():
            self._remove(ruin)
        gone: list[str] = []
        kept = sorted(self.all(), key=lambda one: (one["key"] not in unwanted, one["used_at"]))
        is_lone = True
        for one in kept:
            sizes = [int(each["size_bytes"]) for each in kept if each["key"] not in gone]
            is_too_much = sum(sizes) + (_lone_bytes(self._tools()) if is_lone else 0) > limit_bytes or is_short(self.root)
            if is_too_much and is_lone:
                is_lone = False
                self._drop_tools()
                is_too_much = sum(sizes) > limit_bytes or is_short(self.root)
            if (one["key"] in unwanted or is_too_much) and self._remove(str(one["key"])):
                gone.append(str(one["key"]))
        # some went before, and nobody could tell; of what never was in this cache nothing is said: it may be in another one here
        for key in sorted({*gone, *(one for one in self._removed() if one in unwanted)}):
            self._event("environment_removed", key=key)
        return gone

    def all(self) -> list[dict[str, Any]]:
        """Return what is whole here: key, lock, version, size_bytes, used_at, …"""
        found = []
        for name in os.listdir(self.root):
            key, point, ending = name.rpartition(".")
            told = read_json(os.path.join(self.root, name)) if point and ending == "json" else None
            if told is not None and told.get("key") == key:
                found.append({**told, "used_at": _time_of(os.path.join(self.root, key + ".lock"))})
        return found

    def _python(self, spec: dict[str, Any], env: dict[str, str], shell: Shell) -> tuple[str, dict[str, Any]]:
        """Return the interpreter of the version that was asked for, and what it is; uv brings one where there is none."""
        named = str((spec.get("environment") or {}).get("interpreter") or "")
        is_version = named[:1].isdigit()
        for python in setup.interpreters(spec, env):
            told = describe(python, shell)
            if not is_version or f"{told['version']}.".startswith(named + "."):
                return python, told
        uv = find_uv(shell, self._tools()) if is_version else ""
        if uv:
            found, text = shell.run([uv, "python", "find", "--no-project", named], is_told=False)
            if found != 0:
                self._say(f"This node has no Python {named}: uv is asked for one.")
                shell.run([uv, "python", "install", "--no-bin", named])
                found, text = shell.run([uv, "python", "find", "--no-project", named], is_told=False)
            if found == 0:
                python = text.strip().splitlines()[-1]
                return python, describe(python, shell)
        what = f"Python {named}" if named else "python3"
        sentence = f"There is no {what} on this node" + (", and its uv could not get one." if uv else ", and no uv to get one.")
        raise setup.CannotStartError(f"{sentence} Install it there, or ask for one that is there: --python 3.11.", 127)

    def _build(
        self, key: str, facts: dict[str, Any], shell: Shell, python: str, lock: str, bring: Callable[[], str | None]
    ) -> None:
        place = os.path.join(self.root, key)
        wheels = bring()
        if wheels is None:
            raise StoppedError
        self._say(f"Environment {key[:_SHOWN]} of Python {facts['version']} is built on this node; its next run finds it ready.")
        begun = time.monotonic()
        try:
            try:
                tool = self._fill(place, shell, python, lock, wheels)
            except (NotBuiltError, OSError) as wrong:
                is_full = wrong.is_full if isinstance(wrong, NotBuiltError) else wrong.errno == errno.ENOSPC
                if not is_full:
                    raise
                self.make_room(0)
                self._say("The disk is full: environments that nothing uses were removed, and it is tried once more.")
                tool = self._fill(place, shell, python, lock, wheels)
            reach("in-environment")
            size, files = _seal(place)
            told = {**facts, "key": key, "size_bytes": size, "files": files, "boot_id": boot_id(), "built_at": time.time()}
            self._write(key, {**told, "tool": tool, "stamp": _stamp(place)})
        except BaseException:
            remove(place)
            raise
        self._say(f"Environment {key[:_SHOWN]} is ready: {size / 1e6:,.0f} MB, after {time.monotonic() - begun:.1f} s.")

    def _fill(self, place: str, shell: Shell, python: str, lock: str, wheels: str) -> str:
        using = self._hold("tools", fcntl.LOCK_SH, is_patient=True)
        mine = list(shell.locks)
        try:
            remove(place)
            shell.locks = [*mine, *([using] if using is not None else [])]
            return os.path.basename(fill(shell, place, python, lock, wheels, self._tools()))
        finally:
            shell.locks = mine
            if using is not None:
                os.close(using)

    def _whole(self, key: str) -> dict[str, Any] | None:
        """Return what is told of an environment that is whole and as it was built; None for every other.

        After a restart of the machine it is counted once more: what was not on the disk by then is missing, or short.
        """
        told = read_json(os.path.join(self.root, key + ".json"))
        place = os.path.join(self.root, key)
        if told is None or told.get("key") != key or not os.access(os.path.join(place, "bin", "python"), os.X_OK):
            return None
        if told.get("stamp") != _stamp(place):
            return None  # somebody has installed into it
        if told.get("boot_id") != boot_id():
            if _measure(place) != (told.get("size_bytes"), told.get("files")):
                return None
            self._write(key, {**told, "boot_id": boot_id()})
        return told

    def _write(self, key: str, told: dict[str, Any]) -> None:
        draft = os.path.join(self.root, f"{key}.json.{os.getpid()}")
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(told, file)
        os.rename(draft, os.path.join(self.root, key + ".json"))

    def _hold(self, key: str, how: int, is_patient: bool = False) -> int | None:
        """Return a descriptor that holds KEY.lock; None while another holds it otherwise. Where there are no locks, all do."""
        path = os.path.join(self.root, key + ".lock")
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, how if is_patient else how | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except OSError:
                return descriptor  # a file system without locks: what is taken for whole still is
            try:
                if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
            except FileNotFoundError:
                pass
            os.close(descriptor)  # it was removed meanwhile: another file has its name, or will

    def _remove(self, key: str) -> bool:
        """Remove an environment, or a ruin, unless somebody holds it."""
        held = self._hold(key, fcntl.LOCK_EX)
        if held is None:
            return False
        try:
            self._note(key)
            for ending in (".json", ""):
                path = os.path.join(self.root, key + ending)
                if ending and os.path.exists(path):
                    os.unlink(path)
                elif not ending:
                    remove(path)
            os.unlink(os.path.join(self.root, key + ".lock"))
        except OSError:
            return False
        finally:
            os.close(held)
        return True

    def _drop_tools(self) -> None:
        held = self._hold("tools", fcntl.LOCK_EX)
        if held is not None:
            try:
                remove(self._tools())
            except OSError:
                pass  # the next one tries again
            finally:
                os.close(held)

    def _tools(self) -> str:
        return os.path.join(self.root, "tools")

    def _ruins(self) -> list[str]:
        """Return what a killed build left, by key."""
        names = set(os.listdir(self.root))
        return sorted(one for one in names if len(one) == 32 and one + ".json" not in names)

    def _note(self, key: str) -> None:
        """Write down that something goes, before it does: this process may end in the middle of it."""
        append(os.path.join(self.root, "removed"), (json.dumps({"key": key, "at": time.time()}) + "\n").encode())

    def _removed(self) -> list[str]:
        """Return the keys of what was removed lately and is not here again; forget the older ones."""
        path = os.path.join(self.root, "removed")
        try:
            with open(path, encoding="utf-8") as file:
                told = [json.loads(line) for line in file if line.strip()]
            fresh = sorted({str(one["key"]) for one in told if time.time() - float(one["at"]) < _TOLD_S})
            if told and not fresh:
                os.unlink(path)
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError):  # a disk was full, and it is no record but a help
            os.unlink(path)
            return []
        return [key for key in fresh if not os.path.exists(os.path.join(self.root, key + ".json"))]

    def _tell(self, kind: str, found: Held, took_s: float) -> None:
        for key in self._removed():
            self._event("environment_removed", key=key)
        told = read_json(found.place + ".json") or {}
        names = ("key", "lock", "version", "platform", "size_bytes", "built_at", "tool")
        self._event(kind, took_s=round(took_s, 3), is_kept=self._is_kept, **{name: told.get(name) for name in names})


class Held:
    """An environment that nobody removes while this process lives. `place` is its folder."""

    def __init__(self, place: str, key: str, facts: dict[str, Any], descriptor: int) -> None:
        self.place = place
        self.key = key
        self.facts = facts
        self._descriptor = descriptor

    def enter(self, env: dict[str, str]) -> str:
        """Make `env` that of the environment; return its interpreter."""
        folder = os.path.join(self.place, "bin")
        env["VIRTUAL_ENV"] = self.place
        env["PATH"] = os.pathsep.join([folder, env.get("PATH") or os.defpath])
        env.pop("PYTHONHOME", None)
        return os.path.join(folder, "python")


def _seal(place: str) -> tuple[int, int]:
    """Make all of it read-only; return (bytes, files)."""
    for parent, _, names in os.walk(place, topdown=False):
        for name in names:
            path = os.path.join(parent, name)
            if not os.path.islink(path):
                os.chmod(path, os.stat(path).st_mode & 0o555)
        os.chmod(parent, 0o555)  # noqa: S103  (read by all, written by none)
    return _measure(place)


def _measure(place: str) -> tuple[int, int]:
    size = count = 0
    for parent, _, names in os.walk(place):
        for name in names:
            size += os.lstat(os.path.join(parent, name)).st_size
            count += 1
    return size, count


def _stamp(place: str) -> list[int]:
    """Return when something was last installed: the times of the folders that packages and programs are in."""
    folders = [os.path.join(place, "bin")]
    library = os.path.join(place, "lib")
    try:
        folders += [os.path.join(library, name, "site-packages") for name in sorted(os.listdir(library))]
        return [os.stat(folder).st_mtime_ns for folder in folders]
    except OSError:
        return []


def _lone_bytes(place: str) -> int:
    """Return the bytes below a folder that no environment shares."""
    size = 0
    for parent, _, names in os.walk(place):
        for name in names:
            told = os.lstat(os.path.join(parent, name))
            size += told.st_size if told.st_nlink == 1 else 0
    return size


def _time_of(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
