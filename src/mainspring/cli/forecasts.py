"""`mainspring forecast` and `mainspring what-if`: when a run will start, before and after it is submitted."""

from __future__ import annotations

import os
import shlex
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from rich.text import Text

from mainspring.cli.connecting import connect
from mainspring.cli.flags import SCRIPTS, Command, RunFlags, spec_of
from mainspring.cli.options import Flag, Json
from mainspring.cli.output import emit_json, say, table
from mainspring.core.errors import UsageError
from mainspring.core.forecasts import Choice, Forecast, Prospect
from mainspring.core.units import show_seconds

AS_IT_IS = "as it is"
SOON_S = 2.0


def forecast(
    *what: Annotated[str, Parameter(allow_leading_hyphen=False, help="A waiting run, or a script with the flags of `run`.")],
    flags: Annotated[RunFlags, Parameter(name="*")] = RunFlags(),  # noqa: B008 frozen
    record: Annotated[bool, Flag] = False,
    as_json: Json = False,
) -> int:
    """Say when a waiting run is expected to start, or when one would that is not submitted yet.

    Examples: `mainspring forecast RUN`, `mainspring forecast train.py --gpus 4`.

    Parameters
    ----------
    record
        Tell how often former forecasts were right.
    """
    if record:
        return _record(as_json=as_json)
    if not what:
        raise UsageError("Of what?", hint="mainspring forecast RUN, or mainspring forecast train.py --gpus 4")
    client = connect()
    if len(what) == 1 and not what[0].endswith(SCRIPTS) and not os.path.isfile(what[0]):
        told = client.forecasts.of_run(what[0])
        emit_json(told) if as_json else say(f"Starts {sentence(told)}.")
        return 0
    spec, _ = spec_of(what, flags)
    choices = [Choice(label=AS_IT_IS, spec=spec), *_smaller(what, flags)]
    prospects = client.forecasts.prospects(choices)
    if as_json:
        emit_json(prospects[0])
        return 0
    say(_told(prospects[0]) + _advice(prospects))
    return 0 if prospects[0].forecast is not None else 1


def what_if(*words: Annotated[str, Parameter(allow_leading_hyphen=True)], as_json: Json = False) -> int:
    """Compare ways to ask for a run before it is submitted: each in quotes, then the script.

    Example: `mainspring what-if "--gpus 2" "--priority 5" train.py --gpus 4`.
    """
    changes = []
    rest = list(words)
    while rest and rest[0].startswith("-") and " " in rest[0].strip():
        changes.append(rest.pop(0).strip())
    if not rest:
        raise UsageError("There is no script to ask about.", hint='mainspring what-if "--gpus 2" train.py --gpus 4')
    command, flags = _parsed(rest)
    choices = [Choice(label=AS_IT_IS, spec=spec_of(command, flags)[0])]
    for change in changes:
        _, changed = _parsed(shlex.split(change))
        said = {one.name: getattr(changed, one.name) for one in fields(RunFlags)}
        other = {name: value for name, value in said.items() if value != getattr(RunFlags(), name)}
        choices.append(Choice(label=change, spec=spec_of(command, replace(flags, **other))[0]))
    prospects = connect().forecasts.prospects(choices)
    if as_json:
        emit_json(prospects)
        return 0
    rows = [
        (one.label, sentence(one.forecast) if one.forecast else "never", _wait(one.forecast), one.refusal) for one in prospects
    ]
    table(("choice", "starts", "median wait", "message"), rows)
    return 0


def sentence(told: Forecast, now: datetime | None = None) -> str:
    """Return the interval as people say it: `now`, or `between 14:05 and 14:40 (80 %)`."""
    at = now or datetime.now(UTC)
    if not told.is_bounded and (told.median - at).days > 300:
        return "when something changes: what it needs is not there, or does not come free"
    if (told.latest - at).total_seconds() < SOON_S:
        return "now"
    confidence = f"({told.confidence:.0%})".replace("%", " %")
    if (told.latest - told.earliest).total_seconds() < SOON_S:
        return f"at about {told.median.astimezone():{_digits(told.median, at)}}"
    clock = _digits(told.latest, at)  # of both: as fine as the later one can be told
    return f"between {told.earliest.astimezone():{clock}} and {told.latest.astimezone():{clock}} {confidence}"


def _digits(moment: datetime, now: datetime) -> str:
    """Return how a moment is told: with seconds when it is near, with its day when it is far."""
    away_s = (moment - now).total_seconds()
    return "%H:%M:%S" if away_s < 600 else "%H:%M" if away_s < 20 * 3600 else "%a %d %b %H:%M"


def _wait(told: Forecast | None) -> str | Text:
    if told is None:
        return ""
    return show_seconds(max(0.0, (told.median - datetime.now(UTC)).total_seconds()))


def _told(prospect: Prospect) -> str:
    if prospect.forecast is None:
        return prospect.refusal
    return f"It would start {sentence(prospect.forecast)}."


def _record(*, as_json: bool) -> int:
    """Tell how often former forecasts were right."""
    found = connect().forecasts.record()
    if as_json:
        emit_json(found)
    elif not found.told:
        say("No run that had to wait has started yet: there is nothing to compare.")
    else:
        say(
            f"{found.inside} of {found.told} starts lay within their interval ({found.inside / found.told:.0%}; "
            f"{found.confidence:.0%} were promised); the median was off by {found.median_error:.0%} of the wait."
        )
    return 0


def _smaller(what: tuple[str, ...], flags: RunFlags) -> list[Choice]:
    """Return the same with half the GPUs, for the advice; nothing where it asks for one at most, or for alternatives."""
    try:
        half = int(float(flags.gpus or 0)) // 2
    except ValueError:
        return []
    return [Choice(label=f"--gpus {half}", spec=spec_of(what, replace(flags, gpus=str(half)))[0])] if half else []


def _advice(prospects: list[Prospect]) -> str:
    """Return the sentence of the smaller request where it starts much sooner."""
    first = prospects[0].forecast
    for other in prospects[1:]:
        if other.forecast is None or first is None:
            continue
        gain = (first.median - other.forecast.median).total_seconds()
        if gain > max(60.0, 0.2 * (first.median - datetime.now(UTC)).total_seconds()):
            return f" With {other.label}: {sentence(other.forecast)}."
    return ""


def _parsed(words: list[str]) -> tuple[tuple[str, ...], RunFlags]:
    """Return the command and the flags that `mainspring run` would see. Raises UsageError."""

    def ask(*command: Command, flags: Annotated[RunFlags, Parameter(name="*")] = RunFlags()) -> object:  # noqa: B008 frozen
        return command, flags

    app = App(name="run", default_parameter=Parameter(negative=()), help_flags=(), version_flags=())
    app.default(ask)
    try:
        command, flags = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as wrong:
        raise UsageError(f"{shlex.join(words)}: {' '.join(str(wrong).split())}", hint="mainspring run --help") from wrong
    return command, flags
