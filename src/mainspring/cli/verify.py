"""`mainspring verify`: compute a run again and compare what it returned, by content."""

from __future__ import annotations

from mainspring.cli.connecting import connect
from mainspring.cli.options import Json
from mainspring.cli.output import emit_json, note, say, short, table
from mainspring.cli.submit import busy
from mainspring.core.caching import compare_outputs
from mainspring.core.errors import StateError
from mainspring.core.records import RunState


def verify(run: str, /, *, as_json: Json = False) -> int:
    """Compute a run again, with the same code, data and parameters, and compare its results by content; 1 if one differs.

    Example: `mainspring verify RUN`. The new run stays, to be looked at.
    """
    client = connect()
    first = client.runs.get(run)
    if first.state is not RunState.SUCCEEDED:
        raise StateError(
            f"Run {first.name} is {first.state}: there are no results to compare.", hint="Verify a run that succeeded."
        )
    with busy("Computing it again"):
        second = client.runs.wait(client.runs.rerun(first.id, cache=False).id)
    if second.state is not RunState.SUCCEEDED:
        message = second.outcome.message if second.outcome is not None else ""
        raise StateError(f"The second run {second.state}: {message}", hint=f"mainspring logs {second.id}")
    same = compare_outputs(first.outputs, second.outputs)
    if as_json:
        emit_json({"run": first.id, "again": second.id, "same": same})
    elif not same:
        say(f"{first.name} ({short(first.id)}) has no results; it succeeded again as {short(second.id)}.")
    else:
        table(("result", "again"), [(name, "the same" if is_same else "differs") for name, is_same in same.items()])
        note(f"Compared {short(first.id)} with {short(second.id)}.")
    return 0 if all(same.values()) else 1
