"""Data sets on the command line."""

from __future__ import annotations

from pathlib import Path

from mainspring.cli.connecting import connect
from mainspring.cli.options import Json, Project
from mainspring.cli.output import age, done, emit_json, facts, note, say, table
from mainspring.cli.submit import busy
from mainspring.core.codec import parse_time
from mainspring.core.ids import check_name
from mainspring.core.units import counted, show_bytes
from mainspring.sdk.folders import upload_folder

MAX_SHOWN = 40


def add(name: str, path: Path, /, *, message: str = "", project: Project = "default", as_json: Json = False) -> None:
    """Register a file or folder as the next version of a data set: `mainspring data add flights DIR`.

    Parameters
    ----------
    message
        What changed.
    """
    check_name(name, "data set")
    client = connect()
    before = {one["dataset"]["name"]: (one.get("latest") or {}).get("number", 0) for one in client.datasets.all(project=project)}
    with busy("Sending files", is_quiet=as_json) as progress:
        digest, _ = upload_folder(client, path, progress=progress)
        version = client.datasets.add_version(name, digest, message=message, project=project)
    if as_json:
        emit_json(version)
        return
    say(f"{name}@v{version.number}: {counted(version.files, 'file')}, {show_bytes(version.size_bytes)}")
    if before.get(name) == version.number:
        note("Nothing has changed since that version.")


def ls(*, project: Project = "default", as_json: Json = False) -> None:
    """List data sets.

    Example: `mainspring data ls`.
    """
    found = connect().datasets.all(project=project)
    if as_json:
        emit_json(found)
        return
    rows = []
    for one in found:
        latest = one.get("latest") or {}
        when = age(parse_time(latest["created_at"])) if latest.get("created_at") else ""
        rows.append(
            (
                str(one["dataset"]["name"]),
                f"v{latest.get('number', 0)}",
                str(latest.get("files", 0)),
                show_bytes(int(latest.get("size_bytes", 0))),
                when,
                str(latest.get("created_by", "")),
            )
        )
    table(("name", "version", "files", "size", "age", "by"), rows, empty="No data sets yet: mainspring data add NAME DIR")


def show(reference: str, /, *, project: Project = "default", as_json: Json = False) -> None:
    """Show a version and its files: `mainspring data show flights@v3`."""
    name, _, ref = reference.partition("@")
    client = connect()
    version = client.datasets.get(name, ref or "latest", project=project)
    manifest = client.blobs.manifest(version.manifest)
    if as_json:
        emit_json({"version": version, "files": manifest.files})
        return
    facts(
        (
            ("Data set", f"{version.dataset}@v{version.number}"),
            ("Digest", version.manifest),
            ("Size", f"{counted(version.files, 'file')}, {show_bytes(version.size_bytes)}"),
            ("Made by", version.producer or version.created_by),
            ("When", f"{version.created_at.astimezone():%Y-%m-%d %H:%M:%S}"),
            ("Message", version.message),
        )
    )
    say("")
    rows = [(entry.path, show_bytes(entry.size), entry.digest[:12]) for entry in manifest.files[:MAX_SHOWN]]
    table(("file", "size", "digest"), rows)
    if len(manifest.files) > MAX_SHOWN:
        note(f"{len(manifest.files) - MAX_SHOWN} more files: --json shows all")


def pull(reference: str, target: Path = Path("."), /, *, project: Project = "default", as_json: Json = False) -> None:
    """Fetch the files of a version: `mainspring data pull flights@v3 DIR`."""
    name, _, ref = reference.partition("@")
    client = connect()
    version = client.datasets.get(name, ref or "latest", project=project)
    with busy("Fetching", is_quiet=as_json) as progress:
        client.blobs.save_folder(version.manifest, target, progress=progress)
    done(version, f"{version.dataset}@v{version.number}: {counted(version.files, 'file')} in {target}", as_json=as_json)
