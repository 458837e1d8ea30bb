"""Search spaces of sweeps as people write them: `log:1e-3:0.3`, `choice:adam,sgd`, or `ms.loguniform(1e-3, 0.3)`.

The constructors return a dimension without a name; a sweep gives it the name of the parameter (`named`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from mainspring.core.errors import SpecError
from mainspring.core.records import Dimension

KINDS = ("float", "log", "int", "choice")
MAX_DIMENSIONS = 256
MAX_CHOICES = 10_000
_FORMS = "log:1e-3:0.3, uniform:0:1, int:1:8 or choice:a,b,c"
_BY_WORD = {"log": "log", "loguniform": "log", "uniform": "float", "float": "float", "int": "int"}


def uniform(low: float, high: float) -> Dimension:
    """Return a dimension of numbers between `low` and `high`. Raises SpecError."""
    return check_dimension(Dimension(name="", kind="float", low=_number(low), high=_number(high)))


def loguniform(low: float, high: float) -> Dimension:
    """Return a dimension of positive numbers, searched by order of magnitude. Raises SpecError."""
    return check_dimension(Dimension(name="", kind="log", low=_number(low), high=_number(high)))


def integers(low: int, high: int) -> Dimension:
    """Return a dimension of whole numbers, both ends included. Raises SpecError."""
    return check_dimension(Dimension(name="", kind="int", low=_number(low), high=_number(high)))


def choice(*options: object) -> Dimension:
    """Return a dimension of listed JSON values: `choice("adam", "sgd")` or `choice(["adam", "sgd"])`. Raises SpecError."""
    listed = options[0] if len(options) == 1 and isinstance(options[0], list | tuple) else options
    return check_dimension(Dimension(name="", kind="choice", choices=tuple(listed)))


def named(name: str, dimension: Dimension) -> Dimension:
    """Return `dimension` as that of parameter `name`."""
    return replace(dimension, name=name)


def parse_dimension(text: str, name: str = "") -> Dimension:
    """Return the dimension of `text`: `log:1e-3:0.3`, `uniform:0:1`, `int:1:8`, `choice:a,b,c`. Raises SpecError.

    Choices that read as numbers are numbers, `true` and `false` are booleans, everything else is text.
    """
    word, _, rest = text.partition(":")
    word = word.strip().lower()
    if word == "choice":
        listed = tuple(_scalar(part.strip()) for part in rest.split(",")) if rest.strip() else ()
        return check_dimension(Dimension(name=name, kind="choice", choices=listed))
    ends = rest.split(":")
    if word not in _BY_WORD or len(ends) != 2:
        raise _wrong(name, f"{text!r} is not a search space.")
    try:
        low, high = float(ends[0]), float(ends[1])
    except ValueError as wrong:
        raise _wrong(name, f"The ends of {text!r} are not numbers.") from wrong
    return check_dimension(Dimension(name=name, kind=_BY_WORD[word], low=low, high=high))


def check_dimension(dimension: Dimension) -> Dimension:
    """Return `dimension` if something can be drawn from it. Raises SpecError."""
    name, low, high = dimension.name, dimension.low, dimension.high
    if dimension.kind not in KINDS:
        raise _wrong(name, f"{dimension.kind!r} is no kind of search space.")
    if dimension.kind == "choice":
        return _check_choices(dimension)
    if not (math.isfinite(low) and math.isfinite(high) and math.isfinite(high - low)):
        raise _wrong(name, f"{low} to {high} is not a range of numbers.")
    if low > high:
        raise _wrong(name, f"The range begins at {low:g}, after its end {high:g}.")
    if dimension.kind == "log" and low <= 0:
        raise _wrong(name, f"A logarithmic range begins above 0, not at {low:g}.")
    if dimension.kind == "int" and (low != int(low) or high != int(high) or max(abs(low), abs(high)) > 2**53):
        raise _wrong(name, f"{low:g} to {high:g} is not a range of whole numbers.")
    return dimension


def check_space(space: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """Return `space` if it has dimensions, each of its own name, each meaningful. Raises SpecError."""
    if not space:
        raise SpecError("The sweep searches nothing.", hint=f"Add a dimension: {_FORMS}.", details={"path": "space"})
    if len(space) > MAX_DIMENSIONS:
        raise _wrong("", f"{len(space)} dimensions are searched; the limit is {MAX_DIMENSIONS}.")
    seen: set[str] = set()
    for dimension in space:
        if not dimension.name or dimension.name in seen:
            raise _wrong(dimension.name, f"Two dimensions are named {dimension.name!r}, or one has no name.")
        seen.add(dimension.name)
        check_dimension(dimension)
    return tuple(space)


def _check_choices(dimension: Dimension) -> Dimension:
    options = dimension.choices
    if not 0 < len(options) <= MAX_CHOICES:
        raise _wrong(dimension.name, f"A choice is among 1 to {MAX_CHOICES:,} values, not {len(options)}.")
    for option in options:
        plain = option is None or isinstance(option, bool | int | float | str)
        if not plain or (isinstance(option, float) and not math.isfinite(option)):
            raise _wrong(dimension.name, f"{option!r} cannot be a choice: choices are numbers, text, booleans or null.")
    if len({(type(option), option) for option in options}) < len(options):
        raise _wrong(dimension.name, "A choice is listed twice.")
    return dimension


def _number(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong("", f"{value!r} is not a number.")
    try:
        return float(value)
    except OverflowError as wrong:
        raise _wrong("", "The end of a range is too large.") from wrong


def _scalar(text: str) -> object:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _wrong(name: str, message: str) -> SpecError:
    return SpecError(message, hint=f"Write {_FORMS}.", details={"path": f"space.{name}" if name else "space"})
