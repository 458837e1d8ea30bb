"""Lock files: found beside the code, read into one text that every node can build from, its wheels gathered where asked.

`uv.lock` is read by uv itself, `pylock.toml` here, a `requirements.txt` must be pinned. What lies beside the code (the project
itself, its workspace) is in no lock: it travels with the code, and its folders go onto the path.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mainspring.client.client import Client
from mainspring.core.environments import FROM, Wish, check_lock
from mainspring.core.errors import UsageError
from mainspring.core.manifests import FileEntry, pack_manifest
from mainspring.core.records import Run
from mainspring.core.specs import Environment
from mainspring.sdk.code import code_root

HERE, LOCK, AUTO, FETCH = "here", "lock", "auto", "fetch"
NAMES = ("uv.lock", "pylock.toml", "requirements.txt")
_VERSION = re.compile(r"^\d+(\.\d+){1,2}$")
_PYLOCK = re.compile(r"^pylock(\.[^.]+)?\.toml$")
_LOCK_HINT = "Lock first (uv lock, or uv pip compile requirements.in -o requirements.txt), or write --environment here."
_UV_S, _PIP_S = 120.0, 1800.0


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock as it is sent. `projects` are folders of code beside it, `requires` what it says of Python (`>=3.11`)."""

    path: Path
    text: str
    projects: tuple[Path, ...] = ()
    requires: str = ""


def resolve(client: Client, wish: Wish, given: Environment, folder: Path | None) -> tuple[Environment, str]:
    """Return (the environment as it goes into a spec, what goes onto PYTHONPATH); sends the lock and its wheels.

    `given` is what would be without a wish, `folder` the working folder of the run. Raises UsageError, NotFoundError.
    """
    word = wish.environment or HERE
    here = folder or Path.cwd()
    if word.startswith(FROM):
        return _rebuilt(client, word.removeprefix(FROM), given, wish, here)
    path = lock_file(word, here)
    if path is None:
        if wish.wheels:
            raise UsageError("--wheels goes with a lock.", hint="mainspring run --environment lock --wheels fetch train.py")
        return given, ""
    lock = read_lock(path, _extras(word))
    python = wish.python or ("" if given.image else python_of(lock, wish.python, given.interpreter))  # an image has its own
    data = lock.text.encode()
    digest = hashlib.sha256(data).hexdigest()
    client.blobs.upload({digest: data})
    wheels = _send_wheels(client, lock, wish.wheels, python) if wish.wheels else ""
    return replace(given, interpreter=python, lock=digest, wheels=wheels), _path_of(lock, here)


def changed(client: Client, run: Run, wish: Wish, given: Environment) -> tuple[Environment | None, str]:
    """Return what a run that is repeated is to run in, as `resolve` does; None where nothing is wished: it keeps what it had.

    A Python or wheels alone change only that. `given` is what would be without a lock.
    """
    if wish == Wish():
        return None, ""
    had = run.spec.environment
    if not wish.environment:
        wish = replace(wish, environment=f"{FROM}{run.id}" if had.lock else HERE)
    return resolve(client, wish, replace(given, image=had.image), None)


def lock_file(word: str, folder: Path) -> Path | None:
    """Return the lock that `word` names; None for `here`, and for `auto` where there is none. Raises UsageError."""
    name = word.partition("[")[0]
    if name == HERE:
        return None
    if name in (LOCK, AUTO):
        found = next(_locks(folder), None)
        if found is None and name == LOCK:
            raise UsageError(f"There is no {', '.join(NAMES)} in {folder} or above.", hint=_LOCK_HINT)
        return found
    path = Path(name)
    if not os.path.isfile(path):
        raise UsageError(
            f"--environment {name}: there is no such file.",
            hint="Name a lock file, lock (the nearest one), here (as it is there), auto, or from:RUN.",
        )
    return path.resolve()


def _locks(folder: Path) -> Iterator[Path]:
    """Give the lock files from a folder up to the root of its code, nearest first."""
    root, _ = code_root(folder)
    for place in (folder, *folder.parents):
        yield from (place / name for name in NAMES if (place / name).is_file())
        if place == root or place == place.parent:
            return


def _extras(word: str) -> tuple[str, ...]:
    """Return `a`, `b` of `lock[a,b]`."""
    name, bracket, inner = word.partition("[")
    if bracket and not inner.endswith("]"):
        raise UsageError(f"--environment {word}: a bracket is not closed.", hint=f"Write {name}[EXTRA].")
    return tuple(one.strip() for one in inner.rstrip("]").split(",") if one.strip())


def read_lock(path: Path, extras: tuple[str, ...] = ()) -> Lock:
    """Return what a lock file pins. Raises UsageError where it cannot be built from elsewhere."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as wrong:
        raise UsageError(f"{path.name} cannot be read: {wrong}.", hint="Name another: --environment PATH") from wrong
    if path.name == "uv.lock":
        lock = _of_uv(path, text, extras)
    elif extras:
        raise UsageError(f"Extras are for uv.lock, not for {path.name}.", hint="Leave the brackets out.")
    elif _PYLOCK.match(path.name):
        lock = _of_pylock(path, _toml(path, text))
    else:
        lock = Lock(path, text)
    check_lock(lock.text, path.name)
    return lock


def _of_uv(path: Path, text: str, extras: tuple[str, ...]) -> Lock:
    told = _toml(path, text)
    projects = [
        path.parent / str(place)
        for package in told.get("package", ())
        for kind in ("editable", "virtual", "directory")
        if (place := package.get("source", {}).get(kind)) is not None
    ]
    root = code_root(path.parent)[0].resolve()
    for project in projects:
        if not project.resolve().is_relative_to(root):
            raise UsageError(
                f"uv.lock names {project}, which lies outside the code that is sent.",
                hint="Publish it to an index, or move it below the root of the code.",
            )
    words = [find_uv(path.name), "export", "--frozen", "--format", "requirements.txt", "--no-emit-local", "--no-header"]
    words += ["--no-annotate", "--no-progress", *(word for extra in extras for word in ("--extra", extra))]
    done = _ask(words, path.parent, _UV_S)
    if done.returncode != 0:
        raise UsageError(f"uv cannot read {path.name}: {_last(done.stderr)}.", hint="See: uv export --frozen")
    indexes = "".join(f"--extra-index-url {url}\n" for url in _indexes(path.parent / "pyproject.toml"))
    return Lock(path, indexes + done.stdout, tuple(projects), str(told.get("requires-python", "")))


def _indexes(project: Path) -> list[str]:
    """Return the indexes that a project names beside the one that each node has."""
    if not project.is_file():
        return []
    told = _toml(project, project.read_text(encoding="utf-8")).get("tool", {}).get("uv", {}).get("index", ())
    return [str(one["url"]) for one in told if isinstance(one, dict) and str(one.get("url", "")).startswith("http")]


def _of_pylock(path: Path, told: Mapping[str, Any]) -> Lock:
    """Return a `pylock.toml` (PEP 751) as pinned lines."""
    lines = []
    for package in told.get("packages", ()):
        name, marker = str(package.get("name", "")), str(package.get("marker", ""))
        behind = f" ; {marker}" if marker else ""
        if "directory" in package:
            raise UsageError(f"{path.name} names a folder for {name}.", hint="Lock without it: its code travels with the run.")
        if "vcs" in package:
            source = package["vcs"]
            lines.append(f"{name} @ {source.get('type', 'git')}+{source.get('url', '')}@{source.get('commit-id', '')}{behind}")
            continue
        archive = package.get("archive")
        files = [archive] if archive else [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else [])]
        hashes = "".join(f" --hash=sha256:{one['hashes']['sha256']}" for one in files if one.get("hashes", {}).get("sha256"))
        lines.append(f"{name} @ {archive['url']}{behind}" if archive else f"{name}=={package.get('version', '')}{behind}{hashes}")
    return Lock(path, "".join(f"{line}\n" for line in lines), requires=str(told.get("requires-python", "")))


def find_uv(what: str) -> str:
    """Return the uv of this machine. Raises UsageError."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which("uv", path=beside)
    if found is None:
        raise UsageError(
            f"{what} is read by uv, which is not on this machine.",
            hint="pip install uv; or where uv is: uv export --format requirements.txt -o requirements.txt",
        )
    return found


def python_of(lock: Lock, asked: str, current: str) -> str:
    """Return the Python of the environment: what was asked for, `.python-version`, else ours if the lock allows it."""
    if asked:
        return asked
    pin = lock.path.parent / ".python-version"
    if pin.is_file() and _VERSION.match(pinned := pin.read_text(encoding="utf-8", errors="replace").strip()):
        return ".".join(pinned.split(".")[:2])
    ours = _version_of(current)
    least = re.search(r"(>=|==|~=)\s*(\d+)\.(\d+)", lock.requires)
    if least is not None:
        wanted = (int(least[2]), int(least[3]))
        if ours < wanted or (least[1] != ">=" and ours != wanted):
            ours = wanted
    return f"{ours[0]}.{ours[1]}"


def _version_of(interpreter: str) -> tuple[int, int]:
    """Return the version of an interpreter, if it is that of a virtual environment; else of ours."""
    for line in _lines(Path(interpreter).parent.parent / "pyvenv.cfg") if interpreter else ():
        name, _, value = line.partition("=")
        if name.strip() in ("version", "version_info") and (found := re.match(r"(\d+)\.(\d+)", value.strip())):
            return int(found[1]), int(found[2])
    return sys.version_info[:2]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _path_of(lock: Lock, folder: Path) -> str:
    """Return the folders of the projects beside the lock, as seen from the working folder of the run."""
    found = []
    for project in lock.projects:
        inside = project / "src" if (project / "src").is_dir() else project
        relative = os.path.relpath(inside.resolve(), folder.resolve())
        if relative != "." and relative not in found:  # the working folder is on the path anyway
            found.append(relative)
    return os.pathsep.join(found)


def _rebuilt(client: Client, ref: str, given: Environment, wish: Wish, folder: Path) -> tuple[Environment, str]:
    found = client.environments.of_run(ref)
    lock = Lock(Path("lock.txt"), found.lock)
    python = wish.python or ".".join(found.python.split(".")[:2])
    if found.has_lock:
        spec = client.runs.get(found.run).spec
        had = spec.environment
        wheels = _send_wheels(client, lock, wish.wheels, python) if wish.wheels else had.wheels
        places = [one for one in spec.env.get("PYTHONPATH", "").split(":") if one and not one.startswith("/")]
        path = ":".join(one for one in places if (folder / one).is_dir())  # the projects that lay beside its lock
        return replace(given, interpreter=wish.python or had.interpreter, lock=had.lock, wheels=wheels), path
    if found.captured is None:
        raise UsageError(
            f"Nothing is known of what run {ref} ran with.",
            hint="A run of Python tells it once it runs; it may have been stopped, or ran something else.",
        )
    data = found.lock.encode()
    digest = hashlib.sha256(data).hexdigest()
    client.blobs.upload({digest: data})
    wheels = _send_wheels(client, lock, wish.wheels, python) if wish.wheels else ""
    return replace(given, interpreter=python, lock=digest, wheels=wheels), ""


def _send_wheels(client: Client, lock: Lock, asked: str, python: str) -> str:
    folder = _fetched(client, lock, python) if asked == FETCH else Path(asked)
    if not folder.is_dir():
        raise UsageError(f"--wheels {asked}: there is no such folder.", hint="Name a folder of wheels, or write --wheels fetch.")
    files, sources = [], {}
    for path in sorted(folder.glob("*.whl")):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.append(FileEntry(path=path.name, digest=digest, size=path.stat().st_size, mode=0o644))
        sources[digest] = path
    if not files:
        raise UsageError(f"There are no wheels in {folder}.", hint=f"pip download --dest {folder} -r {lock.path.name}")
    data, manifest = pack_manifest(files)
    client.blobs.upload({**sources, manifest: data})
    return manifest


def _fetched(client: Client, lock: Lock, python: str) -> Path:
    """Return a folder with the wheels of a lock, and uv's own, for this platform and that Python; fetched once."""
    home = client.home or Path.home() / ".mainspring"
    key = hashlib.sha256(f"{lock.text}\n{python}".encode()).hexdigest()[:32]
    folder = home / "cache" / "wheels" / key
    if folder.is_dir():
        return folder
    draft = folder.with_name(f"{key}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        (draft / "lock.txt").write_text(lock.text, encoding="utf-8")
        pip = [_with_pip(), "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
        pip += ["--dest", str(draft), "--no-input"]
        done = _ask([*pip, *(["--python-version", python] if _VERSION.match(python) else []), "-r", "lock.txt"], draft, _PIP_S)
        if done.returncode != 0:
            raise UsageError(
                f"The wheels of {lock.path.name} cannot be fetched here: {_last(done.stderr)}.",
                hint="Gather them where there is an index, and name their folder: --wheels FOLDER",
            )
        _ask([*pip, "uv"], draft, _PIP_S)  # for nodes that have no installer of their own; those that have need none
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _with_pip() -> str:
    for python in (sys.executable, getattr(sys, "_base_executable", ""), shutil.which("python3") or ""):
        if python and _ask([python, "-m", "pip", "--version"], Path("/"), _UV_S).returncode == 0:
            return python
    raise UsageError(
        "No Python of this machine has pip to fetch wheels with.", hint="pip's own command makes one: --wheels FOLDER"
    )


def _ask(words: list[str], folder: Path, timeout_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as wrong:
        raise UsageError(f"{Path(words[0]).name} could not be run: {wrong}.", hint="Try it by hand.") from wrong


def _toml(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        raise UsageError(f"{path.name} is no TOML: {wrong}.", hint="Make it again: uv lock") from wrong


def _last(text: str) -> str:
    return " ".join(text.split())[-300:].rstrip(".") or "it says nothing"
