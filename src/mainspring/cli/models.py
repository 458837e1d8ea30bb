"""Models on the command line."""

from __future__ import annotations

from typing import Annotated

from mainspring.cli.connecting import connect
from mainspring.cli.options import Flag, Json, Project
from mainspring.cli.output import age, done, emit_json, facts, say, table
from mainspring.client.transport import to_record
from mainspring.core.errors import UsageError
from mainspring.core.records import ModelVersion


def ls(*, project: Project = "default", as_json: Json = False) -> None:
    """List models with their newest version.

    Example: `mainspring model ls`.
    """
    found = connect().models.all(project=project)
    if as_json:
        emit_json(found)
        return
    rows = []
    for one in found:
        latest = to_record(one["latest"], ModelVersion)
        rows.append(
            (
                latest.model,
                f"v{latest.number}",
                latest.format,
                ", ".join(latest.aliases),
                str(one.get("objective") or ""),
                _metrics(latest),
                age(latest.created_at),
            )
        )
    table(("name", "version", "format", "aliases", "objective", "metrics", "age"), rows, empty="No models yet.")


def show(reference: str, /, *, project: Project = "default", as_json: Json = False) -> None:
    """Show a model's versions and verdicts: `mainspring model show delays` or `delays@champion`."""
    name, _, ref = reference.partition("@")
    client = connect()
    version = client.models.get(name, ref or "latest", project=project)
    versions = client.models.versions(name, project=project)
    gates = client.models.gates(model=name, project=project)
    if as_json:
        emit_json({"version": version, "versions": versions, "gates": gates})
        return
    told = version.verification
    verified = (
        f"on {told.get('rows')} rows, largest difference {told.get('max_abs_difference')}" if told.get("is_verified") else ""
    )
    inputs = version.signature.get("inputs")
    names = (
        [f"{one.get('name')}: {one.get('dtype')}" for one in inputs if isinstance(one, dict)] if isinstance(inputs, list) else []
    )
    facts(
        (
            ("Model", f"{version.model}@v{version.number}"),
            ("Aliases", ", ".join(version.aliases)),
            ("Format", version.format),
            ("Verified", verified or str(told.get("note") or "no")),
            ("Inputs", ", ".join(names)),
            ("Metrics", _metrics(version)),
            ("Run", version.run),
            ("Digest", version.manifest),
        )
    )
    say("")
    rows = [
        (f"v{one.number}", one.format, ", ".join(one.aliases), _metrics(one), age(one.created_at), one.created_by)
        for one in versions
    ]
    table(("version", "format", "aliases", "metrics", "age", "by"), rows)
    for gate in gates[:10]:
        say(gate.sentence)


def alias(
    reference: str, alias: str, /, *, remove: Annotated[bool, Flag] = False, project: Project = "default", as_json: Json = False
) -> None:
    """Let an alias mean a version: `mainspring model alias delays@3 champion`; `--remove` takes it away.

    Parameters
    ----------
    remove
        Take the alias away.
    """
    name, _, ref = reference.partition("@")
    client = connect()
    if remove:
        client.models.remove_alias(name, alias, project=project)
        gone = {"model": name, "alias": alias, "version": None}
        done(gone, f"{name} has no alias {alias} any more.", as_json=as_json)
        return
    if not ref:
        raise UsageError("No version is named.", hint=f"mainspring model alias {name}@3 {alias}")
    number = client.models.get(name, ref, project=project).number
    client.models.set_alias(name, alias, number, project=project)
    done({"model": name, "alias": alias, "version": number}, f"{name}@{alias} is v{number}.", as_json=as_json)


def _metrics(version: ModelVersion) -> str:
    return ", ".join(f"{name}={value:.5g}" for name, value in list(version.metrics.items())[:4])
