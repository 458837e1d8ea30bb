"""Models: named, versioned, with aliases that move (`champion`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mainspring.core.actors import Actor
from mainspring.core.errors import NotFoundError, UsageError
from mainspring.core.ids import check_name
from mainspring.core.records import ModelVersion, Role, Run
from mainspring.core.specs import Value, ValueKind
from mainspring.services.context import Context
from mainspring.services.datasets import load_manifest
from mainspring.services.runs import check_project, said

FORMATS = ("onnx", "native")


def add_version(
    ctx: Context,
    actor: Actor,
    name: str,
    manifest: str,
    *,
    project: str = "default",
    format: str = "native",
    run: str = "",
    signature: Mapping[str, object] | None = None,
    metrics: Mapping[str, float] | None = None,
    verification: Mapping[str, object] | None = None,
    aliases: Sequence[str] = (),
) -> ModelVersion:
    """Register a manifest as the next version. The same manifest as the newest version gives that one (aliases are moved)."""
    check_project(ctx, project)
    actor.need(project, Role.EDITOR)
    check_name(name, "model")
    for alias in aliases:
        _check_alias(alias)
    if format not in FORMATS:
        raise UsageError(f"A model cannot have the format {format[:40]!r}.", hint="onnx or native.")
    load_manifest(ctx, manifest)
    event = said(actor, "model.version_added", name, project, manifest=manifest, run=run, format=format)
    version, _ = ctx.store.models.add_version(
        project,
        name,
        manifest,
        format=format,
        created_by=actor.name,
        now=ctx.clock.now(),
        run=run,
        signature=dict(signature or {}),
        metrics=dict(metrics or {}),
        verification=dict(verification or {}),
        event=event,
    )
    for alias in aliases:
        version = set_alias(ctx, actor, name, alias, version.number, project=project)
    return version


def add_from_run(
    ctx: Context, actor: Actor, name: str, run: Run, output: str = "result", *, aliases: Sequence[str] = ()
) -> ModelVersion:
    """Register the model that a run returned. Raises UsageError when it returned something else."""
    value = run.outputs.get(output)
    if value is None or value.kind is not ValueKind.MODEL:
        raise UsageError(f"Run {run.name} did not return a model.", hint="Return ms.Model(estimator, sample=X) from the task.")
    return add_version(
        ctx,
        actor,
        name,
        value.digest,
        project=run.project,
        format=str(value.meta.get("format", "native")),
        run=run.id,
        signature=_mapping(value, "signature"),
        metrics=run.metrics,
        verification=_mapping(value, "verification"),
        aliases=aliases,
    )


def resolve(ctx: Context, actor: Actor, name: str, ref: str = "latest", *, project: str = "default") -> ModelVersion:
    """Return version `ref`: a number, `v3`, an alias, or `latest`. Raises NotFoundError with what there is."""
    found = versions(ctx, actor, name, project=project)
    version = ctx.store.models.resolve(project, name, ref.removeprefix("v") if ref[1:].isdigit() else ref or "latest")
    if version is None:
        aliases = sorted({alias for one in found for alias in one.aliases})
        raise NotFoundError(
            f"Model {name!r} has no version or alias {ref[:40]!r}.",
            hint=f"Versions 1 to {found[-1].number}; aliases: {', '.join(aliases) or 'none'}.",
        )
    return version


def versions(ctx: Context, actor: Actor, name: str, *, project: str = "default") -> list[ModelVersion]:
    """Return all versions, oldest first. Raises NotFoundError."""
    check_project(ctx, project)
    actor.need(project, Role.VIEWER)
    found = ctx.store.models.versions(project, name)
    if not found:
        known = ", ".join(sorted({one.model for one in ctx.store.models.all(project)})[:10]) or "none"
        raise NotFoundError(f"There is no model {name[:60]!r}; known: {known}.", hint="Register one: run.result().register(NAME)")
    return found


def all(ctx: Context, actor: Actor, *, project: str = "default") -> list[ModelVersion]:
    """Return the newest version of every model, by name."""
    check_project(ctx, project)
    actor.need(project, Role.VIEWER)
    return ctx.store.models.all(project)


def set_alias(ctx: Context, actor: Actor, name: str, alias: str, number: int, *, project: str = "default") -> ModelVersion:
    """Let `alias` mean version `number`."""
    check_project(ctx, project)
    actor.need(project, Role.EDITOR)
    _check_alias(alias)
    event = said(actor, "model.alias_set", name, project, alias=alias, number=number)
    found = ctx.store.models.set_alias(project, name, alias, number, event=event)
    if found is None:
        raise NotFoundError(f"Model {name[:60]!r} has no version {number}.", hint=f"mainspring model show {name[:60]}")
    return found


def remove_alias(ctx: Context, actor: Actor, name: str, alias: str, *, project: str = "default") -> None:
    """Take `alias` away; silent when it is not there."""
    check_project(ctx, project)
    actor.need(project, Role.EDITOR)
    event = said(actor, "model.alias_removed", name, project, alias=alias)
    ctx.store.models.remove_alias(project, name, alias, event=event)


def parse_ref(text: str) -> tuple[str, str]:
    """Return (name, version or alias) of `delays@champion`, `delays@3` or `delays` (latest)."""
    name, _, ref = text.partition("@")
    return name, ref or "latest"


def _check_alias(alias: str) -> None:
    check_name(alias, "alias")
    if alias == "latest" or alias.removeprefix("v").isdigit():
        raise UsageError(f"{alias!r} cannot be an alias: it means a version already.", hint="Use a word such as champion.")


def _mapping(value: Value, key: str) -> Mapping[str, object]:
    inner = value.meta.get(key)
    return inner if isinstance(inner, Mapping) else {}
