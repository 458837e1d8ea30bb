"""Load a model folder into a `Model`: tensors in, tensors out, whatever it was made with.

A folder holds `model.json` and either `model.onnx` (data: nothing in it is executed) or `model.pkl` / `model.txt` (native).
Opening a pickle runs code, so native models are opened here, in the replica, and nowhere else in the server's tower.
"""

from __future__ import annotations

import importlib
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mainspring.core.codec import decode_any, from_plain
from mainspring.core.errors import ArtifactError, MainspringError, NotFoundError, SpecError

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]
Run = Callable[[Tensors], dict[str, Array]]

NUMPY_OF: Mapping[str, str] = {
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BOOL": "bool",
    "BYTES": "object",
}
_ALIASES: Mapping[str, str] = {
    **{numpy_name: datatype for datatype, numpy_name in NUMPY_OF.items()},
    "float": "FP64", "double": "FP64", "int": "INT64", "long": "INT64", "str": "BYTES", "string": "BYTES", "category": "BYTES",
    "boolean": "BOOL",
}  # fmt: skip
_ONNX_TYPES = {"float": "FP32", "double": "FP64", "float16": "FP16", "string": "BYTES", "bool": "BOOL"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array: `datatype` in the words of the Open Inference Protocol, `shape` with -1 for any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Feature:
    """One field of a record: a number or text, or a list of `width` numbers; `is_optional` lets it be absent or null."""

    name: str
    datatype: str
    width: int = 1
    is_list: bool = False
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model. `run` may be called from one thread at a time or many; it raises what the model raises.

    A classifier's outputs are `label` first, then `probabilities` (rows, classes).
    """

    name: str
    version: str
    format: str
    features: tuple[Feature, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    is_classifier: bool
    verification: Mapping[str, object]
    run: Run


class ModelFile(msgspec.Struct, frozen=True):
    """What `model.json` says; keys that we do not know are another version's and are ignored."""

    format: str
    signature: dict[str, Any]
    name: str = "model"
    version: str | int = ""
    loader: str = "pickle"
    verification: dict[str, Any] = {}


def load_model(folder: Path, *, threads: int = 1) -> Model:
    """Return the model of `folder`, run once on zeros where it can be. Raises NotFoundError, SpecError or ArtifactError."""
    file = read_model_file(folder)
    features = _features(file.signature)
    try:
        if file.format == "onnx":
            model = _load_onnx(folder / "model.onnx", file, features, threads)
        else:
            model = _load_native(folder, file, features)
    except MainspringError:
        raise
    except Exception as wrong:  # a pickle may raise anything: it is somebody's code
        raise ArtifactError(
            f"The {file.format} model in {str(folder)!r} cannot be opened: {type(wrong).__name__}: {str(wrong)[:300]}",
            hint="Check that the replica's environment has the packages the model was trained with.",
        ) from wrong
    _warm(model)
    return model


def read_model_file(folder: Path) -> ModelFile:
    """Return what `model.json` in `folder` says. Raises NotFoundError or SpecError."""
    path = folder / "model.json"
    try:
        data = path.read_bytes()
    except OSError as gone:
        raise NotFoundError(f"{str(path)!r} cannot be read.", hint="Give the folder of a registered model.") from gone
    file = from_plain(decode_any(data), ModelFile)
    if file.format not in ("onnx", "native"):
        raise SpecError(f"The model format is {file.format!r}.", hint="Known: onnx, native.", details={"path": "format"})
    return file


def datatype_of(text: str) -> str:
    """Return the protocol's word (`FP32`) for a numpy, Python or protocol name of a type. Raises SpecError."""
    found = text if text in NUMPY_OF else _ALIASES.get(text.lower())
    if found is None:
        raise SpecError(f"There is no data type {text!r}.", hint="Known: " + ", ".join(sorted(NUMPY_OF)) + ".")
    return found


def _features(signature: Mapping[str, Any]) -> tuple[Feature, ...]:
    inputs = signature.get("inputs")
    if not isinstance(inputs, list) or not inputs or not all(isinstance(one, dict) and one.get("name") for one in inputs):
        raise SpecError(
            "The model's signature names no inputs.", hint="Register the model again.", details={"path": "signature.inputs"}
        )
    found = []
    for one in inputs:
        sizes = [size for size in (one.get("shape") or [])[1:] if isinstance(size, int)]
        width = int(np.prod(sizes)) if sizes else 1
        is_optional = bool(one.get("optional", False))
        found.append(Feature(str(one["name"]), datatype_of(str(one.get("dtype", "FP64"))), width, width > 1, is_optional))
    if len({one.name for one in found}) != len(found):
        raise SpecError("Two inputs of the model have one name.", details={"path": "signature.inputs"})
    return tuple(found)


def _load_onnx(path: Path, file: ModelFile, features: tuple[Feature, ...], threads: int) -> Model:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it tells its maker of the models that it loads
    ort = importlib.import_module("onnxruntime")  # here: the environment of a native model may well be without it
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not path.is_file():
        raise NotFoundError(f"{str(path)!r} is not there.", hint="Register the model again.")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = tuple(_onnx_tensor(one) for one in session.get_inputs())
    names = [one.name for one in session.get_outputs()]
    is_classifier = len(names) == 2 and "label" in names[0].lower()
    widths = sum(one.width for one in features)
    if len(inputs) == 1 and len(inputs[0].shape) == 2 and inputs[0].shape[1] not in (-1, widths):
        raise SpecError(
            f"The model takes {inputs[0].shape[1]} values a row; its signature has {widths}.", hint="Register the model again."
        )
    if len(inputs) == 1 and len(inputs[0].shape) == 2:
        inputs = (Tensor(inputs[0].name, inputs[0].datatype, (-1, widths)),)
    elif {one.name for one in inputs} != {one.name for one in features}:
        raise SpecError("The names of the model's inputs are not those of its signature.", hint="Register the model again.")
    execute = session.run

    def run(tensors: Tensors) -> dict[str, Array]:
        return {name: _dense(value) for name, value in zip(names, execute(names, tensors), strict=True)}

    found = [_onnx_tensor(one) for one in session.get_outputs()]  # converters write [1] where they mean any number of rows
    outputs = tuple(Tensor(one.name, one.datatype, (-1, *one.shape[1:])) for one in found)
    return Model(
        file.name, str(file.version), "onnx", features, inputs, outputs, is_classifier, file.verification, run
    )  # fmt: skip


def _load_native(folder: Path, file: ModelFile, features: tuple[Feature, ...]) -> Model:
    made = _open_native(folder, file.loader)
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    if any(one.datatype == "BYTES" for one in features):
        inputs = tuple(Tensor(one.name, one.datatype, (-1, one.width)) for one in features)
    else:
        inputs = (Tensor("X", "FP64", (-1, sum(one.width for one in features))),)
    names = [one.name for one in features]
    columns = names if all(one.width == 1 for one in features) and hasattr(made, "feature_names_in_") else None

    def table(tensors: Tensors) -> Any:
        if len(inputs) == 1:
            matrix: Any = tensors[inputs[0].name]
            return matrix if columns is None else _frame(columns, matrix)
        if columns is not None:
            return _frame_of({name: tensors[name].reshape(-1) for name in columns})
        return np.concatenate([tensors[one.name].astype(object) for one in inputs], axis=1)

    if hasattr(made, "predict_proba") and hasattr(made, "classes_"):
        classes = np.asarray(made.classes_)

        def classify(tensors: Tensors) -> dict[str, Array]:
            probabilities = np.asarray(made.predict_proba(table(tensors)))
            return {"label": classes[probabilities.argmax(axis=1)], "probabilities": probabilities}

        kind = {"i": "INT64", "u": "INT64", "b": "BOOL", "f": "FP64"}.get(classes.dtype.kind, "BYTES")
        outputs = (Tensor("label", kind, (-1,)), Tensor("probabilities", "FP64", (-1, len(classes))))
        return Model(file.name, str(file.version), "native", features, inputs, outputs, True, file.verification, classify)
    if not callable(getattr(made, "predict", None)):
        raise SpecError(f"A {type(made).__name__} has no `predict`.", hint="Register an object with a `predict` method.")

    def predict(tensors: Tensors) -> dict[str, Array]:
        return {"prediction": _dense(made.predict(table(tensors)))}

    outputs = (Tensor("prediction", "FP64", (-1,)),)
    return Model(file.name, str(file.version), "native", features, inputs, outputs, False, file.verification, predict)


def _open_native(folder: Path, loader: str) -> Any:
    """Return the object that was registered; `loader` is `lightgbm` (a text file) or `pickle` and its kin."""
    text = folder / "model.txt"
    if loader == "lightgbm" and text.is_file():
        return importlib.import_module("lightgbm").Booster(model_file=str(text))
    path = folder / "model.pkl"
    if not path.is_file():
        raise NotFoundError(f"{str(path)!r} is not there.", hint="Register the model again.")
    if loader == "joblib":
        return importlib.import_module("joblib").load(path)
    with path.open("rb") as file:
        return pickle.load(file)  # noqa: S301 - the replica is where native models are meant to run


def _frame(columns: list[str], matrix: Array) -> Any:
    return importlib.import_module("pandas").DataFrame(matrix, columns=columns)


def _frame_of(columns: Mapping[str, Array]) -> Any:
    return importlib.import_module("pandas").DataFrame(dict(columns))


def _onnx_tensor(one: Any) -> Tensor:
    """Return what ONNX Runtime says of an input or output; sequences of maps (zipmap) are served as matrices."""
    kind = str(one.type)
    inner = kind[len("tensor(") : -1] if kind.startswith("tensor(") else "float"
    datatype = _ONNX_TYPES.get(inner, inner.upper())
    if datatype not in NUMPY_OF:
        raise SpecError(f"The model has an input or output of type {kind}.", hint="Keep it native.")
    shape = tuple(size if isinstance(size, int) else -1 for size in (one.shape or [])) or (-1,)
    return Tensor(str(one.name), datatype, shape if kind.startswith("tensor(") else (-1, -1))


def _dense(value: Any) -> Array:
    """Return an array; the list of {class: probability} that a zipmap gives becomes (rows, classes)."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return np.array([list(row.values()) for row in value], dtype=np.float32)
    return np.asarray(value)


def _warm(model: Model) -> None:
    """Run one row of zeros, so that the first user does not pay for lazy set-up; only where zeros are surely valid."""
    if model.format == "onnx" and all(one.datatype != "BYTES" for one in model.inputs):
        shapes = {one.name: tuple(1 if size == -1 else size for size in one.shape) for one in model.inputs}
        model.run({one.name: np.zeros(shapes[one.name], dtype=NUMPY_OF[one.datatype]) for one in model.inputs})


def threads_granted() -> int:
    """Return the threads that the backend granted (`OMP_NUM_THREADS`), else 1."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(text)) if text.isdigit() else 1
