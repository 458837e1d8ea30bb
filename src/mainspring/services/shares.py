"""Shares and advance reservations: who is promised what. Administrators configure them; everybody sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from mainspring import scheduler
from mainspring.core.actors import Actor
from mainspring.core.errors import ConflictError, NotFoundError, SpecError
from mainspring.core.records import Node, NodeState
from mainspring.core.resources import Resources, check_resources
from mainspring.core.shares import Share, check_share, parent_of, show_amounts
from mainspring.core.snapshot import Reservation
from mainspring.services.context import Context
from mainspring.services.runs import said
from mainspring.store.events import NewEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareChange:
    """What to change of a share; None leaves it as it is. `parent` moves it, with all below, under another (empty: the root)."""

    weight: float | None = None
    guarantee: Mapping[str, int] | None = None
    limit: Mapping[str, int] | None = None
    budget_usd: str | None = None
    is_held: bool | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A share after a change, and what is worth knowing about it."""

    share: Share
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReservation:
    """An advance reservation to make: `resources` x `replicas`, kept for a share between two moments."""

    share: str
    begins_at: datetime
    ends_at: datetime
    resources: Resources = field(default_factory=Resources)
    replicas: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """An advance reservation, and what is worth knowing about it."""

    reservation: Reservation
    notices: tuple[str, ...] = ()


def all(ctx: Context, actor: Actor) -> list[Share]:
    """Return the configured shares by name."""
    del actor
    return ctx.store.shares.all()


def get(ctx: Context, actor: Actor, ref: str) -> Share:
    """Return a configured share by its path, or by its last part where only one has it. Raises NotFoundError, ConflictError."""
    found = _found(all(ctx, actor), ref)
    if found is None:
        raise NotFoundError(f"There is no share {ref[:80]!r}.", hint=f"Make it: mainspring share {ref[:80]} --weight 1")
    return found


def change(ctx: Context, actor: Actor, ref: str, wanted: ShareChange) -> Changed:
    """Configure a share, made if there is none (administrators). Raises SpecError (with the field), ConflictError (a cycle)."""
    actor.need_admin()
    known = all(ctx, actor)
    share = _found(known, ref)
    if wanted.parent is not None:
        share = _moved(ctx, actor, known, share, ref, wanted.parent)
        known = all(ctx, actor)
    share = share or Share(name=_path(known, ref), version=0)
    new = replace(
        share,
        weight=share.weight if wanted.weight is None else wanted.weight,
        guarantee=share.guarantee if wanted.guarantee is None else dict(wanted.guarantee),
        limit=share.limit if wanted.limit is None else dict(wanted.limit),
        budget_usd=share.budget_usd if wanted.budget_usd is None else wanted.budget_usd,
        is_held=share.is_held if wanted.is_held is None else wanted.is_held,
    )
    check_share(new)
    if new != share or share.version == 0:
        new = ctx.store.shares.put(new, event=_said(actor, "share.changed", new))
    others = [one for one in known if one.name != new.name]
    return Changed(share=new, notices=tuple(_notices(new, others, ctx.store.nodes.all())))


def remove(ctx: Context, actor: Actor, ref: str) -> None:
    """Forget what was configured for a share (administrators). Raises ConflictError while something belongs to it."""
    actor.need_admin()
    share = _found(all(ctx, actor), ref)
    if share is None:
        raise NotFoundError(f"There is no share {ref[:80]!r}.", hint="`mainspring share` shows those that there are.")
    ctx.store.shares.remove(share.name, event=_said(actor, "share.removed", share))


def reservations(ctx: Context, actor: Actor) -> list[Reservation]:
    """Return the advance reservations, the first to begin first."""
    del actor
    return ctx.store.shares.reservations()


def reserve(ctx: Context, actor: Actor, wanted: NewReservation) -> Reserved:
    """Keep resources for a share in a window (administrators). Raises SpecError."""
    actor.need_admin()
    check_resources(wanted.resources)
    if wanted.begins_at.tzinfo is None or wanted.ends_at.tzinfo is None:
        raise _bad("begins_at", "A moment has no time zone.", "Write it as 2026-03-01T09:00+01:00.")
    if wanted.ends_at <= max(wanted.begins_at, ctx.clock.now()):
        raise _bad("ends_at", "The window is over before it begins, or is past.", "The end is after the begin, and to come.")
    if not 1 <= wanted.replicas <= 4096:
        raise _bad("replicas", f"replicas is {wanted.replicas}.", "Between 1 and 4096.")
    check_share(Share(name=wanted.share))
    found = _found(all(ctx, actor), wanted.share)
    made = Reservation(
        id=ctx.ids.new("rsv"),
        share=found.name if found is not None else wanted.share,
        begins_at=wanted.begins_at,
        ends_at=wanted.ends_at,
        resources=wanted.resources,
        replicas=wanted.replicas,
    )
    event = said(actor, "reservation.made", made.id, "", share=made.share)
    others = ctx.store.shares.reservations()
    kept = ctx.store.shares.reserve(made, actor.name, event=event)
    return Reserved(reservation=kept, notices=tuple(_unkeepable(kept, others, ctx.store.nodes.all())))


def release(ctx: Context, actor: Actor, id: str) -> None:
    """Give an advance reservation up (administrators). Raises NotFoundError."""
    actor.need_admin()
    if not ctx.store.shares.release(id, event=said(actor, "reservation.released", id, "")):
        raise NotFoundError(f"There is no reservation {id[:80]!r}.", hint="mainspring reservation ls")


def _found(known: list[Share], ref: str) -> Share | None:
    exact = [share for share in known if share.name == ref]
    named = exact or [share for share in known if share.name.endswith("/" + ref)]
    if len(named) > 1:
        names = ", ".join(share.name for share in named)
        raise ConflictError(f"{ref!r} may be any of {len(named)} shares: {names}.", hint="Write its whole path.")
    return named[0] if named else None


def _path(known: list[Share], ref: str) -> str:
    """Return the path of a share that is new: what stands before its last part may be the end of another's path."""
    above, _, last = ref.rpartition("/")
    found = _found(known, above) if above else None
    return f"{found.name}/{last}" if found is not None else ref


def _moved(ctx: Context, actor: Actor, known: list[Share], share: Share | None, ref: str, parent: str) -> Share:
    """Return the share under its new parent; what is below it comes along. Raises ConflictError for a cycle."""
    above = _found(known, parent) if parent else None
    if parent and above is None:
        check_share(Share(name=parent))
    path = above.name if above is not None else parent
    old = share.name if share is not None else ref
    if path == old or path.startswith(old + "/"):
        raise ConflictError(f"{path} is {old} itself or below it: the tree would be a cycle.", hint="Choose another parent.")
    last = old.rpartition("/")[2]
    new = f"{path}/{last}" if path else last
    check_share(Share(name=new))
    if share is None:
        return Share(name=new, version=0)
    if share.name == new:
        return share
    ctx.store.shares.move(old, new, event=said(actor, "share.moved", new, "", was=old))
    return replace(share, name=new)


def _notices(share: Share, others: list[Share], nodes: list[Node]) -> Iterator[str]:
    """Give what a wise person would look at again. Nothing of it is refused: machines come and go."""
    capacity = _capacity(nodes)
    models = sorted(name[4:] for name in capacity if name.startswith("gpu:"))
    for name in sorted({*share.guarantee, *share.limit}):
        if name.startswith("gpu:") and name not in capacity:
            yield f"No node has a GPU of model {name[4:]}; known models: {', '.join(models) or 'none'}."
    siblings = [one for one in others if parent_of(one.name) == parent_of(share.name)]
    for name, amount in sorted(share.guarantee.items()):
        promised = amount + sum(one.guarantee.get(name, 0) for one in siblings)
        if promised > capacity.get(name, 0) and (name in capacity or not name.startswith("gpu:")):
            yield (
                f"It and its siblings have {show_amounts({name: promised})} guaranteed; the fleet has "
                f"{show_amounts({name: capacity.get(name, 0)})}: guarantees are scaled down."
            )


def _unkeepable(made: Reservation, others: list[Reservation], nodes: list[Node]) -> Iterator[str]:
    """Say so if the fleet, were it empty, could not keep all that is reserved for the window. Kept is what there is."""
    misfit = scheduler.would_fit(nodes, made.resources)
    if misfit is not None:
        yield f"Nothing can be kept as the fleet is. {misfit.sentence}"
        return
    capacity = _capacity(nodes)
    meanwhile = [made, *(one for one in others if one.begins_at < made.ends_at and made.begins_at < one.ends_at)]
    for name, amount in _reserved(made).items():
        wanted = amount + sum(_reserved(one).get(name, 0) for one in meanwhile[1:])
        if wanted > capacity.get(name, 0):
            yield (
                f"{show_amounts({name: wanted})} would be reserved at a time, by all windows that overlap; the fleet has "
                f"{show_amounts({name: capacity.get(name, 0)})}: no more than that is kept."
            )


def _reserved(one: Reservation) -> dict[str, int]:
    asked = one.resources
    amounts = {"cpu": asked.cpu_milli, "memory": asked.memory_bytes, "gpu": asked.gpu_milli}
    if len(asked.gpu_models) == 1:
        amounts["gpu:" + asked.gpu_models[0].casefold()] = asked.gpu_milli
    return {name: amount * one.replicas for name, amount in amounts.items() if amount}


def _capacity(nodes: list[Node]) -> dict[str, int]:
    """Return how much of each resource there is on nodes that serve, or will again."""
    ready = [node for node in nodes if node.state in (NodeState.READY, NodeState.DRAINING)]
    capacity: dict[str, int] = {
        "cpu": sum(node.cpu_milli for node in ready),
        "memory": sum(node.memory_bytes for node in ready),
        "gpu": 1000 * sum(len(node.devices) for node in ready),
    }
    for node in ready:
        for device in node.devices:
            key = "gpu:" + device.model.casefold()
            capacity[key] = capacity.get(key, 0) + 1000
    return capacity


def _said(actor: Actor, kind: str, share: Share) -> NewEvent:
    return said(
        actor,
        kind,
        share.name,
        "",
        weight=share.weight,
        guarantee=dict(share.guarantee),
        limit=dict(share.limit),
        budget_usd=share.budget_usd,
        is_held=share.is_held,
    )


def _bad(path: str, message: str, hint: str) -> SpecError:
    return SpecError(message, hint=hint, details={"path": path})
