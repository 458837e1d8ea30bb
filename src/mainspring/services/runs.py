"""Runs: submit, find, change what is wanted of them, explain."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import PurePath

from mainspring import scheduler
from mainspring.core.actors import Actor
from mainspring.core.environments import MAX_LOCK_BYTES, check_lock
from mainspring.core.errors import (
    AccessDeniedError,
    CannotFitError,
    ConflictError,
    NotFoundError,
    SpecError,
    StateError,
    UsageError,
)
from mainspring.core.ids import RunId, check_name
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.manifests import is_digest, read_manifest
from mainspring.core.queries import Page, RunFilter
from mainspring.core.reasons import NOT_PLANNED_YET, PAUSED, Reason, ReasonCode
from mainspring.core.records import Attempt, AttemptState, Cause, Desired, Project, Role, Run, RunState
from mainspring.core.resources import CONTAINERS
from mainspring.core.silence import patience_s, silent_replica, unreachable
from mainspring.core.snapshot import WaitingRun
from mainspring.core.specs import Environment, Link, RunKind, RunSpec, Value, ValueKind, check_spec, on_path
from mainspring.core.units import show_seconds
from mainspring.core.waiting import expected_by_engine
from mainspring.core.whys import Change, Why
from mainspring.plugins import reach
from mainspring.services import caching, plans
from mainspring.services.context import Context
from mainspring.services.overrides import check_overrides, need_secrets
from mainspring.store.events import NewEvent

_UNNAMEABLE = re.compile(r"[^a-zA-Z0-9._-]+")


def submit(ctx: Context, actor: Actor, spec: RunSpec, *, key: str = "", is_fresh: bool = False) -> tuple[Run, bool]:
    """Accept a run: after this returns it is never lost (promise P1). The same `key` gives the same run and False.

    One that `is_fresh` is computed even where the cache has its outputs.
    Raises SpecError, NotFoundError (project, secret, blob), ArchiveError (hostile code), AccessDeniedError, CannotFitError.
    """
    project = check_project(ctx, spec.project)
    actor.need(spec.project, Role.EDITOR)
    run = make_run(ctx, actor.name, spec, is_fresh=is_fresh)
    check_wanted(ctx, spec)
    check_priority(actor, project, spec.priority)
    reach("before-W1")
    accepted = ctx.store.runs.submit(run, key=key, event=said(actor, "run.submitted", run.id, run.project, name=run.name))
    reach("after-W1")
    return accepted


def in_containers(spec: RunSpec) -> RunSpec:
    """Return the spec of a run that names an image so that it goes only where containers run."""
    if not spec.environment.image:
        return spec
    asked = [replace(one, labels={**one.labels, **CONTAINERS}) for one in (spec.resources, *spec.alternatives)]
    return replace(spec, resources=asked[0], alternatives=tuple(asked[1:]))


def check_wanted(ctx: Context, spec: RunSpec) -> None:
    """Refuse what could never run: it would wait, or fail, for ever. For runs, and for the templates of sweeps and pipelines.

    Raises SpecError, NotFoundError (secret, blob), ArchiveError (hostile code), CannotFitError.
    """
    check_spec(spec)
    need_secrets(ctx, spec.project, spec.secrets)
    check_overrides(ctx, spec)
    _check_blobs(ctx, spec)
    _check_fits(ctx, in_containers(spec))


def _check_fits(ctx: Context, spec: RunSpec) -> None:
    now_s, choices = ctx.clock.monotonic(), (spec.resources, *spec.alternatives)
    gang = (spec.replicas, spec.min_replicas, spec.same)
    if ctx.fitting.is_known(choices, gang, now_s=now_s):
        return
    nodes = ctx.store.nodes.all()
    misfit = scheduler.would_one_fit(nodes, choices, spec.replicas, spec.same, least=spec.min_replicas)
    if misfit is None:
        ctx.fitting.note(choices, gang, now_s=now_s)
    elif misfit.code is ReasonCode.CANNOT_FIT:
        hint = "See what there is: mainspring cluster ls"
        if spec.resources.is_gpu() and not any(node.devices for node in nodes):
            hint += ". To try without a GPU, declare slots: mainspring down, then mainspring up --gpus 2"
        raise CannotFitError(misfit.sentence, hint=hint, details=dict(misfit.facts))


def make_run(ctx: Context, owner: str, spec: RunSpec, link: Link | None = None, *, is_fresh: bool = False) -> Run:
    """Return the queued Run of a checked `spec`, with what the cache has for it; writes nothing. Raises SpecError."""
    linked = in_containers(replace(spec, link=link) if link is not None else spec)
    check_spec(linked)
    run = Run(
        id=RunId(ctx.ids.new("run")),
        project=linked.project,
        name=linked.name or _default_name(linked),
        owner=owner,
        spec=linked,
        seq=0,
        created_at=ctx.clock.now(),
        priority=linked.priority,
        tags=linked.tags,
    )
    return caching.prepare(ctx, run, is_fresh=is_fresh)


def get(ctx: Context, actor: Actor, ref: str, *, project: str = "") -> Run:
    """Return the run that `ref` means: an id, else the newest run of that name, else a unique beginning or end of an id.

    Raises NotFoundError (also for runs the actor may not see), ConflictError when several ids match.
    """
    found = [run for run in ctx.store.runs.find(ref, project=project) if actor.may(run.project, Role.VIEWER)]
    if not found:
        raise NotFoundError(f"There is no run {ref[:80]!r}.", hint="mainspring ps --all lists them.")
    by_name = [run for run in found if run.name == ref]
    if len(found) > 1 and not by_name:
        raise ConflictError(
            f"{ref!r} may be any of {len(found)} runs.", hint="Write more of it: " + ", ".join(run.id for run in found[:4])
        )
    return (by_name or found)[0]


def page(ctx: Context, actor: Actor, wanted: RunFilter, *, cursor: str = "", limit: int = 100) -> Page[Run]:
    """Return one page of the runs that match."""
    check_project(ctx, wanted.project)
    actor.need(wanted.project, Role.VIEWER)
    return ctx.store.runs.page(wanted, cursor=cursor, limit=limit)


def attempts(ctx: Context, actor: Actor, ref: str) -> list[Attempt]:
    """Return the attempts of a run, oldest first."""
    return ctx.store.attempts.of_run(get(ctx, actor, ref).id)


def cancel(ctx: Context, actor: Actor, ref: str, *, grace_s: float | None = None) -> Run:
    """Want the run cancelled: at once when it waits, after SIGTERM and `grace_s` when it runs. Repeating it is harmless."""
    run = _editable(ctx, actor, ref)
    if run.state is RunState.CANCELLED:
        return run
    event = said(actor, "run.cancel_asked", run.id, run.project)
    wanted = ctx.store.runs.set_desired(run.id, Desired.CANCELLED, event=event)
    _stop_open(ctx, actor, wanted, Cause.CANCELLED, grace_s)
    return wanted


def pause(ctx: Context, actor: Actor, ref: str, *, grace_s: float | None = None) -> Run:
    """Hold the run: a waiting one is passed over, a running one is stopped and waits; `resume` lets it go on."""
    run = _editable(ctx, actor, ref)
    wanted = ctx.store.runs.set_desired(run.id, Desired.PAUSED, event=said(actor, "run.paused", run.id, run.project))
    _stop_open(ctx, actor, wanted, Cause.PREEMPTED, grace_s)
    return wanted


def resume(ctx: Context, actor: Actor, ref: str) -> Run:
    """Let a paused run be planned again. Raises StateError when it is being cancelled."""
    run = _editable(ctx, actor, ref)
    if run.desired is Desired.CANCELLED:
        raise StateError(f"Run {run.name} is being cancelled.", hint=f"mainspring rerun {run.id}")
    return ctx.store.runs.set_desired(run.id, Desired.RUN, event=said(actor, "run.resumed", run.id, run.project))


def checkpoint(ctx: Context, actor: Actor, ref: str) -> Run:
    """Ask user code for a checkpoint now: its `should_checkpoint()` is true once. Raises StateError unless it runs."""
    run = _editable(ctx, actor, ref)
    going = [one for one in ctx.store.attempts.of_run(run.id) if one.state is AttemptState.RUNNING and one.number == run.attempt]
    if not going:
        raise StateError(f"Run {run.name} has no code that runs now.", hint=f"mainspring why {run.id}")
    event = said(actor, "attempt.checkpoint_asked", going[0].id, run.project, run=run.id)
    ctx.store.attempts.ask_checkpoint(going[0].id, event=event)
    ctx.signals.hint(f"attempt:{going[0].id}")
    return run


def edit(
    ctx: Context,
    actor: Actor,
    ref: str,
    *,
    add_tags: Sequence[str] = (),
    remove_tags: Sequence[str] = (),
    priority: int | None = None,
) -> Run:
    """Change tags and priority. To raise one above zero is a right, not a habit (`check_priority`)."""
    run = _editable(ctx, actor, ref)
    for tag in add_tags:
        check_name(tag, "tag")
    if priority is not None:
        check_spec(replace(run.spec, priority=priority))
        if priority > run.priority:
            check_priority(actor, check_project(ctx, run.project), priority)
    event = said(actor, "run.edited", run.id, run.project, priority=priority, add=list(add_tags), remove=list(remove_tags))
    return ctx.store.runs.edit(run.id, priority=priority, add_tags=tuple(add_tags), remove_tags=tuple(remove_tags), event=event)


def archive(ctx: Context, actor: Actor, ref: str) -> Run:
    """Put an ended run out of sight; `unarchive` undoes it."""
    run = _editable(ctx, actor, ref)
    _need_done(run)
    event = said(actor, "run.archived", run.id, run.project)
    return ctx.store.runs.edit(run.id, archived_at=ctx.clock.now(), event=event)


def unarchive(ctx: Context, actor: Actor, ref: str) -> Run:
    """Bring an archived run back into the lists."""
    run = _editable(ctx, actor, ref)
    return ctx.store.runs.edit(run.id, archived_at=None, event=said(actor, "run.unarchived", run.id, run.project))


def remove(ctx: Context, actor: Actor, ref: str) -> None:
    """Delete an ended run with its logs and metrics. What data sets and models name stays. Raises StateError while it lives."""
    run = _editable(ctx, actor, ref)
    _need_done(run)
    ctx.store.runs.delete(run.id, event=said(actor, "run.removed", run.id, run.project, name=run.name))


def rerun(
    ctx: Context,
    actor: Actor,
    ref: str,
    *,
    set_params: Mapping[str, object] | None = None,
    args: Sequence[str] | None = None,
    environment: Environment | None = None,
    path: str = "",
    key: str = "",
    is_fresh: bool = False,
) -> Run:
    """Submit the run's spec again, with declared parameters changed, a script's arguments replaced, or in another environment.

    `path` is what goes in front of its PYTHONPATH. One that `is_fresh` is computed even where the cache has its outputs.
    Raises UsageError for a parameter that the run does not have.
    """
    run = get(ctx, actor, ref)
    spec = replace(run.spec, link=None, tags=run.tags, name=run.name)
    if args is not None:
        spec = replace(spec, command=(*_program(spec), *args))
    for name, value in (set_params or {}).items():
        spec = _with_param(spec, name, value)
    if environment is not None:
        spec = on_path(replace(spec, environment=environment), path)
    again, _ = submit(ctx, actor, spec, key=key, is_fresh=is_fresh)
    return again


def why(ctx: Context, actor: Actor, ref: str) -> dict[str, object]:
    """Return the one sentence that tells why the run is where it is, and the facts behind it."""
    run = get(ctx, actor, ref)
    tries = ctx.store.attempts.of_run(run.id)
    last = tries[-1] if tries else None
    reason = run.reason
    if run.state is RunState.QUEUED and reason is None:
        reason = PAUSED if run.desired is Desired.PAUSED else NOT_PLANNED_YET
    found = plans.why_of(ctx, run.id) if run.state is RunState.QUEUED else None
    line = found[0] if found is not None else None
    needed_by = _needed_by(ctx, actor, last)
    silent = silent_replica(last)
    if last is not None and silent is not None and run.state is RunState.RUNNING:
        patience = patience_s(run.spec, silent, ctx.settings.lost_after_s)
        reason = unreachable(last, silent, patience, ctx.clock.now())
    return {
        "run": run.id,
        "name": run.name,
        "state": run.state,
        "sentence": _sentence(ctx, run, reason, last, needed_by),
        "reason": reason,
        "ahead": _told(ctx, actor, *found) if found is not None else [],
        "ahead_count": line.position - 1 if line is not None else 0,
        "waiting_count": line.waiting if line is not None else 0,
        "expected_at": line.expected_at if line is not None else expected_by_engine(reason),
        "changes": [_seen(ctx, actor, one) for one in line.changes] if line is not None else [],
        "stopped_for": needed_by,
        "attempt": last,
        "cache": caching.tell(ctx, run),
    }


def native(ctx: Context, actor: Actor, ref: str) -> dict[str, object]:
    """Return the engine's own objects of the newest attempt, as they were when it was launched. Raises StateError before."""
    run = get(ctx, actor, ref)
    tries = ctx.store.attempts.of_run(run.id)
    if not tries or not any(replica.handle for replica in tries[-1].replicas):
        raise StateError(f"Run {run.name} has not been launched yet.", hint=f"mainspring why {run.id}")
    last = tries[-1]
    cluster = ctx.store.clusters.get(last.cluster)
    return {
        "cluster": cluster.name if cluster else last.cluster,
        "backend": cluster.backend if cluster else "",
        "attempt": last.id,
        "replicas": [{"index": one.index, "node": one.node, "object": one.handle} for one in last.replicas],
    }


def check_priority(actor: Actor, project: Project, priority: int) -> None:
    """Raise AccessDeniedError unless the actor may ask for this priority in the project: above 0 takes its `priority_role`."""
    if priority > 0 and not actor.may(project.name, project.priority_role):
        role = project.priority_role
        raise AccessDeniedError(
            f"{actor.name} may not ask for priority {priority}: in project {project.name!r} that takes the role {role}.",
            hint="Leave it out, or ask who may to raise it: mainspring priority RUN N",
            details={"priority": priority, "needs": role},
        )


def check_project(ctx: Context, name: str) -> Project:
    """Return project `name`. Raises NotFoundError."""
    found = ctx.store.projects.get(name)
    if found is None:
        known = ", ".join(project.name for project in ctx.store.projects.all()[:10])
        raise NotFoundError(f"There is no project {name[:60]!r}; known: {known}.", hint=f"mainspring project add {name[:60]}")
    return found


def said(actor: Actor, kind: str, subject: str, project: str, **data: object) -> NewEvent:
    """Return the event that goes with a write."""
    return NewEvent(actor=actor.name, kind=kind, subject=subject, project=project, data=data)


def _sentence(ctx: Context, run: Run, reason: Reason | None, last: Attempt | None, needed_by: Mapping[str, object] | None) -> str:
    match run.state:
        case RunState.QUEUED:
            return (reason.sentence if reason else "") + _for_whom(last, needed_by)
        case RunState.SUCCEEDED:
            return f"It took the outputs of run {run.cached_from}." if run.cached_from else "It succeeded."
        case RunState.CANCELLED | RunState.FAILED:
            return run.outcome.message if run.outcome and run.outcome.message else f"It {run.state}."
        case RunState.RUNNING:
            if last is None:
                return "It is being placed."
            if reason is not None:
                return reason.sentence
            if last.stop_by is not None and last.state is not AttemptState.ENDED:
                left = max(0.0, (last.stop_by - ctx.clock.now()).total_seconds())
                return f"It is stopping ({last.stop_cause}): {show_seconds(left)} of grace left." + _for_whom(last, needed_by)
            where = ", ".join(sorted({one.node for one in last.replicas}))
            return f"It is {last.state} on {where} (attempt {last.number})."


def _told(ctx: Context, actor: Actor, why: Why, waiting: Mapping[RunId, WaitingRun]) -> list[dict[str, object]]:
    """Return the last runs before it, first come first, each with the rule; only those that the actor may see are named."""
    known = ctx.store.runs.some([one.run for one in why.ahead])
    found: list[dict[str, object]] = []
    for one in reversed(why.ahead):
        here = waiting[one.run]
        run = known.get(one.run) if actor.may(here.project, Role.VIEWER) else None
        named = {"run": run.id if run else "", "name": run.name if run else ""}
        found.append({**named, "owner": here.owner, "rule": one.rule})
    return found


def _seen(ctx: Context, actor: Actor, change: Change) -> Change:
    """Return what would let a run start; the run whose end that is, only where the actor may see it."""
    if "run" not in change.facts or change.at is None:
        return change
    other = ctx.store.runs.get(str(change.facts["run"]))
    if other is not None and actor.may(other.project, Role.VIEWER):
        return change
    return replace(change, sentence=f"when a run of a project you are not in ends, about {change.at:%H:%M} UTC", facts={})


def _needed_by(ctx: Context, actor: Actor, attempt: Attempt | None) -> dict[str, object] | None:
    """Return the run that an attempt was stopped for; its name and id only where the actor may see it."""
    is_for_another = attempt is not None and attempt.stop_for not in ("", attempt.run)
    run = ctx.store.runs.get(attempt.stop_for) if attempt is not None and is_for_another else None
    if run is None:
        return None
    is_seen = actor.may(run.project, Role.VIEWER)
    return {"run": run.id if is_seen else "", "name": run.name if is_seen else "", "owner": run.owner}


def _for_whom(last: Attempt | None, needed_by: Mapping[str, object] | None) -> str:
    if last is not None and last.stop_for == last.run:
        return " It outlived what was reserved for it at a paid site, and goes on at home."
    if needed_by is None:
        return ""
    return f" Its place was needed by {needed_by['name'] or 'a run'} of {needed_by['owner']}."


def _editable(ctx: Context, actor: Actor, ref: str) -> Run:
    run = get(ctx, actor, ref)
    actor.need(run.project, Role.EDITOR)
    return run


def _need_done(run: Run) -> None:
    if run.state not in TERMINAL_RUN:
        raise StateError(f"Run {run.name} is {run.state}.", hint=f"mainspring cancel {run.id}")


def _stop_open(ctx: Context, actor: Actor, run: Run, cause: Cause, grace_s: float | None) -> None:
    for attempt in ctx.store.attempts.of_run(run.id):
        if attempt.state is not AttemptState.ENDED:
            stop_attempt(ctx, actor, attempt, cause, run.spec.grace_s if grace_s is None else grace_s)


def stop_attempt(ctx: Context, actor: Actor, attempt: Attempt, cause: Cause, grace_s: float) -> Attempt:
    """Write the intent to stop an attempt, then wake both ways to its process: the runner's poll and the controller."""
    event = said(actor, "attempt.stop_asked", attempt.id, "", run=attempt.run, cause=cause, grace_s=grace_s)
    stopped = ctx.store.attempts.ask_stop(attempt.id, cause, stop_by=ctx.clock.now() + timedelta(seconds=grace_s), event=event)
    ctx.signals.hint(f"attempt:{attempt.id}", "attempts")
    return stopped


def _check_blobs(ctx: Context, spec: RunSpec) -> None:
    """Refuse what no attempt could ever fetch; the sweeper spares for a while what was asked for here."""
    named = {f"args.{name}": value.digest for name, value in spec.args.items()}
    named |= {"code.manifest": spec.code.manifest, "code.git_diff": spec.code.git_diff, "environment.lock": spec.environment.lock}
    named["environment.wheels"] = spec.environment.wheels
    named["entry.pickled"] = spec.entry.pickled if spec.entry is not None else ""
    for path, digest in named.items():
        if digest and not is_digest(digest):
            raise SpecError(
                f"{path} is {digest[:40]!r}, which is not a sha256 digest.", hint="Send it again.", details={"path": path}
            )
    missing = set(ctx.blobs.missing([digest for digest in named.values() if digest]))
    for path, digest in named.items():
        if digest in missing:
            raise NotFoundError(
                f"{path} names {digest[:12]}…, which is not stored here.",
                hint="Upload it, then submit again.",
                details={"path": path},
            )
    if spec.code.manifest:
        read_manifest(ctx.blobs.get(spec.code.manifest))
    if spec.environment.wheels:
        read_manifest(ctx.blobs.get(spec.environment.wheels))
    if spec.environment.lock:
        _check_lock(ctx, spec.environment.lock)


def _check_lock(ctx: Context, digest: str) -> None:
    if ctx.blobs.size(digest) > MAX_LOCK_BYTES:
        raise SpecError("environment.lock is larger than any lock.", hint="Send the text of a lock.", details={"path": "lock"})
    try:
        check_lock(ctx.blobs.get(digest).decode("utf-8", "replace"))
    except UsageError as wrong:
        raise SpecError(wrong.message, hint=wrong.hint, details={"path": "environment.lock"}) from wrong


def _default_name(spec: RunSpec) -> str:
    if spec.kind is RunKind.TASK and spec.entry is not None:
        raw = spec.entry.function or "task"
    else:
        words = [PurePath(word).name for word in spec.command]
        raw = next((word.rpartition(".")[0] for word in words if word.endswith((".py", ".sh", ".R", ".jl"))), words[0])
    name = _UNNAMEABLE.sub("-", raw).strip("-._")[:60]
    return name or "run"


def _program(spec: RunSpec) -> tuple[str, ...]:
    if spec.kind is not RunKind.COMMAND:
        raise UsageError(
            "Arguments can be replaced for scripts only.", hint="Change a task's parameters: rerun RUN --set NAME=VALUE"
        )
    script = next((n for n, word in enumerate(spec.command) if word.endswith((".py", ".sh", ".R", ".jl"))), 0)
    return spec.command[: script + 1]


def _with_param(spec: RunSpec, name: str, value: object) -> RunSpec:
    if spec.kind is RunKind.TASK:
        if name not in spec.args and name not in spec.params:
            known = ", ".join(sorted({*spec.args, *spec.params})) or "none"
            raise UsageError(f"The run has no parameter {name!r}; it has: {known}.", hint="See mainspring show RUN")
        changed = Value(kind=ValueKind.JSON, json=value)
        return replace(spec, args={**spec.args, name: changed}, params={**spec.params, name: value})
    flags = [f"--{name}", f"--{name.replace('_', '-')}"]
    words = list(spec.command)
    for position, word in enumerate(words):
        if word in flags and position + 1 < len(words):
            words[position + 1] = str(value)
            return replace(spec, command=tuple(words), params={**spec.params, name: value})
        if any(word.startswith(flag + "=") for flag in flags):
            words[position] = f"{word.partition('=')[0]}={value}"
            return replace(spec, command=tuple(words), params={**spec.params, name: value})
    raise UsageError(
        f"The command has no --{name}: {' '.join(spec.command)[:200]}", hint="Replace its arguments: mainspring rerun RUN -- ARGS"
    )
