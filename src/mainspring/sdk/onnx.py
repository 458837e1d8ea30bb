"""Estimators converted to ONNX and compared with the original on sample rows: data instead of code, and faster to serve."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring.core.errors import UsageError
from mainspring.sdk.extras import need

MAX_ROWS = 1000
RELATIVE, ABSOLUTE = 1e-3, 1e-4
_NUMPY = {"tensor(double)": "float64", "tensor(int64)": "int64", "tensor(string)": "object", "tensor(bool)": "bool"}


@dataclass(frozen=True, slots=True)
class Converted:
    """The ONNX bytes (empty: kept native) and what the comparison gave."""

    data: bytes
    verification: dict[str, object]


def signature_of(sample: Any, estimator: Any) -> dict[str, object]:
    """Return the inputs and outputs as the serving process reads them: one input a column, or one matrix."""
    inputs: list[dict[str, object]]
    if hasattr(sample, "columns"):
        inputs = [{"name": str(name), "dtype": _word(sample[name].dtype)} for name in sample.columns]
    else:
        array = need("numpy", "A model's sample").asarray(sample)
        if array.ndim != 2:
            raise UsageError(f"The sample has {array.ndim} dimensions; rows and columns are needed.", hint="sample=X[:200]")
        inputs = [{"name": "x", "dtype": _word(array.dtype), "shape": [-1, int(array.shape[1])]}]
    if hasattr(estimator, "predict_proba"):
        outputs = [{"name": "label", "dtype": "int64"}, {"name": "probabilities", "dtype": "float32"}]
    else:
        outputs = [{"name": "prediction", "dtype": "float32"}]
    return {"inputs": inputs, "outputs": outputs}


def convert(estimator: Any, sample: Any) -> Converted:
    """Try to convert and verify; anything that goes wrong is a note and keeps the model native, it never raises."""
    rows = sample[:MAX_ROWS]
    told: dict[str, object] = {"rows": len(rows), "max_abs_difference": None, "is_verified": False, "note": ""}
    notes = []
    for by_column in (False, True):
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                data = _converted(estimator, rows, by_column)
                difference, is_close = _compare(estimator, data, rows)
        except Exception as wrong:  # converters raise anything; a native model is the answer to all of it
            notes.append(f"{type(wrong).__name__}: {str(wrong).strip().splitlines()[0][:200] if str(wrong).strip() else ''}")
            continue
        told["max_abs_difference"] = difference
        if is_close:
            return Converted(data, {**told, "is_verified": True})
        notes.append(f"differs by up to {difference:.3g} on the sample")
        break
    told["note"] = notes[0] if notes else "not converted"
    return Converted(b"", told)


class OnnxModel:
    """Predicts with an ONNX file, with the methods of the original."""

    def __init__(self, path: Path | bytes) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it tells its maker of the models that it loads
        runtime = need("onnxruntime", "Predicting with this model", "serving")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self._session = runtime.InferenceSession(
            path if isinstance(path, bytes) else str(path), options, providers=["CPUExecutionProvider"]
        )
        self._outputs = [one.name for one in self._session.get_outputs()]

    @property
    def is_classifier(self) -> bool:
        """Say whether the model gives labels and probabilities."""
        return len(self._outputs) == 2 and "label" in self._outputs[0].lower()

    def predict(self, rows: Any) -> Any:
        """Return labels, or predicted numbers (rows,)."""
        found = self._run(rows)[0]
        return found.reshape(-1) if getattr(found, "ndim", 1) == 2 and found.shape[1] == 1 else found

    def predict_proba(self, rows: Any) -> Any:
        """Return probabilities (rows, classes)."""
        if not self.is_classifier:
            raise AttributeError("this model gives no probabilities")
        found = self._run(rows)[1]
        numpy = need("numpy", "Predicting")
        return numpy.array([list(row.values()) for row in found]) if isinstance(found, list) else found

    def _run(self, rows: Any) -> Any:
        return self._session.run(self._outputs, self._fed(rows))

    def _fed(self, rows: Any) -> Mapping[str, Any]:
        numpy = need("numpy", "Predicting")
        inputs = self._session.get_inputs()
        if len(inputs) == 1 and len(inputs[0].shape) == 2 and inputs[0].shape[1] != 1:
            return {inputs[0].name: numpy.ascontiguousarray(numpy.asarray(rows), dtype=_numpy(inputs[0].type))}
        matrix = rows if hasattr(rows, "columns") else None
        fed = {}
        for position, one in enumerate(inputs):
            column = matrix[one.name] if matrix is not None and one.name in matrix.columns else numpy.asarray(rows)[:, position]
            fed[one.name] = numpy.asarray(column).astype(_numpy(one.type)).reshape(-1, 1)
        return fed


def _converted(estimator: Any, sample: Any, by_column: bool) -> bytes:
    family = type(estimator).__module__.partition(".")[0]
    tools = "onnxmltools" if family in ("lightgbm", "xgboost") else "skl2onnx"
    types = need(f"{tools}.convert.common.data_types" if tools == "onnxmltools" else "skl2onnx.common.data_types", "ONNX", "onnx")
    if by_column:
        if not hasattr(sample, "columns"):
            raise UsageError("An array has no columns.")
        initial = [(str(name), _typed(types, sample[name].dtype, 1)) for name in sample.columns]
    else:
        width = len(sample.columns) if hasattr(sample, "columns") else sample.shape[1]
        if hasattr(sample, "columns") and any(_word(sample[name].dtype) == "string" for name in sample.columns):
            raise UsageError("A column of text does not fit into a matrix of numbers.")
        initial = [("X", types.FloatTensorType([None, width]))]
    if family == "lightgbm":
        lightgbm = need("onnxmltools", "Converting this model", "onnx").convert_lightgbm
        made = lightgbm(estimator, initial_types=initial, zipmap=False)
    elif family == "xgboost":
        made = need("onnxmltools", "Converting this model", "onnx").convert_xgboost(estimator, initial_types=initial)
    else:
        options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "predict_proba") else None
        made = need("skl2onnx", "Converting this model", "onnx").convert_sklearn(
            estimator, initial_types=initial, options=options
        )
    return bytes(made.SerializeToString())


def _compare(estimator: Any, data: bytes, sample: Any) -> tuple[float, bool]:
    """Return (largest absolute difference, whether every row is close) between the original and the converted model."""
    numpy = need("numpy", "Comparing models")
    converted = OnnxModel(data)
    if hasattr(estimator, "predict_proba"):
        expected, actual = numpy.asarray(estimator.predict_proba(sample)), numpy.asarray(converted.predict_proba(sample))
    else:
        expected, actual = (
            numpy.asarray(estimator.predict(sample)).reshape(-1),
            numpy.asarray(converted.predict(sample)).reshape(-1),
        )
    if expected.shape != actual.shape:
        raise ValueError(f"shapes differ: {expected.shape} and {actual.shape}")
    if expected.dtype.kind not in "fiub":
        same = bool((expected.astype(str) == actual.astype(str)).all())
        return (0.0 if same else 1.0), same
    difference = float(numpy.max(numpy.abs(expected.astype(float) - actual.astype(float)), initial=0.0))
    return difference, bool(numpy.allclose(expected, actual, rtol=RELATIVE, atol=ABSOLUTE))


def _typed(types: Any, dtype: Any, width: int) -> Any:
    word = _word(dtype)
    if word == "string":
        return types.StringTensorType([None, width])
    return (types.Int64TensorType if word.startswith(("int", "uint")) else types.FloatTensorType)([None, width])


def _word(dtype: Any) -> str:
    """Return `float64`, `int64`, `bool`, `string`: what the serving process reads."""
    kind = getattr(dtype, "kind", "O")
    if kind in "OUS" or "string" in str(dtype) or "category" in str(dtype):
        return "string"
    return {"b": "bool"}.get(kind, str(dtype).lower())


def _numpy(onnx_type: str) -> Any:
    return _NUMPY.get(onnx_type, "float32")
