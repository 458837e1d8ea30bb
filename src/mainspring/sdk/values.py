"""Arguments and results as they travel: JSON when possible, Parquet for frames, `.npy` for arrays, pickle last.

The server reads JSON alone; a pickle is opened in runs, and by the person who asks for the result.
"""

from __future__ import annotations

import hashlib
import io
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mainspring.client.client import Client
from mainspring.core.codec import encode
from mainspring.core.errors import UnsupportedError, UsageError
from mainspring.core.specs import Value, ValueKind
from mainspring.sdk.datasets import Dataset, write_parquet
from mainspring.sdk.extras import is_of, need

INLINE_BYTES = 256_000
_BIGGEST = 2**63 - 1
_DEPTH = 50


@runtime_checkable
class Referable(Protocol):
    """What knows how to travel by reference: a data set, a model, the result of a run."""

    def to_value(self, client: Client) -> Value:
        """Return the reference."""
        ...


def to_value(client: Client, value: object) -> Value:
    """Return `value` as it travels; sends the blobs it needs."""
    if isinstance(value, Referable):
        return value.to_value(client)
    plain = _scalar(value)
    if is_json(plain):
        data = encode(plain)
        if len(data) <= INLINE_BYTES:
            return Value(kind=ValueKind.JSON, json=plain, size_bytes=len(data))
    packed = _parquet(value) or _npy(value)
    if packed is None:
        packed = (ValueKind.PICKLE, pickled(value), {"type": f"{type(value).__module__}.{type(value).__qualname__}"})
    kind, data, meta = packed
    digest = hashlib.sha256(data).hexdigest()
    client.blobs.upload({digest: data})
    return Value(kind=kind, digest=digest, size_bytes=len(data), meta=meta)


def from_value(client: Client, value: Value) -> Any:
    """Return what travelled. Opens a pickle: only for results of runs whose code you trust."""
    match value.kind:
        case ValueKind.JSON:
            return value.json
        case ValueKind.DATASET:
            return Dataset(digest=value.digest)
        case ValueKind.PARQUET:
            return _table(client.blobs.get(value.digest), str(value.meta.get("library") or "pandas"))
        case ValueKind.NPY:
            return need("numpy", "Reading this result").load(io.BytesIO(client.blobs.get(value.digest)), allow_pickle=False)
        case ValueKind.PICKLE:
            return need("cloudpickle", "Reading this result").loads(client.blobs.get(value.digest))
        case ValueKind.FILE:
            return client.blobs.get(value.digest)
        case ValueKind.MODEL:
            raise UnsupportedError("A model is opened by run.result().")


def is_json(value: object, depth: int = 0) -> bool:
    """Say whether `value` comes back from JSON as it went in (tuples come back as lists)."""
    if value is None or isinstance(value, bool | str):
        return True
    if type(value) is int:
        return -_BIGGEST <= value <= _BIGGEST
    if type(value) is float:
        return math.isfinite(value)
    if depth > _DEPTH:
        return False
    if type(value) in (list, tuple):
        return all(is_json(one, depth + 1) for one in _items(value))
    if type(value) is dict:
        return all(isinstance(key, str) and is_json(one, depth + 1) for key, one in value.items())
    return False


def pickled(value: object) -> bytes:
    """Return `value` by cloudpickle. Raises UsageError when it cannot be pickled."""
    cloudpickle = need("cloudpickle", "Sending this value")
    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as wrong:  # somebody's __reduce__ may raise anything
        raise UsageError(
            f"A {type(value).__name__} cannot travel: {type(wrong).__name__}: {wrong}.",
            hint="Pass numbers, text, frames, arrays, data sets or models.",
        ) from wrong


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


def _scalar(value: object) -> object:
    item = getattr(value, "item", None)
    return item() if is_of(value, "numpy", "generic") and callable(item) else value


def _parquet(value: Any) -> tuple[ValueKind, bytes, Mapping[str, object]] | None:
    if not (is_of(value, "pandas", "DataFrame") or is_of(value, "polars", "DataFrame") or is_of(value, "pyarrow", "Table")):
        return None
    with tempfile.TemporaryDirectory(prefix="mainspring-") as folder:
        path = Path(folder) / "value.parquet"
        try:
            write_parquet(value, path)
        except UsageError:
            raise
        except Exception:  # a column that Arrow has no type for: the frame travels as a pickle
            return None
        library = type(value).__module__.partition(".")[0]
        columns = [str(one) for one in _columns(value)]
        return ValueKind.PARQUET, path.read_bytes(), {"library": library, "rows": int(value.shape[0]), "columns": columns}


def _table(data: bytes, library: str) -> Any:
    what, source = "Reading this result", io.BytesIO(data)
    if library == "polars":
        return need("polars", what).read_parquet(source)
    if library == "pyarrow":
        return need("pyarrow.parquet", what, "data").read_table(source)
    return need("pandas", what).read_parquet(source)


def _columns(value: Any) -> list[object]:
    return list(value.column_names if hasattr(value, "column_names") else value.columns)[:200]


def _npy(value: Any) -> tuple[ValueKind, bytes, Mapping[str, object]] | None:
    if not is_of(value, "numpy", "ndarray") or value.dtype.hasobject:
        return None
    buffer = io.BytesIO()
    need("numpy", "Sending an array").save(buffer, value, allow_pickle=False)
    return ValueKind.NPY, buffer.getvalue(), {"shape": list(value.shape), "dtype": str(value.dtype)}
