"""Routes of runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_nothing, answer_page, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.api.streams import is_draining
from mainspring.core.errors import UsageError
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.operations import OperationKind, OperationState
from mainspring.core.queries import MAX_PAGE, RunFilter
from mainspring.core.records import Attempt, Run, RunState
from mainspring.core.specs import Environment, RunSpec
from mainspring.services import lineage, operations, runs

router = APIRouter(prefix=PREFIX, tags=["runs"])
MAX_WAIT_S = 60.0
NATIVE_S = 10.0

Key = Annotated[str, Header(alias="Idempotency-Key", max_length=200)]
Project = Annotated[str, Query(max_length=128)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grace:
    """How long a stopped process may take; None for what the run's spec says."""

    grace_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """What to change in a repeated run: declared parameters, the arguments of a script, or the environment (whole, not in part).

    `path` goes in front of its PYTHONPATH. `cache` false computes again.
    """

    set: Mapping[str, object] = field(default_factory=dict)
    args: tuple[str, ...] | None = None
    environment: Environment | None = None
    path: str = ""
    cache: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Tags and priority to change."""

    add_tags: tuple[str, ...] = ()
    remove_tags: tuple[str, ...] = ()
    priority: int | None = None


GraceBody = Annotated[Grace, Depends(body_of(Grace, default=Grace()))]


@router.post("/runs", status_code=201)
@shaped(takes=RunSpec, gives=Run, status=201)
def submit(ctx: Ctx, actor: Who, spec: Annotated[RunSpec, Depends(body_of(RunSpec))], key: Key = "") -> Response:
    """Accept a run; 200 and the same run when the Idempotency-Key is known."""
    run, is_new = runs.submit(ctx, actor, spec, key=key)
    return answer(run, status=201 if is_new else 200)


@router.get("/runs")
@shaped(gives=Run, is_page=True)
def page(
    ctx: Ctx,
    actor: Who,
    project: Project = "default",
    state: Annotated[list[str] | None, Query()] = None,
    owner: Annotated[str, Query(max_length=128)] = "",
    tag: Annotated[str, Query(max_length=128)] = "",
    text: Annotated[str, Query(max_length=200)] = "",
    link: Annotated[str, Query(max_length=128)] = "",
    order: Annotated[str, Query(max_length=200)] = "newest",
    archived: bool = False,
    cursor: Annotated[str, Query(max_length=1000)] = "",
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
) -> Response:
    """Return one page of the runs that match; `state` may be repeated, or hold several with commas."""
    wanted = RunFilter(
        project=project,
        states=_states(state or []),
        owner=owner,
        tag=tag,
        text=text,
        link_id=link,
        is_archived=archived,
        order=order,
    )
    return answer_page(runs.page(ctx, actor, wanted, cursor=cursor, limit=limit))


@router.get("/runs/{ref}")
@shaped(gives=Run)
def get(ctx: Ctx, actor: Who, ref: str, project: Project = "") -> Response:
    """Return the run of that id, unique beginning of an id, or name (the newest)."""
    return answer(runs.get(ctx, actor, ref, project=project))


@router.get("/runs/{ref}/attempts")
@shaped(gives=Attempt, is_list=True)
def attempts(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Return the run's attempts, oldest first."""
    return answer([_public(one) for one in runs.attempts(ctx, actor, ref)])


@router.get("/runs/{ref}/wait")
@shaped(gives=Run)
async def wait(
    request: Request, ctx: Ctx, actor: Who, ref: str, timeout_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 25.0
) -> Response:
    """Return the run when it is done, or as it stands after `timeout_s`."""
    until = ctx.clock.monotonic() + timeout_s
    while True:
        seen = ctx.signals.version("runs", "shutdown")
        run = await run_in_threadpool(runs.get, ctx, actor, ref)
        left = until - ctx.clock.monotonic()
        if run.state in TERMINAL_RUN or left <= 0 or is_draining(request.app):
            return answer(run)
        ref = run.id  # a newer run of the same name must not change what is waited for
        await ctx.signals.wait_async(("runs", "shutdown"), seen, left)


@router.get("/runs/{ref}/why")
@shaped()
def why(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Return the sentence that tells why the run is where it is."""
    told = runs.why(ctx, actor, ref)
    last = told.get("attempt")
    return answer({**told, "attempt": _public(last) if isinstance(last, Attempt) else None})


@router.get("/runs/{ref}/native")
@shaped()
async def native(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Return the engine's own objects behind the newest attempt as they are now; as they were launched if it does not answer."""
    recorded = await run_in_threadpool(runs.native, ctx, actor, ref)
    asked = await run_in_threadpool(operations.ask, ctx, actor, OperationKind.SHOW_NATIVE, str(recorded["attempt"]), {})
    until = ctx.clock.monotonic() + NATIVE_S
    while asked.state is OperationState.PENDING and (left := until - ctx.clock.monotonic()) > 0:
        seen = ctx.signals.version("operations", "shutdown")
        asked = await run_in_threadpool(operations.get, ctx, actor, asked.id)
        if asked.state is OperationState.PENDING:
            await ctx.signals.wait_async(("operations", "shutdown"), seen, left)
    return answer({"native": {**recorded, **asked.result, "error": asked.error.get("message", "")}})


@router.get("/runs/{ref}/lineage")
@shaped()
def tell_lineage(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Return what the run read and wrote, as a graph."""
    return answer(lineage.of_run(ctx, actor, ref))


@router.post("/runs/{ref}/cancel")
@shaped(takes=Grace, gives=Run)
def cancel(ctx: Ctx, actor: Who, ref: str, body: GraceBody) -> Response:
    """Want the run cancelled."""
    return answer(runs.cancel(ctx, actor, ref, grace_s=_grace(body)))


@router.post("/runs/{ref}/pause")
@shaped(takes=Grace, gives=Run)
def pause(ctx: Ctx, actor: Who, ref: str, body: GraceBody) -> Response:
    """Hold the run until it is resumed."""
    return answer(runs.pause(ctx, actor, ref, grace_s=_grace(body)))


@router.post("/runs/{ref}/resume")
@shaped(gives=Run)
def resume(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Let a paused run be planned again."""
    return answer(runs.resume(ctx, actor, ref))


@router.post("/runs/{ref}/checkpoint")
@shaped(gives=Run)
def checkpoint(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Ask the running code for a checkpoint."""
    return answer(runs.checkpoint(ctx, actor, ref))


@router.post("/runs/{ref}/archive")
@shaped(gives=Run)
def archive(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Put an ended run out of sight."""
    return answer(runs.archive(ctx, actor, ref))


@router.post("/runs/{ref}/unarchive")
@shaped(gives=Run)
def unarchive(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Bring an archived run back."""
    return answer(runs.unarchive(ctx, actor, ref))


@router.post("/runs/{ref}/rerun", status_code=201)
@shaped(takes=Again, gives=Run, status=201)
def rerun(
    ctx: Ctx, actor: Who, ref: str, body: Annotated[Again, Depends(body_of(Again, default=Again()))], key: Key = ""
) -> Response:
    """Submit the run's spec again, with changes."""
    again = runs.rerun(
        ctx, actor, ref, set_params=body.set, args=body.args, environment=body.environment, path=body.path, key=key,
        is_fresh=not body.cache,
    )  # fmt: skip
    return answer(again, status=201)


@router.patch("/runs/{ref}")
@shaped(takes=Change, gives=Run)
def edit(ctx: Ctx, actor: Who, ref: str, body: Annotated[Change, Depends(body_of(Change))]) -> Response:
    """Change tags and priority."""
    changed = runs.edit(ctx, actor, ref, add_tags=body.add_tags, remove_tags=body.remove_tags, priority=body.priority)
    return answer(changed)


@router.delete("/runs/{ref}", status_code=204)
@shaped(status=204)
def remove(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Delete an ended run."""
    runs.remove(ctx, actor, ref)
    return answer_nothing()


def _states(given: list[str]) -> tuple[str, ...]:
    wanted = [word for text in given for word in text.split(",") if word]
    for word in wanted:
        if word not in set(RunState):
            raise UsageError(f"{word[:40]!r} is no state of a run.", hint="One of " + ", ".join(RunState) + ".")
    return tuple(wanted)


def _grace(body: Grace) -> float | None:
    if body.grace_s is not None and not 0 <= body.grace_s <= 86400:
        raise UsageError(f"grace_s is {body.grace_s}; it must be between 0 and 86400.")
    return body.grace_s


def _public(attempt: Attempt) -> Attempt:
    return replace(attempt, token_hash="")
