"""The one door between records and JSON. Over msgspec: strict, fast, and wrong fields are named by their path.

`encode` is canonical (keys sorted), so equal values give equal bytes: fingerprints and digests rest on it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from mainspring.core.errors import SpecError

T = TypeVar("T")
_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_ENCODER = msgspec.json.Encoder(order="sorted", decimal_format="string")
_decoders: dict[object, msgspec.json.Decoder[Any]] = {}
_learning = threading.Lock()


def encode(value: object) -> bytes:
    """Return canonical JSON of a record or of plain JSON values. Raises SpecError for what JSON cannot hold."""
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError, msgspec.MsgspecError) as wrong:
        raise SpecError(f"This value cannot be written as JSON: {wrong}.") from wrong


def decoder(cls: type[T]) -> msgspec.json.Decoder[T]:
    """Return the decoder of a type, made once and shared; every type with fields that is decoded to goes through here first.

    msgspec 0.22 lets other threads see a type that it has only begun to read, and their use of it ends the process (SIGSEGV in
    `json_decode`). So types are read one at a time, each to its end.
    """
    found = _decoders.get(cls)
    if found is None:
        with _learning:
            found = _decoders[cls] = msgspec.json.Decoder(cls)
    return found


def decode(data: bytes | str, cls: type[T]) -> T:
    """Return the `cls` that `data` describes. Raises SpecError with `details["path"]`; unknown fields are refused."""
    try:
        plain = msgspec.json.decode(data)
        return from_plain(plain, cls)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise _explained(wrong) from wrong


def decode_any(data: bytes | str) -> Any:
    """Return plain JSON values. Raises SpecError."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise _explained(wrong) from wrong


def to_plain(value: object) -> Any:
    """Return `value` as dictionaries, lists, strings and numbers (times as ISO 8601)."""
    return msgspec.to_builtins(value, str_keys=True, order="sorted")


def from_plain(plain: object, cls: type[T]) -> T:
    """Return the `cls` that plain JSON values describe; the inverse of `to_plain`. Raises SpecError."""
    made = from_newer(plain, cls)
    _refuse_unknown(plain, made, "")
    return made


def from_newer(plain: object, cls: type[T]) -> T:
    """Return the `cls` of what another version wrote: as `from_plain`, but fields that are not known here are passed over."""
    decoder(cls)
    try:
        return msgspec.convert(plain, cls, strict=True)
    except msgspec.MsgspecError as wrong:
        raise _explained(wrong) from wrong


def _refuse_unknown(plain: object, made: object, path: str) -> None:
    """Raise SpecError for a key of `plain` that is no field of the dataclass `made` (msgspec ignores them for dataclasses)."""
    if isinstance(plain, Mapping) and hasattr(made, "__dataclass_fields__"):
        fields = made.__dataclass_fields__
        for key, inner in plain.items():
            if key not in fields:
                where = f"{path}.{key}".lstrip(".")
                raise SpecError(
                    f"There is no field {where!r}.",
                    hint="Known here: " + ", ".join(sorted(fields)) + ". Another version may know it: mainspring --version",
                    details={"path": where},
                )
            _refuse_unknown(inner, getattr(made, key), f"{path}.{key}")
    elif isinstance(plain, Mapping) and isinstance(made, Mapping):
        for key, inner in plain.items():
            _refuse_unknown(inner, made.get(key), f"{path}.{key}")
    elif isinstance(plain, list) and isinstance(made, tuple | list):
        for position, (inner, one) in enumerate(zip(plain, made, strict=False)):
            _refuse_unknown(inner, one, f"{path}[{position}]")


def _explained(wrong: Exception) -> SpecError:
    text = str(wrong)
    found = _PATH.search(text)
    path = found["path"].lstrip(".") if found else ""
    said = _PATH.sub("", text)
    place = f" at {path!r}" if path else ""
    return SpecError(f"The JSON is not what is expected{place}: {said}.", details={"path": path})


def parse_time(text: str) -> datetime:
    """Return the timezone-aware moment of an ISO 8601 text. Raises SpecError."""
    return from_plain(text, datetime)
