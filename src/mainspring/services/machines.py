"""Rented machines: which there are or were, for whom, and what they cost."""

from __future__ import annotations

from dataclasses import replace

from mainspring.core.actors import Actor
from mainspring.core.errors import NotFoundError, StateError
from mainspring.core.ids import RunId
from mainspring.core.machines import Bill, Machine, cost_micros
from mainspring.core.records import Role
from mainspring.core.snapshot import Site
from mainspring.core.usage import usd
from mainspring.services.context import Context


def all(ctx: Context, actor: Actor) -> list[Bill]:
    """Return the machines that were asked for last, the newest first; runs that the actor may not see are not named."""
    now = ctx.clock.now()
    return [
        Bill(
            machine=one if actor.may(one.project, Role.VIEWER) else replace(one, run=RunId("")),
            cost_usd=usd(cost_micros(one, now)),
            reserved_usd=usd(one.reserved_micros),
        )
        for one in ctx.store.machines.page()
    ]


def sites(ctx: Context, actor: Actor) -> list[Site]:
    """Return where machines can be rented, by name."""
    del actor
    return ctx.store.machines.sites()


def give_back(ctx: Context, actor: Actor, ref: str) -> Machine:
    """Let a machine end before its time (administrators). Raises NotFoundError, StateError while something runs there."""
    actor.need_admin()
    for machine in ctx.store.machines.open():
        if machine.id == ref or machine.id.endswith(ref):
            if not ctx.store.machines.give_back(machine, f"Given back by {actor.name}.", actor=actor.name):
                raise StateError(f"Something runs on {machine.id}.", hint="Stop it first, or wait for its end.")
            return machine
    raise NotFoundError(f"No machine {ref[:80]!r} is rented.", hint="mainspring machine ls")
