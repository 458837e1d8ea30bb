"""What a replica runs in: this server's Python for ONNX, which is data; for a native model what the run that made it had.

A lock rarely names what serving needs: the replica's lock is that of the run and what is missing there, in the versions that
this server has. The serving process itself comes as code, from this server.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

from mainspring.core.environments import lock_lines
from mainspring.core.errors import UsageError
from mainspring.core.manifests import FileEntry, pack_manifest
from mainspring.core.records import ModelVersion, Run
from mainspring.core.specs import Code, Environment
from mainspring.services.context import Context

NEEDS = ("uvicorn", "click", "h11", "msgspec", "numpy")  # what `mainspring.serving` imports, and what that imports
OLDEST = (3, 11)
_PACKAGES = ("core", "serving")
_ABOUT_PACKAGES = ("UV_", "PIP_")  # where packages are, and by which right
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a replica runs in."""

    environment: Environment
    code: Code = field(default_factory=Code)
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()


def place_of(ctx: Context, version: ModelVersion) -> Place:
    """Return what a replica of a model version runs in; keeps what it needs as blobs. Raises as `told_of`."""
    told_of(ctx, version)
    producer = _producer(ctx, version)
    if producer is None:
        return Place(environment=Environment(interpreter=ctx.settings.python))
    spec = producer.spec
    had = replace(spec.environment, packages="")
    if not had.lock:
        return Place(environment=replace(had, interpreter=had.interpreter or ctx.settings.python))
    text, _ = complete(_lock(ctx, producer))
    return Place(
        environment=replace(had, lock=ctx.blobs.put_bytes(text.encode())),
        code=_code(ctx),
        env={name: value for name, value in spec.env.items() if name.upper().startswith(_ABOUT_PACKAGES)},
        secrets=tuple(name for name in spec.secrets if name.upper().startswith(_ABOUT_PACKAGES)),
    )


def told_of(ctx: Context, version: ModelVersion) -> str:
    """Return in words what a replica runs in. Raises UsageError where serving cannot run in it, NotFoundError."""
    producer = _producer(ctx, version)
    if producer is None:
        return f"this server's Python, {ctx.settings.python}; on other machines their python3"
    had = producer.spec.environment
    whose = f"run {producer.name} ({producer.id})"
    where = f" in the image {had.image}" if had.image else ""
    if not had.lock:
        python = had.interpreter or ctx.settings.python
        named = f"the image {had.image}" if had.image else f"{python} as it is there; on other machines their python3"
        return f"{named}: {whose}, which made the model, had no lock"
    minor = re.match(r"(\d+)\.(\d+)", had.interpreter)
    if minor is not None and (int(minor[1]), int(minor[2])) < OLDEST:
        raise UsageError(
            f"Model {version.model} v{version.number} was made with Python {had.interpreter}; serving needs 3.11 or newer.",
            hint="Export it to ONNX, which is served by this server's Python, or train it again: --python 3.11.",
        )
    _, added = complete(_lock(ctx, producer))
    more = f" and {', '.join(added)} for serving" if added else ""
    return f"the environment of {whose}{where}: lock {had.lock[:12]}{more}"


def _producer(ctx: Context, version: ModelVersion) -> Run | None:
    """Return the run whose environment a model needs; None where it needs none."""
    return ctx.store.runs.get(version.run) if version.run and version.format == "native" else None


def _lock(ctx: Context, producer: Run) -> str:
    return ctx.blobs.get(producer.spec.environment.lock).decode("utf-8", "replace")


def complete(lock: str) -> tuple[str, list[str]]:
    """Return (a lock with what serving needs beside what is there, what was added)."""
    there = {_plain(found[0]) for _, line in lock_lines(lock) if (found := _NAME.match(line))}
    added = [f"{name}=={metadata.version(name)}" for name in NEEDS if name not in there]
    return "".join([lock, "" if not lock or lock.endswith("\n") else "\n", *(f"{line}\n" for line in added)]), added


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _code(ctx: Context) -> Code:
    """Return the serving process as a code bundle, which is kept."""
    files = _package()
    entries = [FileEntry(path=path, digest=hashlib.sha256(data).hexdigest(), size=len(data)) for path, data in files.items()]
    missing = set(ctx.blobs.missing([one.digest for one in entries]))
    for one in entries:
        if one.digest in missing:
            ctx.blobs.put_bytes(files[one.path])
    data, _ = pack_manifest(entries)
    return Code(manifest=ctx.blobs.put_bytes(data))


@functools.cache
def _package() -> dict[str, bytes]:
    root = Path(__file__).resolve().parents[1]
    found = [root / "__init__.py", *(path for name in _PACKAGES for path in sorted((root / name).glob("*.py")))]
    return {f"{root.name}/{path.relative_to(root)}": path.read_bytes() for path in found}
