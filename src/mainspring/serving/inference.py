"""The Open Inference Protocol v2: metadata, and `infer` requests with tensors as JSON.

Source: the protocol's REST specification (kserve/open-inference-protocol). Binary tensors are not part of this version.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from mainspring.core.codec import decoder
from mainspring.core.errors import SpecError, TooLargeError
from mainspring.serving.models import NUMPY_OF, Array, Model, Tensor, Tensors
from mainspring.serving.records import MAX_ROWS

EXTENSIONS: tuple[str, ...] = ()


class InferInput(msgspec.Struct):
    """One tensor of a request; `data` is flat or nested, row by row."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw
    parameters: dict[str, Any] = {}


class InferOutput(msgspec.Struct):
    """A wish for one output."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    """A request for inference."""

    inputs: list[InferInput]
    id: str = ""
    outputs: list[InferOutput] = []
    parameters: dict[str, Any] = {}


_DECODER = decoder(InferRequest)


def read_infer(body: bytes, model: Model) -> tuple[InferRequest, Tensors]:
    """Return the request and its tensors, checked against the model. Raises SpecError or TooLargeError."""
    try:
        request = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise SpecError(
            f"The body is no inference request: {wrong}.",
            hint='Send {"inputs": [{"name", "shape", "datatype", "data"}]}.',
            details={"path": "inputs"},
        ) from wrong
    expected = {tensor.name: tensor for tensor in model.inputs}
    given = [one.name for one in request.inputs]
    for name in given:
        if name not in expected:
            raise _wrong(name, f"The model has no input {name[:80]!r}.", "It takes: " + ", ".join(expected) + ".")
    for name in expected:
        if given.count(name) != 1:
            raise _wrong(name, f"The input {name!r} is given {given.count(name)} times.", "Give it once.")
    known = {tensor.name for tensor in model.outputs}
    for wish in request.outputs:
        if wish.name not in known:
            raise _wrong(wish.name, f"The model has no output {wish.name[:80]!r}.", "It has: " + ", ".join(sorted(known)) + ".")
    tensors = {one.name: _read_tensor(one, expected[one.name]) for one in request.inputs}
    if len({len(array) for array in tensors.values()}) > 1:
        raise _wrong("", "The inputs have different numbers of rows.", "Give every input the same first dimension.")
    return request, tensors


def write_infer(request: InferRequest, outputs: dict[str, Array], model: Model) -> dict[str, object]:
    """Return the answer to `request`."""
    wanted = {wish.name for wish in request.outputs} or set(outputs)
    shown = [
        {"name": name, "shape": list(value.shape), "datatype": _datatype(value), "data": value.reshape(-1).tolist()}
        for name, value in outputs.items()
        if name in wanted
    ]
    answer: dict[str, object] = {"model_name": model.name, "outputs": shown}
    if model.version:
        answer["model_version"] = model.version
    if request.id:
        answer["id"] = request.id
    return answer


def metadata_of(model: Model) -> dict[str, object]:
    """Return the metadata of `model`."""
    return {
        "name": model.name,
        "versions": [model.version] if model.version else [],
        "platform": "onnx_onnxv1" if model.format == "onnx" else "python",
        "inputs": [_shown(tensor) for tensor in model.inputs],
        "outputs": [_shown(tensor) for tensor in model.outputs],
    }


def _read_tensor(one: InferInput, tensor: Tensor) -> Array:
    if one.datatype != tensor.datatype:
        raise _wrong(
            one.name,
            f"The input {one.name!r} is {one.datatype[:20]!r}; the model takes {tensor.datatype}.",
            f'Send "datatype": "{tensor.datatype}".',
        )
    shape = tuple(one.shape)
    is_fitting = len(shape) == len(tensor.shape) and all(
        size > 0 and want in (-1, size) for size, want in zip(shape, tensor.shape, strict=True)
    )
    if not is_fitting:
        raise _wrong(one.name, f"The input {one.name!r} has the shape {list(shape)[:8]}.", f"Send {list(tensor.shape)}.")
    if shape[0] > MAX_ROWS:
        raise TooLargeError(f"{shape[0]:,} rows in one request; the limit is {MAX_ROWS:,}.", hint="Send several requests.")
    dtype = NUMPY_OF[tensor.datatype]
    kind = {"BOOL": bool, "BYTES": str}.get(tensor.datatype, int if "INT" in tensor.datatype else float)
    values = _flat(msgspec.json.decode(one.data), one.name)
    try:
        checked = msgspec.convert(values, list[kind])  # type: ignore[valid-type]
        with np.errstate(over="ignore"):
            array = np.array(checked, dtype=dtype)
    except (msgspec.ValidationError, OverflowError, ValueError) as wrong:
        raise _wrong(one.name, f"The data of {one.name!r} does not fit {tensor.datatype}: {wrong}.", "Check the data.") from wrong
    if array.size != int(np.prod(shape)):
        raise _wrong(one.name, f"The data of {one.name!r} has {array.size} values; its shape says {int(np.prod(shape))}.", "")
    if dtype.startswith("float") and not np.isfinite(array).all():
        raise _wrong(one.name, f"The data of {one.name!r} has a number too large for {tensor.datatype}.", "Send smaller ones.")
    return array.reshape(shape)


def _flat(values: object, name: str) -> list[Any]:
    """Return nested lists as one flat list; the protocol allows both. Goes no deeper than tensors do."""
    if not isinstance(values, list):
        raise _wrong(name, f"The data of {name!r} is not a list.", "Send a list of numbers.")
    for _ in range(8):
        if not any(isinstance(value, list) for value in values):
            return values
        if not all(isinstance(value, list) for value in values):
            raise _wrong(name, f"The data of {name!r} is nested unevenly.", "Send a flat list.")
        values = [inner for value in values for inner in value]
    raise _wrong(name, f"The data of {name!r} is nested too deep.", "Send a flat list.")


def _datatype(value: Array) -> str:
    return {"int64": "INT64", "int32": "INT32", "float32": "FP32", "float64": "FP64", "bool": "BOOL"}.get(
        value.dtype.name, "BYTES"
    )


def _shown(tensor: Tensor) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _wrong(field: str, message: str, hint: str) -> SpecError:
    return SpecError(message, hint=hint, details={"path": "inputs", "field": field[:200]})
