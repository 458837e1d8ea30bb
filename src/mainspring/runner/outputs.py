"""What an attempt leaves: the result of a task and the files in `out/`, as values whose blobs are with the server."""

from __future__ import annotations

import os
from typing import Any

from . import blobs
from .cache import digest_of
from .folder import Folder, read_json

RESULT = "result"
RESULT_FILE = "result.json"


def gather(folder: Folder, is_task: bool) -> tuple[dict[str, Any], dict[str, tuple[str, int]]]:
    """Return (values by name, blobs to send: digest → path, size). A task's result is called `result`."""
    values: dict[str, Any] = {}
    files: dict[str, tuple[str, int]] = {}
    told = read_json(os.path.join(folder.out, RESULT_FILE)) if is_task else None
    result = os.path.join(folder.out, RESULT)
    if told is not None:
        values[RESULT] = _result(folder, result, told, files)
    for path in blobs.plain_files(folder.out):
        name = os.path.relpath(path, folder.out).replace(os.sep, "/")
        if told is not None and (name in (RESULT, RESULT_FILE) or name.startswith(RESULT + "/")):
            continue
        digest, size = digest_of(path)
        files[digest] = (path, size)
        values[name] = _value("file", digest, size, {"name": os.path.basename(name)})
    return values, files


def _result(folder: Folder, path: str, told: dict[str, Any], files: dict[str, tuple[str, int]]) -> dict[str, Any]:
    meta = told.get("meta") or {}
    if told["kind"] == "json":
        return {**_value("json", "", 0, meta), "json": told.get("json")}
    if os.path.isdir(path):
        data, found, size = blobs.make_manifest(path)
        manifest = folder.at("result.manifest")
        with open(manifest, "wb") as file:
            file.write(data)
        digest, length = digest_of(manifest)
        files.update(found)
        files[digest] = (manifest, length)
        return _value(told["kind"], digest, size, meta)
    digest, size = digest_of(path)
    files[digest] = (path, size)
    return _value(told["kind"], digest, size, meta)


def _value(kind: str, digest: str, size: int, meta: dict[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "digest": digest, "size_bytes": size, "meta": meta}
