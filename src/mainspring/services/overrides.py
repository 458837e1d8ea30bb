"""Secrets in overrides: `docker.registry_login=secret:NAME` names a secret of the project; its value is seen by the engine alone.

Which overrides are secret is the engine kind's to say. In the spec, in logs and in listings stands the name.
"""

from __future__ import annotations

from collections.abc import Sequence

from mainspring import plugins
from mainspring.core.errors import MainspringError, NotFoundError, SpecError
from mainspring.core.specs import RunSpec, overrides_of
from mainspring.services.context import Context

MARK = "secret:"


def check_overrides(ctx: Context, spec: RunSpec) -> None:
    """Refuse a secret override that names no secret of the project. Raises SpecError, NotFoundError."""
    for kind in spec.overrides:
        words = overrides_of(spec, kind)
        for name in secret_names(kind):
            if name not in words:
                continue
            value = words[name]
            if not isinstance(value, str) or not value.startswith(MARK):
                raise SpecError(
                    f"{kind}.{name} is not for everybody to read, so it is given as a secret of the project.",
                    hint=f"mainspring secret set NAME; then --override {kind}.{name}={MARK}NAME",
                    details={"path": f"overrides.{kind}.{name}"},
                )
            need_secrets(ctx, spec.project, [value.removeprefix(MARK)])


def need_secrets(ctx: Context, project: str, names: Sequence[str]) -> None:
    """Refuse a name that is no secret of the project. Raises NotFoundError."""
    known = {secret.name for secret in ctx.store.secrets.all(project)} if names else set()
    for name in names:
        if name not in known:
            raise unknown_secret(name, project)


def unknown_secret(name: str, project: str) -> NotFoundError:
    """Return the error that names a secret which is not there."""
    told = name[:60] or "NAME"
    return NotFoundError(
        f"Project {project!r} has no secret {name[:60]!r}.", hint=f"mainspring secret set {told} --project {project}"
    )


def secret_names(kind: str) -> tuple[str, ...]:
    """Return the overrides of an engine kind that are secret; none of a kind that is not installed."""
    try:
        return plugins.engine(kind).secret_overrides
    except MainspringError:  # no such kind is installed: nobody reads what is asked of it
        return ()
