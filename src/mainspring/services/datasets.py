"""Data sets: named, versioned, each version the digest of a manifest whose every file is stored."""

from __future__ import annotations

from mainspring.core.actors import Actor
from mainspring.core.errors import IntegrityError, NotFoundError, UsageError
from mainspring.core.ids import check_name
from mainspring.core.manifests import Manifest, is_digest, read_manifest
from mainspring.core.records import Dataset, DatasetVersion, Role
from mainspring.services.context import Context
from mainspring.services.runs import check_project, said


def add_version(
    ctx: Context, actor: Actor, name: str, manifest: str, *, project: str = "default", message: str = "", producer: str = ""
) -> tuple[DatasetVersion, bool]:
    """Register a manifest as the next version; the same manifest as the newest gives that one and False.

    Raises IntegrityError when the manifest names files that were not uploaded.
    """
    check_project(ctx, project)
    actor.need(project, Role.EDITOR)
    check_name(name, "data set")
    listed = load_manifest(ctx, manifest)
    event = said(actor, "dataset.version_added", name, project, manifest=manifest, files=len(listed.files))
    return ctx.store.datasets.add_version(
        project,
        name,
        manifest,
        size_bytes=listed.size_bytes,
        files=len(listed.files),
        created_by=actor.name,
        now=ctx.clock.now(),
        producer=producer,
        message=message[:2000],
        event=event,
    )


def get(ctx: Context, actor: Actor, name: str, ref: str = "latest", *, project: str = "default") -> DatasetVersion:
    """Return version `ref`: a number, `v3` or `latest`. Raises NotFoundError."""
    found = versions(ctx, actor, name, project=project)
    if ref in ("", "latest"):
        return found[-1]
    digits = ref.removeprefix("v")
    for one in found:
        if digits == str(one.number):
            return one
    raise NotFoundError(
        f"Data set {name!r} has no version {ref[:40]!r}; the newest is v{found[-1].number}.", hint=f"mainspring data show {name}"
    )


def versions(ctx: Context, actor: Actor, name: str, *, project: str = "default") -> list[DatasetVersion]:
    """Return all versions, oldest first. Raises NotFoundError."""
    check_project(ctx, project)
    actor.need(project, Role.VIEWER)
    found = ctx.store.datasets.versions(project, name)
    if not found:
        known = ", ".join(dataset.name for dataset, _ in ctx.store.datasets.all(project)[:10]) or "none"
        raise NotFoundError(f"There is no data set {name[:60]!r}; known: {known}.", hint=f"mainspring data add {name[:60]} DIR")
    return found


def all(ctx: Context, actor: Actor, *, project: str = "default") -> list[tuple[Dataset, DatasetVersion | None]]:
    """Return every data set with its newest version, by name."""
    check_project(ctx, project)
    actor.need(project, Role.VIEWER)
    return ctx.store.datasets.all(project)


def load_manifest(ctx: Context, digest: str) -> Manifest:
    """Return the stored manifest. Raises UsageError, NotFoundError, ArchiveError, IntegrityError when files are missing."""
    if not is_digest(digest):
        raise UsageError(f"{digest[:80]!r} is not a sha256 digest.", hint="64 characters of 0-9 and a-f.")
    if ctx.blobs.missing([digest]):
        raise NotFoundError(f"There is no manifest {digest[:12]}….", hint="Upload it first.")
    manifest = read_manifest(ctx.blobs.get(digest))
    missing = ctx.blobs.missing([entry.digest for entry in manifest.files])
    if missing:
        raise IntegrityError(
            f"{len(missing)} of {len(manifest.files)} files of the manifest were not uploaded.",
            hint="Upload them, then repeat.",
            details={"missing": missing[:100]},
        )
    return manifest
