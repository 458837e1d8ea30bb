"""The planner's policy: shown to everybody, set by administrators, checked before it is in force."""

from __future__ import annotations

from mainspring.core.actors import Actor
from mainspring.core.errors import PlannerError, SpecError
from mainspring.core.policy import Policy
from mainspring.core.policy_file import line_of, parse_policy, show_policy
from mainspring.core.snapshot import Snapshot
from mainspring.scheduler import plan
from mainspring.services.context import Context
from mainspring.services.runs import said
from mainspring.store.policies import SetPolicy


def current(ctx: Context, actor: Actor) -> SetPolicy:
    """Return the policy in force; `text` is what its author wrote, or all of it where nobody wrote any."""
    del actor
    return _with_text(ctx.store.policies.current())


def history(ctx: Context, actor: Actor) -> list[SetPolicy]:
    """Return the policies that were set, newest first."""
    del actor
    return ctx.store.policies.history()


def check(ctx: Context, actor: Actor, text: str) -> Policy:
    """Return the policy that `text` describes. Raises SpecError with key, line and the nearest right key."""
    del actor
    policy = parse_policy(text)
    try:
        plan(Snapshot(now=ctx.clock.now(), policy=policy))  # a scorer that nobody knows, for one
    except (PlannerError, SpecError) as wrong:
        line = line_of(text, "scorer")
        raise SpecError(f"Line {line}: {wrong.message}", hint=wrong.hint, details={"path": "scorer", "line": line}) from wrong
    return policy


def change(ctx: Context, actor: Actor, text: str, *, after: int | None = None) -> SetPolicy:
    """Put a policy in force (administrators). The one before stays in force when anything is wrong with it."""
    actor.need_admin()
    policy = check(ctx, actor, text)
    event = said(actor, "policy.set", "policy", "")
    return ctx.store.policies.set(policy, text, actor=actor.name, after=after, event=event)


def _with_text(found: SetPolicy) -> SetPolicy:
    if found.text:
        return found
    return SetPolicy(number=found.number, at=found.at, actor=found.actor, text=show_policy(found.policy), policy=found.policy)
