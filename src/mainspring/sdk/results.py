"""What a run returned and wrote, fetched into a folder."""

from __future__ import annotations

import json
from pathlib import Path

from mainspring.client.blobs import Progress
from mainspring.client.client import Client
from mainspring.core.errors import ArtifactError, UsageError
from mainspring.core.paths import is_safe_path
from mainspring.core.records import Run
from mainspring.core.specs import Value, ValueKind

_SUFFIX = {ValueKind.PARQUET: ".parquet", ValueKind.NPY: ".npy", ValueKind.PICKLE: ".pkl", ValueKind.FILE: ""}


def pull_outputs(client: Client, run: Run, target: Path, *, progress: Progress | None = None) -> list[Path]:
    """Write every output of `run` below `target`; return the files and folders written. Pickles are written, never opened."""
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as wrong:
        raise UsageError(f"{target} cannot be made a folder: {wrong.strerror}.", hint="Name another one.") from wrong
    return [_pull(client, name, value, target, progress) for name, value in sorted(run.outputs.items())]


def _pull(client: Client, name: str, value: Value, target: Path, progress: Progress | None) -> Path:
    if not is_safe_path(name):
        raise ArtifactError(f"The output {name!r} leads outside its folder.", hint="Fetch it by the API if you trust it.")
    if value.kind is ValueKind.JSON:
        path = target / f"{name}.json"
        path.write_text(json.dumps(value.json, indent=2) + "\n")
        return path
    if value.kind in (ValueKind.DATASET, ValueKind.MODEL):
        client.blobs.save_folder(value.digest, target / name, progress=progress)
        return target / name
    path = target / f"{name}{_SUFFIX[value.kind]}"
    client.blobs.save(value.digest, path)
    return path
