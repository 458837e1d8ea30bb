"""Code travels as it is now: tracked, changed and untracked files less what is ignored, as content-addressed blobs.

The root is the git root, else the script's folder. No commit, no push, no image; only what the server lacks is sent.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mainspring.client.blobs import Progress, Source
from mainspring.client.client import Client
from mainspring.client.connection import home_folder
from mainspring.core.errors import ArtifactError, IntegrityError, TooLargeError
from mainspring.core.manifests import FileEntry, pack_manifest
from mainspring.core.specs import Code
from mainspring.core.units import show_bytes
from mainspring.sdk.digests import DigestCache
from mainspring.sdk.git import GitFacts, git_facts, git_files, git_root, is_git_ignored
from mainspring.sdk.ignore import NEVER_FOLDERS, Pattern, is_below_ignored, is_ignored, leaves_out, may_hold_key, parse_ignore

ASK_BYTES = 1_000_000_000
KEY_MARK = b"PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class Bundle:
    """The files of a code root, not yet sent. `folder` is the working folder inside, `sources` maps digests to files."""

    root: Path
    folder: str
    files: list[FileEntry]
    sources: dict[str, Source]
    git: GitFacts

    @property
    def size_bytes(self) -> int:
        """Return the sum of all files."""
        return sum(entry.size for entry in self.files)


def code_root(folder: Path) -> tuple[Path, bool]:
    """Return (the code root of a script in `folder`, whether git answers for it)."""
    found = git_root(folder)
    if found is None or is_git_ignored(folder):
        return folder, False
    return found, True


def bundle(folder: Path, *, cache: Path | None = None) -> Bundle:
    """Gather the code around `folder`, the working folder of the run. Raises ArtifactError for links that lead outside."""
    folder = folder.resolve()
    root, is_git = code_root(folder)
    root = root.resolve()
    digests = DigestCache.open(cache or home_folder() / "cache", root)
    files: list[FileEntry] = []
    sources: dict[str, Source] = {}
    for name, path in list_files(root, is_git=is_git):
        try:
            told = path.stat()
            if not stat.S_ISREG(told.st_mode) or _holds_key(path):
                continue
            digest = digests.digest(path, name, told)
        except FileNotFoundError:
            continue  # deleted since git listed it
        except OSError as wrong:
            raise ArtifactError(f"{name} cannot be read: {wrong.strerror}.", hint="Or leave it out: .mainspringignore") from wrong
        files.append(FileEntry(path=name, digest=digest, size=told.st_size, mode=0o755 if told.st_mode & 0o100 else 0o644))
        sources[digest] = path
    digests.save()
    facts = git_facts(root) if is_git else GitFacts()
    return Bundle(root, folder.relative_to(root).as_posix(), files, sources, facts)


def send_code(client: Client, folder: Path, *, is_confirmed: bool = False, progress: Progress | None = None) -> Code:
    """Send the code around `folder` and return what a spec says of it. Raises TooLargeError over 1 GB unless confirmed."""
    cache = client.home / "cache" if client.home is not None else home_folder() / "cache"
    gathered = bundle(folder, cache=cache)
    if gathered.size_bytes > ASK_BYTES and not is_confirmed:
        raise TooLargeError(
            f"The code around {gathered.root} is {show_bytes(gathered.size_bytes)} in {len(gathered.files):,} files; "
            f"the largest: {_largest(gathered.files)}.",
            hint="Name what to leave out in .mainspringignore, or confirm with --yes (MAINSPRING_YES=1).",
            details={"size_bytes": gathered.size_bytes, "files": len(gathered.files)},
        )
    try:
        return _send(client, gathered, progress)
    except (IntegrityError, FileNotFoundError):  # a file was saved between reading and sending: once more, as it is now
        return _send(client, bundle(folder, cache=cache), progress)


def _send(client: Client, gathered: Bundle, progress: Progress | None) -> Code:
    data, digest = pack_manifest(gathered.files)
    sources: dict[str, Source] = {**gathered.sources, digest: data}
    diff = ""
    if gathered.git.diff:
        diff = hashlib.sha256(gathered.git.diff).hexdigest()
        sources[diff] = gathered.git.diff
    client.blobs.upload(sources, progress=progress)
    return Code(
        manifest=digest,
        folder=gathered.folder,
        git_commit=gathered.git.commit,
        git_branch=gathered.git.branch,
        git_remote=gathered.git.remote,
        git_diff=diff,
        is_dirty=gathered.git.is_dirty,
    )


def list_files(root: Path, *, is_git: bool) -> Iterator[tuple[str, Path]]:
    """Yield (path inside the bundle, file to read), in order. Raises ArtifactError for links that lead outside."""
    home = _home_inside(root)
    own = [*_own_patterns(root), *home]
    names = git_files(root) if is_git else None
    listed = _git_tree(root, names) if names is not None else _walk(root, "", home)
    environments: dict[str, bool] = {}
    for name in listed:
        if leaves_out(name.split("/")) or is_below_ignored(name, own) or _is_in_environment(root, name, environments):
            continue
        path = root / name
        if path.is_symlink():
            yield from _followed(root, name, path)
        else:
            yield name, path


def _git_tree(root: Path, names: list[str]) -> Iterator[str]:
    """Yield the files; a folder with its own repository (a submodule, a clone within) is listed by its own git."""
    for name in names:
        path = root / name
        if path.is_dir() and not path.is_symlink():
            for inner in git_files(path) or ():
                if not (path / inner).is_dir():
                    yield f"{name}/{inner}"
        else:
            yield name


def _walk(root: Path, folder: str, above: list[Pattern]) -> Iterator[str]:
    here = root / folder if folder else root
    patterns = [*above, *_read_patterns(here / ".gitignore", folder)]
    try:
        entries = sorted(os.scandir(here), key=lambda entry: entry.name)
    except OSError as wrong:
        raise ArtifactError(f"{here} cannot be read: {wrong.strerror}.", hint="Or leave it out: .mainspringignore") from wrong
    for entry in entries:
        name = f"{folder}/{entry.name}" if folder else entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_ignored(name, is_folder, patterns):
            continue
        if not is_folder:
            yield name
        elif entry.name not in NEVER_FOLDERS and not (here / entry.name / "pyvenv.cfg").exists():
            yield from _walk(root, name, patterns)


def _followed(root: Path, name: str, link: Path) -> Iterator[tuple[str, Path]]:
    """Yield what a link stands for, as copies. Raises ArtifactError when it leads outside, nowhere, or round in a circle."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError) as wrong:
        raise ArtifactError(f"The link {name} leads nowhere.", hint="Remove it, or name it in .mainspringignore.") from wrong
    if not target.is_relative_to(root):
        raise ArtifactError(
            f"The link {name} leads outside the code: to {target}.",
            hint="Register large inputs by `mainspring data add`, or name the link in .mainspringignore.",
        )
    if not target.is_dir():
        yield name, target
        return
    if link.parent.resolve().is_relative_to(target):
        raise ArtifactError(f"The link {name} leads round in a circle.", hint="Remove it, or name it in .mainspringignore.")
    for inner in _walk(target, "", []):
        path = target / inner
        if leaves_out(inner.split("/")):
            continue
        if path.is_symlink():
            resolved = path.resolve()
            if not resolved.is_file() or not resolved.is_relative_to(root):
                raise ArtifactError(f"The link {name}/{inner} cannot be followed.", hint="Name it in .mainspringignore.")
        yield f"{name}/{inner}", path


def _home_inside(root: Path) -> list[Pattern]:
    """Return the pattern of the installation's folder where it lies in the code: it holds tokens, and never travels."""
    home = home_folder().resolve()
    if home == root or not home.is_relative_to(root):
        return []
    inside = re.sub(r"([*?\[\\])", r"\\\1", home.relative_to(root).as_posix())
    return parse_ignore(f"/{inside}/")


def _own_patterns(root: Path) -> list[Pattern]:
    return _read_patterns(root / ".mainspringignore", "")


def _read_patterns(file: Path, folder: str) -> list[Pattern]:
    try:
        return parse_ignore(file.read_text(errors="replace"), folder)
    except OSError:
        return []


def _is_in_environment(root: Path, name: str, known: dict[str, bool]) -> bool:
    """Say whether a folder above is a virtual environment (it has a `pyvenv.cfg`)."""
    folder = name.rpartition("/")[0]
    if not folder:
        return False
    if folder not in known:
        known[folder] = (root / folder / "pyvenv.cfg").exists() or _is_in_environment(root, folder, known)
    return known[folder]


def _holds_key(path: Path) -> bool:
    if not may_hold_key(path.name):
        return False
    if path.suffix.lower() not in (".pem", ".key"):
        return True
    with path.open("rb") as file:
        return KEY_MARK in file.read(4096)


def _largest(files: list[FileEntry]) -> str:
    top = sorted(files, key=lambda entry: entry.size, reverse=True)[:3]
    return ", ".join(f"{entry.path} ({show_bytes(entry.size)})" for entry in top)
