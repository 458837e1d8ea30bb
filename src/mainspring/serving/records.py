"""Records to tensors and tensors to predictions, checked on the way in by a decoder made for the model's signature.

msgspec compiles the signature into one decoder, so that a good request is parsed, checked and typed in one pass; only a refused
one is looked at again to say what is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import numpy as np

from mainspring.core.codec import decoder
from mainspring.core.errors import MainspringError, SpecError, TooLargeError
from mainspring.serving.models import NUMPY_OF, Array, Feature, Model, Tensors

MAX_ROWS = 10_000
_PLACE = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_MANY = re.compile(rb'^\s*\{\s*"records"\s*:')
_LIST = re.compile(rb"^\s*\[")
_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


def reader_of(model: Model) -> Callable[[bytes], Tensors]:
    """Return the function that turns a body of records into the tensors of `model`.

    It takes `{"records": [{…}]}`, `[{…}]` or one `{…}`, and raises SpecError (`details`: `row`, `field`) or TooLargeError.
    """
    record = _record_type(model.features)
    one = decoder(record)
    many = decoder(list[record])  # type: ignore[valid-type]
    fields: list[Any] = [("records", list[record])]  # type: ignore[valid-type]
    wrapped: msgspec.json.Decoder[Any] = decoder(msgspec.defstruct("Records", fields, forbid_unknown_fields=True))
    has_own_records = any(feature.name == "records" for feature in model.features)
    to_tensors = _assembler(model)

    def read(body: bytes) -> Tensors:
        try:
            if _LIST.match(body):
                rows: list[Any] = many.decode(body)
            elif not has_own_records and _MANY.match(body):
                rows = wrapped.decode(body).records
            else:
                rows = [one.decode(body)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
            raise _explained(wrong, model) from wrong
        if not rows:
            raise SpecError("There are no records.", hint="Send at least one record.", details={"path": "records"})
        if len(rows) > MAX_ROWS:
            raise TooLargeError(
                f"{len(rows):,} records in one request; the limit is {MAX_ROWS:,}.",
                hint="Send them in several requests.",
                details={"rows": len(rows), "limit": MAX_ROWS},
            )
        return to_tensors(rows)

    return read


def predictions_of(model: Model) -> Callable[[dict[str, Array]], list[object]]:
    """Return the function that turns a model's outputs into one prediction a record.

    A classifier gives `{"label", "probability"}`: with two classes the probability of the second (positive) one, with more that
    of the label. Anything else gives its plain number, or a list of them. With several outputs: `{name: value}`.
    """

    def classes(outputs: dict[str, Array]) -> list[object]:
        label, probabilities = outputs.values()
        chosen = probabilities[:, 1] if probabilities.ndim == 2 and probabilities.shape[1] == 2 else _highest(probabilities)
        pairs = zip(label.reshape(-1).tolist(), chosen.tolist(), strict=True)
        return [{"label": one, "probability": probability} for one, probability in pairs]

    def values(outputs: dict[str, Array]) -> list[object]:
        columns = {name: _squeezed(value).tolist() for name, value in outputs.items()}
        if len(columns) == 1:
            return list(next(iter(columns.values())))
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    return classes if model.is_classifier else values


def _record_type(features: tuple[Feature, ...]) -> type[msgspec.Struct]:
    fields: list[Any] = []
    rename: dict[str, str] = {}
    for position, feature in enumerate(features):
        kind: Any = _python_type(feature)
        if feature.is_optional:
            kind = kind | None
        fields.append((f"f{position}", kind, None) if feature.is_optional else (f"f{position}", kind))
        rename[f"f{position}"] = feature.name
    return msgspec.defstruct(
        "Record", fields, rename=lambda name: rename[name], forbid_unknown_fields=True, kw_only=True, gc=False
    )


def _python_type(feature: Feature) -> Any:
    if feature.datatype == "BYTES":
        kind: Any = str
    elif feature.datatype == "BOOL":
        kind = bool
    elif "INT" in feature.datatype:
        kind = _INT64
    else:
        kind = float
    if feature.is_list:
        return Annotated[list[kind], msgspec.Meta(min_length=feature.width, max_length=feature.width)]
    return kind


def _assembler(model: Model) -> Callable[[list[Any]], Tensors]:
    """Return the function from checked records to tensors: one matrix, or one column an input."""
    astuple = msgspec.structs.astuple
    features = model.features
    if len(model.inputs) == 1 and len(model.inputs[0].shape) == 2:
        name, dtype = model.inputs[0].name, NUMPY_OF[model.inputs[0].datatype]
        is_flat = not any(feature.is_list for feature in features)
        is_number = dtype != "object"

        def matrix(rows: list[Any]) -> Tensors:
            tuples = [astuple(row) for row in rows]
            if not is_flat:
                tuples = [tuple(_spread(row)) for row in tuples]
            try:
                with np.errstate(over="ignore"):
                    made = np.array(tuples, dtype=dtype)
            except (OverflowError, TypeError, ValueError) as wrong:
                raise SpecError(f"A value does not fit {dtype}.", hint="Send smaller numbers.") from wrong
            if is_number and not np.isfinite(made).all():
                _refuse_infinite(tuples, made, features)
            return {name: made}

        return matrix

    def columns(rows: list[Any]) -> Tensors:
        made: dict[str, Array] = {}
        by_name = {tensor.name: tensor for tensor in model.inputs}
        for feature, values in zip(features, zip(*(astuple(row) for row in rows), strict=True), strict=True):
            tensor = by_name[feature.name]
            try:
                with np.errstate(over="ignore"):
                    array = np.array(values, dtype=NUMPY_OF[tensor.datatype])
            except (OverflowError, TypeError, ValueError) as wrong:
                raise SpecError(
                    f"A value of {feature.name!r} does not fit {tensor.datatype}.",
                    hint="Send smaller numbers.",
                    details={"field": feature.name},
                ) from wrong
            made[feature.name] = array.reshape(len(rows), -1) if len(tensor.shape) == 2 else array.reshape(len(rows))
        return made

    return columns


def _spread(row: tuple[Any, ...]) -> list[Any]:
    flat: list[Any] = []
    for value in row:
        flat.extend(value) if isinstance(value, list) else flat.append(value)
    return flat


def _refuse_infinite(tuples: list[tuple[Any, ...]], made: Array, features: tuple[Feature, ...]) -> None:
    """Raise SpecError for the first number too large for the model's type; an optional field's null may stay NaN."""
    names = [feature.name for feature in features for _ in range(feature.width)]
    for row, column in np.argwhere(~np.isfinite(made)).tolist():
        if tuples[row][column] is not None:
            name = names[column]
            raise SpecError(
                f"{name!r} of record {row} does not fit the model's {made.dtype}.",
                hint="Send a smaller number.",
                details={"row": row, "field": name},
            )


def _explained(wrong: Exception, model: Model) -> MainspringError:
    """Return what is wrong with a body, naming record and field."""
    text = str(wrong)
    found = _PLACE.search(text)
    path = found["path"] if found else ""
    said = _PLACE.sub("", text)
    row = re.search(r"\[(\d+)\]", path)
    quoted = re.search(r"`([^`]*)`$", said)
    is_field = "field" in said and quoted is not None
    field = quoted[1] if is_field and quoted else path.rpartition(".")[2].partition("[")[0]
    field = "" if field in ("records", "...") else field
    details: dict[str, object] = {"path": path.lstrip("."), "field": field, "row": int(row[1]) if row else 0}
    names = ", ".join(feature.name for feature in model.features)
    if not isinstance(wrong, msgspec.ValidationError):
        return SpecError(
            f"The body is not JSON: {said}.", hint='Send {"records": [{…}]}; NaN and Infinity are no JSON.', details={"path": ""}
        )
    if "unknown field" in said:
        return SpecError(f"The model has no field {field!r}.", hint=f"It takes: {names}.", details=details)
    if "missing required field" in said:
        return SpecError(f"Record {details['row']} has no field {field!r}.", hint=f"It takes: {names}.", details=details)
    where = f"{field!r} of record {details['row']}" if field else "The body"
    return SpecError(f"{where} is wrong: {said}.", hint=f"The model takes: {names}.", details=details)


def _highest(probabilities: Array) -> Array:
    return probabilities.max(axis=1) if probabilities.ndim == 2 else probabilities.reshape(-1)


def _squeezed(value: Array) -> Array:
    return value.reshape(-1) if value.ndim == 2 and value.shape[1] == 1 else value
