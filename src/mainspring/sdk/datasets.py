"""Data sets: folders of files, versioned by content. `ms.dataset("flights@v3")` names a version; its files come when used."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mainspring.client.client import Client
from mainspring.client.connection import connect
from mainspring.core.errors import UsageError
from mainspring.core.records import DatasetVersion
from mainspring.core.specs import Value, ValueKind
from mainspring.sdk.awaiting import in_thread, within
from mainspring.sdk.extras import is_of, need
from mainspring.sdk.folders import copy_content, fetched, gather, upload_folder
from mainspring.sdk.progress import check_wanted


class Dataset:
    """A data set: a local folder or file, or a version on the server whose files are fetched on first use.

    `name` and `version` are set for registered ones. Never changes once its digest was asked for.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        name: str = "",
        version: int = 0,
        digest: str = "",
        producer: str = "",
    ) -> None:
        if path is None and not digest:
            raise UsageError("A data set is a path or a digest.", hint="ms.Dataset.from_path(folder), ms.dataset('name@v3')")
        self.name = name
        self.version = version
        self.producer = producer
        self._path = Path(path).absolute() if path is not None else None
        self._digest = digest
        self._is_sent = bool(digest)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> Dataset:
        """Return the data set that a file or folder holds. Raises UsageError when it is not there."""
        if not os.path.exists(path):
            raise UsageError(f"{os.fspath(path)} is not there.", hint=f"This is {Path.cwd()}.")
        return cls(path)

    @classmethod
    def from_frame(cls, frame: Any, name: str = "data") -> Dataset:
        """Return a data set of one Parquet file `name.parquet` with the rows of a pandas, polars or Arrow table."""
        folder = Path(tempfile.mkdtemp(prefix="mainspring-"))
        write_parquet(frame, folder / f"{name}.parquet")
        return cls(folder)

    @property
    def path(self) -> str:
        """Return the folder (or file) with the data; fetches it first when it is on the server."""
        if self._path is None:
            self._path = fetched(connect(), self._digest, "datasets")
        return str(self._path)

    @property
    def files(self) -> list[Path]:
        """Return every file, sorted."""
        place = Path(self.path)
        return [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())

    @property
    def digest(self) -> str:
        """Return the sha256 of the manifest: the same files give the same digest everywhere."""
        if not self._digest:
            _, self._digest, _, _ = gather(Path(self.path))
        return self._digest

    def frame(self) -> Any:
        """Return all Parquet or CSV files as one pandas frame."""
        pandas = need("pandas", "Reading a data set as a frame")
        parts = [_read(pandas, file) for file in self.files if file.suffix in (".parquet", ".csv")]
        if not parts:
            raise UsageError(f"{self!r} holds neither Parquet nor CSV.", hint="Read its files: dataset.files")
        return parts[0] if len(parts) == 1 else pandas.concat(parts, ignore_index=True)

    def register(self, name: str, *, message: str = "", project: str = "default") -> Dataset:
        """Make this the next version of data set `name`; the newest version when nothing changed, so that it may be repeated.

        Blocks until its files are read and what the server lacks is sent, with live progress on a terminal.
        Raises ArtifactError for files that cannot be read, UsageError for a strange name.
        """
        client = connect()
        self.upload(client)
        check_wanted()
        record = client.datasets.add_version(name, self._digest, message=message, producer=self.producer, project=project)
        return self._as(record)

    async def register_async(
        self, name: str, *, message: str = "", project: str = "default", timeout: float | None = None
    ) -> Dataset:
        """Register as `register` does, without blocking the event loop.

        Raises as `register`, and TimeoutError after `timeout` seconds: it is given up then, as when it is cancelled. What the
        server has by then is not sent again.
        """
        work = in_thread(self.register, name, message=message, project=project)
        return await within(timeout, f"Registering {name}", work)

    def upload(self, client: Client) -> str:
        """Send what the server lacks; return the digest. Blocks; idempotent."""
        if self._path is not None and not self._is_sent:
            self._digest, _ = upload_folder(client, self._path)
            self._is_sent = True
        return self._digest

    def to_value(self, client: Client) -> Value:
        """Return the reference that travels as an argument."""
        digest = self.upload(client)
        meta: dict[str, object] = {"name": self.name, "version": self.version} if self.name else {}
        return Value(kind=ValueKind.DATASET, digest=digest, meta=meta)

    def _as(self, record: DatasetVersion) -> Dataset:
        return Dataset(self._path, name=record.dataset, version=record.number, digest=record.manifest, producer=record.producer)

    def __mainspring_save__(self, folder: str) -> dict[str, object]:
        """Copy the files into `folder`; how a task returns a data set."""
        copy_content(Path(self.path), Path(folder))
        return {"kind": "dataset", "meta": {"files": len(self.files)}}

    @classmethod
    def __mainspring_load__(cls, path: str, meta: Mapping[str, object] | None = None) -> Dataset:
        """Return the data set whose files the runner put under `path`; how a task receives one."""
        told = meta or {}
        version = told.get("version")
        number = version if isinstance(version, int) else 0
        return cls(path, name=str(told.get("name", "")), version=number, digest=str(told.get("digest", "")))

    def __repr__(self) -> str:
        if self.name:
            return f"Dataset({self.name}@v{self.version})"
        return f"Dataset({self._digest[:12] or self._path})"


def dataset(reference: str, *, project: str = "default") -> Dataset:
    """Return a registered data set: `flights` (the newest version), `flights@v3`, `flights@3`."""
    name, _, version = reference.partition("@")
    record = connect().datasets.get(name, version or "latest", project=project)
    return Dataset(name=record.dataset, version=record.number, digest=record.manifest, producer=record.producer)


def write_parquet(frame: Any, path: Path) -> None:
    """Write a pandas, polars or Arrow table. Raises UsageError for anything else."""
    if is_of(frame, "pandas", "DataFrame"):
        need("pyarrow", "Writing Parquet", "data")
        frame.to_parquet(path)
    elif is_of(frame, "polars", "DataFrame"):
        frame.write_parquet(path)
    elif is_of(frame, "pyarrow", "Table"):
        need("pyarrow.parquet", "Writing Parquet", "data").write_table(frame, path)
    else:
        raise UsageError(f"A {type(frame).__name__} is no table.", hint="Give a pandas, polars or Arrow table.")


def _read(pandas: Any, file: Path) -> Any:
    return pandas.read_parquet(file) if file.suffix == ".parquet" else pandas.read_csv(file)
