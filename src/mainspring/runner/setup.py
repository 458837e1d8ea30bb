"""Make ready what user code needs: code, arguments, environment, and the command line to begin."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

from . import blobs, checkpoints
from .cache import DamagedError, NoRoomError
from .folder import Folder, write_whole
from .wire import Wire

LOCKS = ("uv.lock", "pylock.toml", "requirements.txt")  # what says beside the code what it needs


class NotReadyError(Exception):
    """This node cannot make ready what user code needs; another one may, or the same one later."""


class CannotStartError(Exception):
    """User code cannot begin, and the user can change that. `code` is what a shell would return."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


def lay_out(folder: Folder, wire: Wire, cache: str, work: dict[str, Any]) -> None:
    """Bring code, arguments and the last checkpoint. Raises AwayError, RefusedError, DamagedError, OSError. Repeatable.

    `work["tree"]` is then the code, to be left to the next run. What only some runs need is loaded by those (`trees`).
    """
    try:
        _lay_out(folder, wire, cache, work)
    except NoRoomError:
        from . import trees

        if not trees.clear(cache):
            raise
        _lay_out(folder, wire, cache, work)


def _lay_out(folder: Folder, wire: Wire, cache: str, work: dict[str, Any]) -> None:
    spec = work["spec"]
    manifest = (spec.get("code") or {}).get("manifest")
    if manifest and "tree" not in work:
        from . import trees

        tree = trees.Tree(cache, manifest, folder.work)
        if not tree.take():
            blobs.lay_out(wire, cache, manifest, folder.work, is_linked=False)
            tree.seal()
        work["tree"] = tree
    for name, value in (spec.get("args") or {}).items():
        _lay_out_value(folder, wire, cache, name, value)
    pickled = (spec.get("entry") or {}).get("pickled")
    if pickled:
        _copy(wire, cache, pickled, -1, folder.at("function.pickle"))
    if work.get("checkpoint"):
        checkpoints.restore(wire, cache, str(work["checkpoint"]), folder.checkpoint)


def _lay_out_value(folder: Folder, wire: Wire, cache: str, name: str, value: dict[str, Any]) -> None:
    target = input_path(folder, name, value)
    if value["kind"] in ("dataset", "model"):
        os.makedirs(target, exist_ok=True)
        blobs.lay_out(wire, cache, value["digest"], target, is_linked=True)
    elif value.get("digest"):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _copy(wire, cache, value["digest"], int(value.get("size_bytes") or -1), target)


def input_path(folder: Folder, name: str, value: dict[str, Any]) -> str:
    """Return where an argument is: a folder for a data set or a model, else a file in a folder of its name."""
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise DamagedError(f"{name[:60]!r} cannot name an argument.")
    place = os.path.join(folder.inputs, name)
    if value["kind"] in ("dataset", "model"):
        return place
    told = os.path.basename(str((value.get("meta") or {}).get("name") or "")).replace("\0", "")
    return os.path.join(place, told if told not in ("", ".", "..") else "value")


def _copy(wire: Wire, cache: str, digest: str, size: int, target: str) -> None:
    if os.path.exists(target):
        os.unlink(target)
    blobs.copy(wire, cache, digest, size, target)


def lay_out_lock(folder: Folder, wire: Wire, cache: str, work: dict[str, Any]) -> None:
    """Bring the lock of the run's environment, and no more: most often the environment is there. Raises as `lay_out`."""
    _copy(wire, cache, str(work["spec"]["environment"]["lock"]), -1, folder.at("lock.txt"))


def lay_out_wheels(folder: Folder, wire: Wire, cache: str, work: dict[str, Any]) -> str:
    """Bring the wheels that came with the run; return their folder, empty where there are none. Raises as `lay_out`."""
    manifest = str(work["spec"]["environment"].get("wheels") or "")
    if not manifest:
        return ""
    target = folder.at("wheels")
    os.makedirs(target, exist_ok=True)
    blobs.lay_out(wire, cache, manifest, target, is_linked=True)
    return target


def tell_of_lock(folder: Folder, spec: dict[str, Any], cwd: str) -> None:
    """Say in the log that this node runs the code with what it has, where a lock beside the code tells what it needs."""
    named = str((spec.get("environment") or {}).get("interpreter") or "")
    words = [*(str(word) for word in spec.get("command") or []), ""]
    is_python = spec.get("kind") == "task" or words[0].endswith(".py") or words[0] in ("python", "python3")
    if not is_python or not os.path.isabs(named) or os.path.exists(named) or (spec.get("environment") or {}).get("image"):
        return
    place = cwd
    while place.startswith(folder.work):
        for name in LOCKS:
            if os.path.isfile(os.path.join(place, name)):
                told = f"This node has no {named}: its own Python runs the code, with what is installed there."
                folder.say(f"{told} For the packages of {name}: mainspring run --environment lock")
                return
        place = os.path.dirname(place)


def working_folder(folder: Folder, work: dict[str, Any]) -> str:
    """Return where user code begins: the bundle's folder that was current when it was submitted."""
    inside = str((work["spec"].get("code") or {}).get("folder") or ".")
    path = os.path.normpath(os.path.join(folder.work, inside))
    if path != folder.work and not path.startswith(folder.work + os.sep):
        raise CannotStartError(f"The working folder {inside!r} leads outside the code.", 126)
    if not os.path.isdir(path):
        raise CannotStartError(f"The working folder {inside!r} is not in the code that was sent.", 127)
    return path


def environment(folder: Folder, launch: dict[str, Any], work: dict[str, Any], cwd: str) -> dict[str, str]:
    """Return the environment of user code. Never written to disk: it has secrets."""
    env = dict(os.environ)
    env.update(work.get("gang") or {})
    env.update({name: str(value) for name, value in (work.get("env") or {}).items()})
    env.update({name: str(value) for name, value in (launch.get("env") or {}).items()})
    number = int(work.get("number", 1))
    shim = os.path.join(os.path.abspath(sys.argv[0]), "shim")
    paths = [cwd, env.get("PYTHONPATH", ""), shim]
    env.update(
        {
            "MAINSPRING_RUN": str(work["run"]),
            "MAINSPRING_ATTEMPT": str(work["attempt"]),
            "MAINSPRING_ATTEMPT_NUMBER": str(number),
            "MAINSPRING_REPLICA": str(launch.get("replica", 0)),
            "MAINSPRING_WORLD_SIZE": str(work.get("world_size", 1)),
            "MAINSPRING_SPOOL": folder.spool,
            "MAINSPRING_OUT": folder.out,
            "MAINSPRING_INPUTS": folder.inputs,
            "MAINSPRING_CHECKPOINT": folder.checkpoint,
            "PYTHONUNBUFFERED": env.get("PYTHONUNBUFFERED", "1"),
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        }
    )
    if number > 1 and os.listdir(folder.checkpoint):
        env["MAINSPRING_RESUME"] = "1"
    return env


def command_line(folder: Folder, work: dict[str, Any], env: dict[str, str], cwd: str) -> list[str]:
    """Return the argument vector, its first word an absolute path. Raises CannotStartError."""
    spec = work["spec"]
    if spec.get("kind") == "task":
        write_whole(folder.at("task.json"), _task(folder, spec, cwd))
        return [interpreter_of(spec, env), os.path.abspath(sys.argv[0]), "--entry", folder.root]
    words = [str(word) for word in spec.get("command") or []]
    if not words:
        raise CannotStartError("There is nothing to run: the command is empty.", 127)
    if words[0].endswith(".py"):
        script = os.path.join(cwd, words[0])
        if not os.path.isfile(script):
            raise CannotStartError(f"{words[0]} is not in the code that was sent.", 127)
        words = [interpreter_of(spec, env), *words]
    elif words[0] in ("python", "python3") and _given_interpreter(spec):
        words[0] = interpreter_of(spec, env)
    if spec.get("kind") == "serving" and "--model" not in words and "model" in (spec.get("args") or {}):
        words += ["--model", os.path.join(folder.inputs, "model")]
    words[0] = program(words[0], env, cwd)
    return words


def _task(folder: Folder, spec: dict[str, Any], cwd: str) -> dict[str, Any]:
    args = {}
    for name, value in (spec.get("args") or {}).items():
        has_file = value["kind"] in ("dataset", "model") or bool(value.get("digest"))
        args[name] = {
            "kind": value["kind"],
            "json": value.get("json"),
            "meta": value.get("meta") or {},
            "digest": value.get("digest") or "",
            "path": input_path(folder, name, value) if has_file else "",
        }
    packages = str((spec.get("environment") or {}).get("packages") or "") if spec.get("cache") else ""
    return {"entry": spec.get("entry") or {}, "args": args, "cwd": cwd, "packages": packages}


def _given_interpreter(spec: dict[str, Any]) -> str:
    given = str((spec.get("environment") or {}).get("interpreter") or "")
    return given if os.path.isabs(given) and os.access(given, os.X_OK) else ""


def interpreter_of(spec: dict[str, Any], env: dict[str, str]) -> str:
    """Return the Python to use: the one named if this node has it, else `pythonX.Y` or `python3` of the PATH."""
    for found in interpreters(spec, env):
        return found
    raise CannotStartError("There is no python3 on the PATH of this node.", 127)


def interpreters(spec: dict[str, Any], env: dict[str, str]) -> Iterator[str]:
    """Give the Pythons of this node that may be meant, the likeliest first."""
    given = _given_interpreter(spec)
    if given:
        yield given
        return
    named = str((spec.get("environment") or {}).get("interpreter") or "")
    words = ["python" + ".".join(named.split(".")[:2])] if named[:1].isdigit() else []
    for word in [*words, "python3", "python"]:
        found = _search(word, env)
        if found:
            yield found


def program(word: str, env: dict[str, str], cwd: str) -> str:
    """Return the absolute path of the program that `word` names in that environment and folder. Raises CannotStartError."""
    if "/" in word:
        path = os.path.normpath(os.path.join(cwd, word))
        if not os.path.exists(path):
            raise CannotStartError(f"{word} does not exist on this node.", 127)
    else:
        found = _search(word, env)
        if not found and os.path.exists(os.path.join(cwd, word)):
            found = os.path.join(cwd, word)  # a script of the bundle, as people type it
        if not found:
            raise CannotStartError(f"{word} is not on the PATH of this node, nor in the code that was sent.", 127)
        path = found
    if os.path.isdir(path) or not os.access(path, os.X_OK):
        raise CannotStartError(f"{word} is not executable; make it so (chmod +x), or name its interpreter.", 126)
    return path


def _search(word: str, env: dict[str, str]) -> str | None:
    for place in (env.get("PATH") or os.defpath).split(os.pathsep):
        path = os.path.join(place or ".", word)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return os.path.abspath(path)
    return None
