"""Commands about runs. RUN is an id, the beginning or end of one, or a name (the newest run of that name)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from mainspring.cli import output
from mainspring.cli.connecting import connect
from mainspring.cli.flags import active_python
from mainspring.cli.forecasts import sentence
from mainspring.cli.log_lines import JsonLog, PlainLog, Printed
from mainspring.cli.options import Flag, Json, Project, Yes, values
from mainspring.cli.output import age, emit_json, facts, note, run_state, say, short, table, took
from mainspring.cli.questions import confirm
from mainspring.cli.submit import INTERRUPTED, busy, conclude
from mainspring.cli.submit import follow as follow_run
from mainspring.cli.use_words import use_words
from mainspring.client.client import Client
from mainspring.core.codec import parse_time
from mainspring.core.environments import Wish, sentence_of
from mainspring.core.errors import NotFoundError, StateError, UsageError
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import Attempt, Run, RunState
from mainspring.core.specs import Environment, Value, ValueKind, asks_for
from mainspring.core.units import show_bytes, show_seconds
from mainspring.sdk.locks import changed
from mainspring.sdk.resources import to_priority, to_seconds
from mainspring.sdk.results import pull_outputs

TAIL_BYTES = 64 << 10
RULES = {
    "share": "its share is owed more",
    "priority": "it has a higher priority",
    "earlier": "it was submitted earlier",
    "shorter": "it is believed to be shorter",
}


def ps(
    *,
    project: Project = "default",
    all: Annotated[bool, Parameter(name=["--all", "-a"], negative=())] = False,
    state: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    owner: str = "",
    tag: str = "",
    text: str = "",
    order: str = "newest",
    archived: Annotated[bool, Flag] = False,
    limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 30,
    as_json: Json = False,
) -> None:
    """List runs: state, name, id, owner, age, duration, and why a run waits.

    Examples: `mainspring ps`, `mainspring ps --state queued --owner alice`, `mainspring ps --order metric:roc_auc`.

    Parameters
    ----------
    all
        Every run, not only the newest.
    state
        Only queued, running, succeeded, failed or cancelled ones (may be repeated).
    text
        Only runs whose name, id, owner, command or tags hold this.
    order
        newest, oldest, name, state, duration or metric:NAME.
    archived
        Archived runs instead.
    limit
        At most so many.
    """
    client = connect()
    found: list[Run] = []
    cursor = ""
    while True:
        page = client.runs.page(
            project=project, states=state, owner=owner, tag=tag, text=text, order=order, is_archived=archived, cursor=cursor,
            limit=1000 if all else max(1, min(limit, 1000)),
        )  # fmt: skip
        found += page.items
        cursor = page.cursor
        if not cursor or not (all or len(found) < limit):
            break
    if as_json:
        emit_json(found)
        return
    rows = [(run_state(run), run.name, short(run.id), run.owner, age(run.created_at), took(run), _reason(run)) for run in found]
    is_asked = bool(state or owner or tag or text or archived)
    empty = "" if rows else _nothing(client, project, is_asked=is_asked)
    table(("state", "name", "id", "owner", "age", "took", "reason"), rows, empty=empty)
    if page.total > len(found):
        note(f"{page.total - len(found)} more: mainspring ps --all")


def _nothing(client: Client, project: str, *, is_asked: bool) -> str:
    """Return what to say when there is no run: that none is asked for so, or where the others are."""
    if is_asked:
        return f"No run of project {project} is asked for so: mainspring ps --all"
    others = [one.name for one in client.people.projects() if one.name != project]
    elsewhere = [name for name in others if client.runs.page(project=name, limit=1).total]
    if elsewhere:
        return f"No runs in project {project}. There are some in {', '.join(elsewhere)}: mainspring ps --project {elsewhere[0]}"
    return "No runs yet: mainspring run SCRIPT"


def logs(
    run: str,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=())] = False,
    attempt: int | None = None,
    replica: int = 0,
    tail: Annotated[int | None, Parameter(name=["--tail", "-n"])] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Print a run's log; with `-f` go on as it is written, and end with the run's exit code.

    Examples: `mainspring logs train`, `mainspring logs -f train`, `mainspring logs --attempt 1 --tail 20 train`,
    `mainspring logs --json train`.

    Parameters
    ----------
    follow
        Go on until the run ends; Ctrl-C stops looking, not the run.
    attempt
        The log of that try; default the newest.
    replica
        The member of a run with several.
    tail
        Only the last lines.
    as_json
        For programs: one JSON object for each line, with `stream`, `attempt`, `offset` (in bytes) and `text`.
    """
    if tail is not None and tail < 0:
        raise UsageError(f"--tail is {tail}.", hint="How many lines from the end, 0 or more.")
    to = JsonLog(sys.stdout) if as_json else PlainLog(sys.stdout)
    client = connect()
    found = client.runs.get(run)
    attempt, offset = _from(client, found, attempt, replica, tail)
    if follow:
        return _follow(client, found, to, attempt=attempt, replica=replica, offset=offset)
    while True:
        part = client.runs.log(found.id, attempt=attempt, replica=replica, offset=offset)
        if not part.data:
            break
        attempt = part.attempt  # a later one may begin meanwhile
        to.take(part.data, attempt, part.offset)
        offset = part.next_offset
    to.end()
    if offset == 0 and found.state == RunState.QUEUED and attempt is None:
        note(f"{found.name} has not begun: mainspring why {found.name}, or mainspring logs -f {found.name} to wait for it")
    return 0


def why(run: str, *, as_json: Json = False) -> None:
    """Tell in one sentence why a run is where it is, and who is ahead of it.

    Example: `mainspring why train`.
    """
    client = connect()
    told = client.runs.why(run)
    if as_json:
        emit_json(told)
        return
    ended = {"succeeded": "succeeded", "failed": "failed", "cancelled": "was cancelled"}.get(str(told["state"]))
    said = "" if told["sentence"] == "It succeeded." else f": {told['sentence']}"
    say(f"{told.get('name', run)} {ended or 'is ' + str(told['state'])}{said or '.'}")
    if told.get("expected_at"):
        say(f"Expected to start at {parse_time(str(told['expected_at'])).astimezone():%H:%M:%S}.")
    elif told["state"] == RunState.QUEUED:
        _say_start(client, str(told["run"]))
    ahead = told.get("ahead") or []
    if ahead:
        rows = [(*_named(one), str(one.get("owner", "")), RULES.get(one.get("rule", ""), "")) for one in ahead]
        say(f"It is number {told.get('ahead_count', 0) + 1} of {told.get('waiting_count', len(rows))} that wait. Before it:")
        table(("name", "id", "owner", "because"), rows)
    for one in told.get("changes") or []:
        say(f"What would change it: it {one['sentence']}." if one["at"] is None else f"It would start {one['sentence']}.")


def _say_start(client: Client, run: str) -> None:
    with suppress(NotFoundError, StateError):  # nobody knows, or it has begun meanwhile
        say(f"It starts {sentence(client.forecasts.of_run(run))}.")


def _named(told: Mapping[str, object]) -> tuple[str, str]:
    """Return name and id of a run ahead; it may be of a project whose runs one may not see."""
    return (str(told["name"]), short(str(told["run"]))) if told.get("run") else ("(a project you are not in)", "-")


def show(run: str, *, as_json: Json = False) -> None:
    """Show everything about a run: command, resources, parameters, metrics, tries, results, code.

    Examples: `mainspring show train`, `mainspring show train --json`.
    """
    client = connect()
    found = client.runs.get(run)
    attempts = client.runs.attempts(found.id)
    metrics, params = client.runs.metrics(found.id), client.runs.params(found.id)
    cache = client.runs.why(found.id).get("cache") or {}
    image = next((str(one.get("digest", "")) for one in client.runs.told(found.id) if one.get("kind") == "image"), "")
    ran_with = client.environments.of_run(found.id)
    use = client.runs.usage(found.id) if attempts else []
    if as_json:
        place = {"python": ran_with.python, "lock": ran_with.digest, "captured": ran_with.captured}
        told = {"run": found, "attempts": attempts, "metrics": metrics, "params": params, "cache": cache}
        emit_json({**told, "image": image, "environment": place, "usage": use})
        return
    spec = found.spec
    called = f"{spec.entry.module}:{spec.entry.function}" if spec.entry is not None else " ".join(spec.command)
    commit = spec.code.git_commit[:12] + (" with changes" if spec.code.is_dirty else "") if spec.code.git_commit else ""
    facts(
        (
            ("State", run_state(found)),
            ("Why", _sentence(found)),
            ("Name", found.name),
            ("Id", found.id),
            ("Owner", f"{found.owner}, project {found.project}"),
            ("Runs", called),
            ("Asks for", asks_for(spec)),
            ("Submitted", f"{found.created_at.astimezone():%Y-%m-%d %H:%M:%S} ({age(found.created_at)} ago)"),
            ("Took", took(found)),
            ("Used", use_words(use)),
            ("Priority", str(found.priority) if found.priority else ""),
            ("Image", image),
            ("Environment", sentence_of(ran_with)),
            ("Cache", str(cache.get("sentence", ""))),
            ("Lost work", _lost(attempts)),
            ("Tags", ", ".join(found.tags)),
            ("Code", " ".join(word for word in (spec.code.git_remote, spec.code.git_branch, commit) if word)),
            ("Parameters", ", ".join(f"{name}={value}" for name, value in params.items())),
            ("Metrics", ", ".join(f"{name}={_last(one)}" for name, one in metrics.items())),
            ("Results", ", ".join(_value(name, value) for name, value in found.outputs.items())),
        )
    )
    if attempts:
        say("")
        table(("try", "state", "nodes", "took", "checkpoint", "lost", "end"), [_attempt_row(one) for one in attempts])


def cancel(run: str, /, *more: str, grace: str = "", as_json: Json = False) -> None:
    """Cancel runs: at once when they wait, after SIGTERM and a grace when they run.

    Examples: `mainspring cancel train`, `mainspring cancel run-1 run-2 --grace 30s`.

    Parameters
    ----------
    grace
        How long they may take to end by themselves, such as 30s.
    """
    client = connect()
    done = [client.runs.cancel(ref, grace_s=to_seconds(grace, "--grace") if grace else None) for ref in (run, *more)]
    _tell(done, as_json, "is being cancelled", "was already over")


def pause(run: str, /, *more: str, as_json: Json = False) -> None:
    """Hold runs: waiting ones are passed over, running ones are stopped and wait.

    Example: `mainspring pause train`; `mainspring resume train` lets it go on, from its newest checkpoint if it has one.
    """
    client = connect()
    _tell([client.runs.pause(ref) for ref in (run, *more)], as_json, "is paused", "was already over")


def resume(run: str, /, *more: str, as_json: Json = False) -> None:
    """Let paused runs be planned again.

    Example: `mainspring resume train`.
    """
    client = connect()
    _tell([client.runs.resume(ref) for ref in (run, *more)], as_json, "goes on", "was already over")


def checkpoint(run: str, /, *more: str, as_json: Json = False) -> None:
    """Ask running code for a checkpoint now: its `should_checkpoint()` is true once. What it saves is sent while it goes on.

    Example: `mainspring checkpoint train`.
    """
    client = connect()
    _tell([client.runs.checkpoint(ref) for ref in (run, *more)], as_json, "is asked for a checkpoint", "was already over")


def priority(run: str, level: str, /, *, as_json: Json = False) -> None:
    """Let a waiting run go earlier or later in its share: high, normal, low or a number. Above normal is a right.

    Examples: `mainspring priority train high`, `mainspring priority train -- -5`.
    """
    changed = connect().runs.edit(run, priority=to_priority(level))
    if as_json:
        emit_json(changed)
    else:
        say(f"{changed.name} has priority {changed.priority}.")


def archive(run: str, /, *more: str, undo: Annotated[bool, Flag] = False, as_json: Json = False) -> None:
    """Put ended runs out of sight, or bring them back with `--undo`.

    Examples: `mainspring archive train`; `mainspring ps --archived` lists them.
    """
    client = connect()
    done = [client.runs.unarchive(ref) if undo else client.runs.archive(ref) for ref in (run, *more)]
    text = "is back" if undo else "is archived"
    _tell(done, as_json, text, text)


def tag(run: str, /, *tags: str, remove: Annotated[tuple[str, ...], Parameter(negative=())] = (), as_json: Json = False) -> None:
    """Tag a run: `mainspring tag RUN good baseline --remove draft`."""
    if not tags and not remove:
        raise UsageError("No tag is named.", hint="mainspring tag RUN TAG")
    changed = connect().runs.edit(run, add_tags=tags, remove_tags=remove)
    if as_json:
        emit_json(changed)
    else:
        say(f"{changed.name}: {', '.join(changed.tags) or 'no tags'}")


def rm(run: str, /, *more: str, yes: Yes = False, as_json: Json = False) -> None:
    """Delete ended runs with their logs and metrics; data sets and models that they made stay.

    Example: `mainspring rm train --yes`.
    """
    client = connect()
    found = [client.runs.get(ref) for ref in (run, *more)]
    confirm(f"Delete {', '.join(one.name for one in found)} with logs and metrics?", is_yes=yes)
    for one in found:
        client.runs.remove(one.id)
        if not as_json:
            say(f"{one.name} ({short(one.id)}) is deleted.")
    if as_json:
        emit_json(found)


def rerun(
    run: str,
    /,
    *args: Annotated[str, Parameter(allow_leading_hyphen=False)],
    set: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    environment: str = "",
    python: str = "",
    wheels: str = "",
    no_cache: Annotated[bool, Parameter(negative=())] = False,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=())] = False,
    as_json: Json = False,
) -> int:
    """Run it again, with declared parameters changed, a script's arguments replaced, or in another environment.

    Examples: `mainspring rerun RUN --set lr=1e-4`, `mainspring rerun RUN -- --lr 1e-4 --epochs 3`,
    `mainspring rerun RUN --environment lock`.

    Parameters
    ----------
    set
        NAME=VALUE (may be repeated).
    environment
        What it finds installed, in the words of `mainspring run`; default: what it had.
    python
        Another interpreter, a path or a version such as 3.12.
    wheels
        Wheels to send along with its lock: `fetch`, or a folder.
    no_cache
        Compute it even where its outputs are known; others take the new ones from then on.
    follow
        Follow the new run's log.
    """
    client = connect()
    given = Environment(interpreter=python or active_python())
    wish = Wish(environment=environment, python=python, wheels=wheels)
    furnished, path = changed(client, client.runs.get(run), wish, given) if wish != Wish() else (None, "")
    again = client.runs.rerun(
        run, set_params=values(set, "--set"), args=args or None, environment=furnished, path=path, cache=not no_cache
    )
    if follow:
        note(f"Submitted {again.name} ({short(again.id)}).")
        return _follow(client, again, PlainLog(sys.stdout))
    if as_json:
        emit_json(again)
    else:
        say(again.id)
    return 0


def pull(run: str, target: Path = Path("."), /, *, as_json: Json = False) -> None:
    """Fetch what a run returned and wrote into a folder: `mainspring pull RUN results/`."""
    client = connect()
    found = client.runs.get(run)
    with busy("Fetching", is_quiet=as_json) as progress:
        written = pull_outputs(client, found, target, progress=progress)
    if as_json:
        emit_json([str(path) for path in written])
    elif not written:
        note(f"{found.name} has no results{'' if found.state in TERMINAL_RUN else ' yet'}.")
    for path in written if not as_json else ():
        say(str(path))


def _from(client: Client, run: Run, attempt: int | None, replica: int, tail: int | None) -> tuple[int | None, int]:
    """Return of which attempt and from where on to print: the beginning, or that of the last `tail` lines.

    Raises NotFoundError where there is no such attempt or replica.
    """
    if not 0 <= replica < run.spec.replicas:
        raise NotFoundError(
            f"The run has no replica {replica}; it has {run.spec.replicas}, counted from 0.", hint=f"mainspring show {run.id}"
        )
    if tail is None or not run.attempt:
        return attempt, 0
    part = client.runs.log(run.id, attempt=attempt, replica=replica, offset=-TAIL_BYTES, limit=TAIL_BYTES)
    *lines, rest = part.data.split(b"\n")
    whole = [line + b"\n" for line in lines] + ([rest] if rest else [])
    return attempt or part.attempt or None, part.next_offset - sum(map(len, whole[-tail:] if tail else []))


def _follow(client: Client, run: Run, to: Printed, *, attempt: int | None = None, replica: int = 0, offset: int = 0) -> int:
    if run.attempt and (attempt or replica):
        client.runs.log(run.id, attempt=attempt, replica=replica, limit=0)  # refuses what is not there
    ended = follow_run(client, run, to=to, attempt=attempt or (1 if run.attempt == 1 else None), replica=replica, offset=offset)
    return INTERRUPTED if ended is None else conclude(ended)


def _tell(done: list[Run], as_json: bool, text: str, otherwise: str) -> None:
    if as_json:
        emit_json(done)
        return
    for run in done:
        say(f"{run.name} ({short(run.id)}) {otherwise if run.state in TERMINAL_RUN and run.desired == 'run' else text}.")


def _reason(run: Run) -> str:
    if run.state in ("queued", "running"):
        return run.reason.sentence if run.reason is not None else ""
    return _sentence(run) if run.state == "failed" or run.cached_from else ""


def _sentence(run: Run) -> str:
    if run.state in ("queued", "running") and run.reason is not None:
        return run.reason.sentence
    return run.outcome.message if run.outcome is not None else ""


def _last(summary: object) -> str:
    value = summary.get("last") if isinstance(summary, dict) else summary
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def _value(name: str, value: Value) -> str:
    if value.kind is ValueKind.JSON:
        text = str(value.json)
        return f"{name}={text if len(text) <= 60 else text[:57] + '...'}"
    return f"{name} ({value.kind}{', ' + show_bytes(value.size_bytes) if value.size_bytes else ''})"


def _lost(attempts: list[Attempt]) -> str:
    seconds, gpu = sum(one.lost_s for one in attempts), sum(one.lost_gpu_s for one in attempts)
    shown = f"{show_seconds(seconds)} since the newest checkpoints, by losses and preemption" if seconds else ""
    return shown + (f"; {gpu:.0f} GPU-seconds" if gpu else "")


def _attempt_row(one: Attempt) -> tuple[str, Text, str, str, str, str, str]:
    seconds = ""
    if one.started_at is not None and one.ended_at is not None:
        seconds = show_seconds(max(0.0, (one.ended_at - one.started_at).total_seconds()))
    nodes = ", ".join(sorted({replica.node for replica in one.replicas}))
    end = ": ".join(word for word in (str(one.outcome.cause), one.outcome.message) if word) if one.outcome is not None else ""
    whose = "going on at home" if one.stop_for == one.run else f"for {short(one.stop_for)}"
    end += f" ({whose})" if one.stop_for else ""
    saved = f"{one.checkpoint_at.astimezone():%H:%M:%S}" if one.checkpoint_at is not None else ""
    lost = show_seconds(one.lost_s) if one.lost_s else ""
    return str(one.number), output.state(one.state), nodes, seconds, saved, lost, end
