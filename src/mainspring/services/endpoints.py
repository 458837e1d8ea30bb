"""Endpoints: a named address that serves a model version; a deployment is a revision row, traffic follows rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mainspring import plugins
from mainspring.core.actors import Actor
from mainspring.core.errors import MainspringError, NotFoundError, ServerError, StateError, UsageError
from mainspring.core.ids import check_name
from mainspring.core.records import Attempt, AttemptState, Endpoint, Revision, Role, Run
from mainspring.core.resources import Resources
from mainspring.core.specs import Link, RunKind, RunSpec, Value, ValueKind
from mainspring.services import models, serving
from mainspring.services.context import Context
from mainspring.services.inside import Place
from mainspring.services.runs import check_project, check_wanted, said
from mainspring.workflows.rollout import revision_of

MAX_REPLICAS = 64


def deploy(
    ctx: Context,
    actor: Actor,
    name: str,
    model: str,
    *,
    project: str = "default",
    replicas: int = 1,
    pool: str | None = None,
) -> Endpoint:
    """Serve `model` ("delays@champion") as endpoint `name`: the next revision of it, or its first. Returns before it is ready.

    Replicas go to nodes of `pool`: None for that of the revision before, empty for any. Raises CannotFitError, as of a run.
    """
    check_project(ctx, project)
    actor.need(project, Role.EDITOR)
    check_name(name, "endpoint")
    if not 1 <= replicas <= MAX_REPLICAS:
        raise UsageError(f"replicas is {replicas}; it must be between 1 and {MAX_REPLICAS}.")
    version = models.resolve(ctx, actor, *models.parse_ref(model), project=project)
    serving.told_of(ctx, version)  # refused before there is a revision that nothing can serve
    if pool is None:
        pool = _pool_of(ctx, project, name)
    elif pool:
        check_wanted(ctx, RunSpec(project=project, command=("serve",), resources=_asked(pool)))
    event = said(actor, "endpoint.deployed", name, project, model=version.model, version=version.number, replicas=replicas)
    return ctx.store.endpoints.deploy(
        project,
        name,
        version.model,
        version.number,
        replicas=replicas,
        pool=pool,
        created_by=actor.name,
        now=ctx.clock.now(),
        endpoint_id=ctx.ids.new("endpoint"),
        event=event,
    )


def get(ctx: Context, actor: Actor, name: str, *, project: str = "default") -> Endpoint:
    """Return the endpoint. Raises NotFoundError."""
    check_project(ctx, project)
    actor.need(project, Role.VIEWER)
    found = ctx.store.endpoints.get(project, name)
    if found is None:
        known = ", ".join(one.name for one in ctx.store.endpoints.all(project)[:10]) or "none"
        raise NotFoundError(
            f"There is no endpoint {name[:60]!r}; known: {known}.", hint=f"mainspring deploy MODEL --name {name[:60]}"
        )
    return found


def all(ctx: Context, actor: Actor, *, project: str = "default") -> list[Endpoint]:
    """Return the endpoints, by name."""
    check_project(ctx, project)
    actor.need(project, Role.VIEWER)
    return ctx.store.endpoints.all(project)


def revisions(ctx: Context, actor: Actor, name: str, *, project: str = "default") -> list[Revision]:
    """Return what the endpoint served, oldest first."""
    return ctx.store.endpoints.revisions(get(ctx, actor, name, project=project).id)


def rollback(ctx: Context, actor: Actor, name: str, *, to: int | None = None, project: str = "default") -> Endpoint:
    """Serve an earlier revision's model again (the previous one by default), as a new revision."""
    endpoint = get(ctx, actor, name, project=project)
    history = revisions(ctx, actor, name, project=project)
    live = next((one for one in history if one.number == endpoint.revision), None)
    before = [one for one in history if one.number != endpoint.revision]
    if live is not None:
        before = [one for one in before if (one.model, one.model_version) != (live.model, live.model_version)]
    wanted = [one for one in before if to is None or one.number == to]
    if not wanted:
        sentence = f"Endpoint {name!r} has no {'earlier revision' if to is None else f'revision {to}'} to go back to."
        if live is not None and len(history) > 1 and not before:
            sentence = f"All {len(history)} revisions of endpoint {name!r} serve {live.model}@{live.model_version}."
        raise StateError(sentence, hint=f"mainspring endpoint show {name}")
    target = wanted[-1]
    actor.need(project, Role.EDITOR)
    model = f"{target.model}@{target.model_version}"
    return deploy(ctx, actor, name, model, project=project, replicas=endpoint.replicas, pool=target.pool)


def stop(ctx: Context, actor: Actor, name: str, *, project: str = "default") -> Endpoint:
    """Stop serving; the history stays, a later deploy brings the endpoint back."""
    endpoint = get(ctx, actor, name, project=project)
    actor.need(project, Role.EDITOR)
    return ctx.store.endpoints.stop(endpoint.id, now=ctx.clock.now(), event=said(actor, "endpoint.stopped", name, project))


@dataclass(frozen=True, slots=True)
class Goal:
    """Where one replica listens: at `host` and `port` of the server's own machine, or inside, behind its runner's tunnel.

    A replica says itself where it listens: of one that is elsewhere only the port is believed.
    """

    host: str
    port: int
    inside: Place | None = None

    @property
    def address(self) -> str:
        """Return where it is, for people."""
        where = "" if self.inside is None else f" inside {self.inside.run}"
        return f"{self.host}:{self.port}{where}"


@dataclass(frozen=True, slots=True)
class Answering:
    """Who answers for an endpoint now, all of one `revision` (0: nobody)."""

    endpoint: Endpoint | None
    revision: int = 0
    goals: tuple[Goal, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return where they are, for people."""
        return tuple(goal.address for goal in self.goals)


def answering(ctx: Context, name: str, project: str) -> Answering:
    """Return the replicas that answer now: those of the live revision, or of the newest one before it while it starts."""
    endpoint = ctx.store.endpoints.get(project, name)
    if endpoint is None or endpoint.stopped_at is not None:
        return Answering(endpoint)
    found: list[tuple[int, Goal]] = []
    for run in ctx.store.runs.by_link("endpoint", endpoint.id):
        if run.state != "running":
            continue
        for attempt in ctx.store.attempts.of_run(run.id)[-1:]:
            if attempt.state is AttemptState.RUNNING:
                found += [(revision_of(run), goal) for goal in _goals(ctx, run, attempt)]
    best = max((number for number, _ in found if number <= endpoint.revision), default=0)
    return Answering(endpoint, best, tuple(goal for number, goal in found if number == best))


def _goals(ctx: Context, run: Run, attempt: Attempt) -> Iterator[Goal]:
    is_here = _shares_loopback(ctx, attempt.cluster)
    for member in attempt.replicas:
        host, _, port = member.address.rpartition(":")
        if not (host and port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
            continue
        if is_here:
            yield Goal(host.strip("[]"), int(port))
        elif member.unknown_since is None and member.ended_at is None:  # what nobody hears opens no tunnel
            place = Place(run=run.id, name=run.name, project=run.project, attempt=attempt.id, replica=member.index)
            yield Goal("127.0.0.1", int(port), place)


def _shares_loopback(ctx: Context, cluster_id: str) -> bool:
    """Say whether what listens in runs of a cluster is dialled from here. A kind that is not installed now is not."""
    cluster = ctx.store.clusters.get(cluster_id)
    try:
        return cluster is not None and plugins.engine(cluster.backend).shares_loopback
    except (NotFoundError, ServerError):
        return False


def serves_in(ctx: Context, endpoint: Endpoint, history: Sequence[Revision]) -> str:
    """Return what replicas of the live revision run in, in words; empty where that model is gone."""
    live = next((one for one in history if one.number == endpoint.revision), None)
    version = ctx.store.models.resolve(endpoint.project, live.model, str(live.model_version)) if live is not None else None
    try:
        return serving.told_of(ctx, version) if version is not None else ""
    except MainspringError:  # what it was made with is gone: the endpoint's own message says so
        return ""


def serving_spec(ctx: Context, endpoint: Endpoint, revision: Revision) -> RunSpec:
    """Return the run that serves one replica of `revision`. A native model needs what the run that made it had.

    A node that has not got its interpreter uses its own `python3`: `mainspring[serving]` must be installed for it.
    """
    version = ctx.store.models.resolve(endpoint.project, revision.model, str(revision.model_version))
    if version is None:
        raise NotFoundError(f"Model {revision.model} v{revision.model_version} is gone.")
    place = serving.place_of(ctx, version)
    return RunSpec(
        kind=RunKind.SERVING,
        name=f"serve-{endpoint.name}",
        project=endpoint.project,
        command=("python3", "-m", "mainspring.serving", "--port", "0"),
        environment=place.environment,
        code=place.code,
        env=place.env,
        secrets=place.secrets,
        args={"model": Value(kind=ValueKind.MODEL, digest=version.manifest)},
        resources=_asked(revision.pool),
        is_preemptible=False,
        link=Link(kind="endpoint", id=endpoint.id, key=str(revision.number)),
    )


def _asked(pool: str) -> Resources:
    """Return what one replica asks for."""
    return Resources(cpu_milli=1000, pool=pool)


def _pool_of(ctx: Context, project: str, name: str) -> str:
    """Return the pool of the endpoint's newest revision; empty for a new endpoint."""
    endpoint = ctx.store.endpoints.get(project, name)
    history = ctx.store.endpoints.revisions(endpoint.id) if endpoint is not None else []
    return history[-1].pool if history else ""
