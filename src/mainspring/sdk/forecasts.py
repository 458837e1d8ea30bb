"""Why a run waits and when it will start, before and after it is submitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mainspring.client.connection import connect
from mainspring.core.forecasts import Choice, Forecast, Prospect
from mainspring.core.specs import check_spec
from mainspring.sdk.runs import Run
from mainspring.sdk.task import Task
from mainspring.sdk.templates import bind

AS_IT_IS = "as it is"


def why(run: Run[Any] | str) -> dict[str, Any]:
    """Return `{state, sentence, reason, ahead, changes, ...}`: why a run (or the one of that id or name) is where it is."""
    return connect().runs.why(run if isinstance(run, str) else run.id)


def forecast(what: Run[Any] | Task[..., Any] | str, /, **arguments: object) -> Forecast:
    """Return when a waiting run (also by id or name) will start, or a call of a task would, were it submitted now.

    Raises StateError for a run that does not wait, CannotFitError for a call that could never run.
    """
    if isinstance(what, Task):
        return what.forecast(**arguments)
    return connect().forecasts.of_run(what if isinstance(what, str) else what.id)


def what_if(task: Task[..., Any], /, *changes: Mapping[str, Any], **arguments: object) -> list[Prospect]:
    """Return what a call would get as it is, and with each change of its options: `ms.what_if(train, {"gpus": 2}, lr=0.1)`.

    Nothing is submitted. A choice that could never run has its reason in `refusal`.
    """
    client = connect()
    bound = bind(task.function, (), arguments)
    choices = [Choice(label=AS_IT_IS, spec=check_spec(task.spec(client, bound)))]
    for change in changes:
        label = ", ".join(f"{name}={value!r}" for name, value in change.items())
        choices.append(Choice(label=label, spec=check_spec(task.with_options(**change).spec(client, bound))))
    return client.forecasts.prospects(choices)
