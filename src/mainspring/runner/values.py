"""Arguments and results of tasks as files, by kind: JSON, Parquet, npy, pickle last; data sets and models as folders.

It loads little before that is needed: a short call is mostly the start of its interpreter.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from typing import Any

MAX_JSON_BYTES = 1_000_000


def load(value: dict[str, Any]) -> Any:
    """Return the argument that a value stands for."""
    kind, path = value["kind"], value["path"]
    if kind == "json":
        if not path:
            return value["json"]
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    if kind == "parquet":
        return _frame(path, value["meta"])
    if kind == "npy":
        return importlib.import_module("numpy").load(path, allow_pickle=False)
    if kind == "pickle":
        with open(path, "rb") as file:
            return unpickle(file.read())
    if kind in ("dataset", "model"):
        return _by_folder(kind, path, value)
    return path


def _frame(path: str, meta: dict[str, Any]) -> Any:
    library = str(meta.get("library") or "pandas")
    if library == "polars":
        return importlib.import_module("polars").read_parquet(path)
    if library == "pyarrow":
        return importlib.import_module("pyarrow.parquet").read_table(path)
    return importlib.import_module("pandas").read_parquet(path)


def _by_folder(kind: str, path: str, value: dict[str, Any]) -> Any:
    """Return the SDK's Dataset or Model (or the shim's); its class may take the folder by `__mainspring_load__`."""
    found = getattr(importlib.import_module("mainspring"), "Dataset" if kind == "dataset" else "Model")
    make = getattr(found, "__mainspring_load__", None)
    return make(path, {**value["meta"], "digest": value["digest"]}) if make is not None else found(path)


def unpickle(data: bytes) -> Any:
    """Return what a pickle holds. It is the user's own, opened in the user's own process only."""
    return importlib.import_module("pickle").loads(data)


def save(result: Any, out: str) -> None:
    """Write the result to `out/result` and its description to `out/result.json`."""
    target = os.path.join(out, "result")
    if os.path.isdir(target):
        importlib.import_module("shutil").rmtree(target)
    told = _save(result, target)
    draft = os.path.join(out, "result.json.draft")
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(told, file)
    os.replace(draft, os.path.join(out, "result.json"))


def _save(result: Any, target: str) -> dict[str, Any]:
    own = getattr(result, "__mainspring_save__", None)
    if own is not None and not isinstance(result, type):
        os.makedirs(target)
        told = own(target)
        return {"kind": told["kind"], "meta": told.get("meta") or {}}
    plain = _plain(result)
    if is_json(plain):
        text = json.dumps(plain, ensure_ascii=False)
        if len(text.encode("utf-8", "surrogatepass")) <= MAX_JSON_BYTES:
            return {"kind": "json", "json": plain}
    library = type(result).__module__.split(".")[0]
    name = type(result).__name__
    if library == "pandas" and name == "DataFrame":
        result.to_parquet(target)
        return {"kind": "parquet", "meta": _shape(result, "pandas")}
    if library == "polars" and name == "DataFrame":
        result.write_parquet(target)
        return {"kind": "parquet", "meta": _shape(result, "polars")}
    if library == "pyarrow" and name == "Table":
        importlib.import_module("pyarrow.parquet").write_table(result, target)
        return {"kind": "parquet", "meta": _shape(result, "pyarrow")}
    if library == "numpy" and name == "ndarray" and not result.dtype.hasobject:
        with open(target, "wb") as file:
            importlib.import_module("numpy").save(file, result, allow_pickle=False)
        return {"kind": "npy", "meta": {"shape": list(result.shape), "dtype": str(result.dtype)}}
    with open(target, "wb") as file:
        file.write(_pickled(result))
    return {"kind": "pickle", "meta": {"type": f"{type(result).__module__}.{type(result).__qualname__}"}}


def _shape(frame: Any, library: str) -> dict[str, Any]:
    columns = frame.column_names if library == "pyarrow" else list(frame.columns)
    return {"library": library, "rows": int(frame.shape[0]), "columns": [str(name) for name in columns]}


def _pickled(result: Any) -> bytes:
    try:
        return bytes(importlib.import_module("cloudpickle").dumps(result))
    except ImportError:
        return bytes(importlib.import_module("pickle").dumps(result))


def _plain(value: Any) -> Any:
    """Return `value` with NumPy's scalars as Python's, so that figures of a model are JSON and not a pickle."""
    if type(value) in (list, tuple):
        return [_plain(one) for one in value]
    if type(value) is dict:
        return {key: _plain(one) for key, one in value.items()}
    if type(value).__module__.split(".")[0] == "numpy" and hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    return value


def is_json(value: Any) -> bool:
    """Say whether JSON gives the value back (a tuple comes back as a list; text keys and finite numbers only)."""
    if value is None or isinstance(value, (bool, str)):
        return True
    if isinstance(value, int):
        return type(value) is int and -(1 << 63) <= value < 1 << 63
    if isinstance(value, float):
        return type(value) is float and math.isfinite(value)
    if type(value) in (list, tuple):
        return all(is_json(one) for one in value)
    return type(value) is dict and all(type(key) is str and is_json(one) for key, one in value.items())
