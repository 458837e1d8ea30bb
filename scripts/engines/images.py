"""The image that runs of container engines use in tests: a small Debian with Python and nothing of ours, made once and kept.

No registry is needed: the root file system is made by debootstrap, kept below the user's cache folder, and imported.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SUITE = "bookworm"
_LEFT_OUT = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")


def cache_folder() -> Path:
    """Return where what is slow to make is kept between sessions."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mainspring-engines"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def made_by_one(name: str) -> Iterator[None]:
    """Hold the lock of a thing in the cache: who comes second waits, and finds it made."""
    with (cache_folder() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def python_layer() -> Path:
    """Return a tar of a root file system with Python and a shell; made at the first call, in about a minute, as root."""
    target = cache_folder() / f"python-{SUITE}.tar"
    with made_by_one(target.name):
        if not target.exists():
            _make_layer(target)
    return target


def image_archive(target: Path, names: Sequence[str], command: Sequence[str], layer: Path | None = None) -> Path:
    """Write an image of one layer as `docker save` does, for `ctr images import` or `docker load`; its user is root."""
    layer = layer or python_layer()
    digest = _digest(layer)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": list(command), "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    data = json.dumps(config).encode()
    manifest = [{"Config": f"{hashlib.sha256(data).hexdigest()}.json", "RepoTags": list(names), "Layers": ["layer.tar"]}]
    with tempfile.TemporaryDirectory() as folder, tarfile.open(target, "w") as archive:
        for path, text in ((manifest[0]["Config"], data), ("manifest.json", json.dumps(manifest).encode())):
            file = Path(folder, "file")
            file.write_bytes(text)
            archive.add(file, arcname=str(path))
        archive.add(layer, arcname="layer.tar")
    return target


def _make_layer(target: Path) -> None:
    if shutil.which("debootstrap") is None:
        raise RuntimeError("debootstrap is missing: scripts/engines/install")
    with tempfile.TemporaryDirectory(prefix="mainspring-image-") as folder:
        root = Path(folder, "root")
        words = ["debootstrap", "--variant=minbase", "--include=python3,ca-certificates", SUITE, str(root)]
        told = subprocess.run(words, capture_output=True, text=True, check=False)
        if told.returncode != 0:
            raise RuntimeError(f"debootstrap failed:\n{told.stdout[-2000:]}{told.stderr[-2000:]}")
        left_out = [f"--exclude=./{name}/*" for name in _LEFT_OUT]
        draft = target.with_suffix(".draft")
        subprocess.run(["tar", "--numeric-owner", *left_out, "-C", str(root), "-cf", str(draft), "."], check=True)
        draft.replace(target)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
