"""Folders as content: a manifest of what is in them, and the copy of a manifest in the cache."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from pathlib import Path

from mainspring.client.blobs import Progress as Moved
from mainspring.client.blobs import Source
from mainspring.client.client import Client
from mainspring.client.connection import home_folder
from mainspring.core.errors import ArtifactError
from mainspring.core.manifests import FileEntry, pack_manifest
from mainspring.sdk.digests import DigestCache
from mainspring.sdk.progress import Progress


def temporary(prefix: str) -> Path:
    """Return an empty folder that goes with this process, not with a child that was forked from it."""
    made, owner = Path(tempfile.mkdtemp(prefix=prefix)), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(made, ignore_errors=True)

    atexit.register(remove)
    return made


def gather(path: Path) -> tuple[bytes, str, dict[str, Source], int]:
    """Return (manifest, its digest, sources by digest, bytes) of a file or of everything in a folder.

    Links are followed within the folder; others raise ArtifactError. Hidden files are taken too.
    """
    path = path.absolute()
    if not os.path.exists(path):
        raise ArtifactError(f"{path} is not there.", hint=f"This is {Path.cwd()}.")
    base = path.parent if path.is_file() else path
    cache = DigestCache.open(home_folder() / "cache", path)
    entries: list[FileEntry] = []
    sources: dict[str, Source] = {}
    files = _files(path)
    total, done = sum(_stat(name, file).st_size for name, file in files), 0
    with Progress(f"Reading {path.name}", total, is_bytes=True) as progress:

        def read(size: int) -> None:
            nonlocal done
            done += size
            progress.update(done)

        for name, file in files:
            told = _stat(name, file)
            try:
                digest = cache.digest(file, name, told, read=read)
            except OSError as wrong:
                raise ArtifactError(f"{name} cannot be read: {wrong.strerror}.") from wrong
            if file.is_symlink() and not file.resolve().is_relative_to(base.resolve()):
                raise ArtifactError(f"The link {name} leads outside {path}.", hint="Copy the file there instead.")
            entries.append(FileEntry(path=name, digest=digest, size=told.st_size, mode=0o755 if told.st_mode & 0o100 else 0o644))
            sources[digest] = file
    cache.save()
    if not entries:
        raise ArtifactError(f"{path} holds no file.")
    data, digest = pack_manifest(entries)
    return data, digest, sources, sum(entry.size for entry in entries)


def upload_folder(client: Client, path: Path, *, progress: Moved | None = None) -> tuple[str, int]:
    """Send what the server lacks of a file or folder; return (digest of its manifest, bytes). Blocks; idempotent.

    Without `progress` it shows its own on a terminal.
    """
    data, digest, sources, size = gather(path)
    with Progress(f"Sending {path.name}", is_bytes=True) as own:
        client.blobs.upload({**sources, digest: data}, progress=progress or own.moved)
    return digest, size


def fetched(client: Client, manifest: str, kind: str) -> Path:
    """Return a folder with the content of `manifest`, kept in the cache: complete or not there at all."""
    parent = home_folder() / "cache" / kind
    target = parent / manifest
    if target.is_dir():
        return target
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = Path(tempfile.mkdtemp(dir=parent, prefix=".partial-"))
    try:
        with Progress(f"Fetching {kind.removesuffix('s')} {manifest[:12]}", is_bytes=True) as progress:
            client.blobs.save_folder(manifest, partial, progress=progress.moved)
        partial.chmod(0o755)
        try:
            os.rename(partial, target)
        except OSError:
            if not target.is_dir():  # else somebody was faster
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def copy_content(source: Path, target: Path) -> None:
    """Copy a file into `target`, or everything in a folder."""
    target.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target / source.name)


def _stat(name: str, file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as wrong:
        raise ArtifactError(f"{name} cannot be read: {wrong.strerror}.") from wrong


def _files(path: Path) -> list[tuple[str, Path]]:
    if path.is_file():
        return [(path.name, path)]
    found: list[tuple[str, Path]] = []
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in (*names, *(one for one in folders if os.path.islink(os.path.join(folder, one)))):
            file = Path(folder) / name
            relative = file.relative_to(path).as_posix()
            if not file.exists() or file.is_dir():
                raise ArtifactError(f"The link {relative} cannot be followed.", hint="Copy what it means instead.")
            if stat.S_ISREG(file.stat().st_mode):
                found.append((relative, file))
    return sorted(found)
