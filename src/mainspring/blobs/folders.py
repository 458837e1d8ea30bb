"""Folders as manifests: which files of a folder are kept, and how a manifest becomes a folder again.

Nothing follows a link, in either direction: a link in a folder is refused with its name, and a folder is built
under a name that nobody else knows before it gets its own, so that nothing can be planted in its way.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from mainspring.blobs.disk import room_left
from mainspring.core.errors import ArchiveError, ConflictError, IntegrityError, NotFoundError
from mainspring.core.manifests import FileEntry, Manifest, check_manifest

Ignore = Callable[[str], bool]


def files_below(folder: Path, ignore: Ignore | None = None) -> Iterator[tuple[str, Path, int]]:
    """Yield (relative path, file, mode) of every regular file below `folder`, sorted within each folder.

    `ignore` sees relative paths (of folders with a `/` at the end) and says what is left out.
    Raises NotFoundError when `folder` is none, ArchiveError for a link, a socket or another special file.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise NotFoundError(f"{str(folder)!r} is not a folder.", hint="Give the path of a folder.")
    yield from _walk(folder, "", ignore)


def write_folder(manifest: Manifest, target: Path, open_blob: Callable[[str], Iterator[bytes]]) -> None:
    """Build the files of `manifest` as `target`, which must not exist or be an empty folder; all or nothing.

    Raises ArchiveError for hostile entries or a `target` that is a link, ConflictError when something is there.
    """
    check_manifest(manifest)
    if target.is_symlink():
        raise ArchiveError(f"{str(target)!r} is a link.", hint="Give the path of a new folder.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConflictError(f"{str(target)!r} is there already.", hint="Give the path of a new or an empty folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.parent / f".{target.name}.{secrets.token_hex(8)}"
    building.mkdir(mode=0o755)
    try:
        with room_left(target):
            for entry in manifest.files:
                _write_file(building / entry.path, entry, open_blob)
        building.replace(target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _walk(folder: Path, prefix: str, ignore: Ignore | None) -> Iterator[tuple[str, Path, int]]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = prefix + entry.name
        mode = entry.stat(follow_symlinks=False).st_mode
        is_folder = stat.S_ISDIR(mode)
        if ignore is not None and ignore(path + "/" if is_folder else path):
            continue
        if is_folder:
            yield from _walk(Path(entry.path), path + "/", ignore)
        elif stat.S_ISREG(mode):
            yield path, Path(entry.path), 0o755 if mode & stat.S_IXUSR else 0o644
        else:
            what = "a link" if stat.S_ISLNK(mode) else "no regular file"
            raise ArchiveError(f"{path!r} is {what}.", hint="Copy what it points to, or leave it out.", details={"path": path})


def _write_file(path: Path, entry: FileEntry, open_blob: Callable[[str], Iterator[bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with path.open("xb") as file:
        for chunk in open_blob(entry.digest):
            file.write(chunk)
            written += len(chunk)
    path.chmod(entry.mode)
    if written != entry.size:
        raise IntegrityError(
            f"{entry.path!r} has {written:,} bytes; its manifest says {entry.size:,}.",
            hint="Make the manifest again.",
            details={"expected": entry.size, "actual": written, "path": entry.path},
        )
