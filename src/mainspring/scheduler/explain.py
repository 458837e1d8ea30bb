"""Why a run waits: one reason, true of the state after the plan, with the numbers to check it by (invariant 28).

The first that is true, in this order: the run itself (paused, backing off), the fleet (could it ever fit), its shares (held,
limit, guarantee), what is being done for it (nominated, bursting), what is kept for others, its fair part, and last what is
scarce (`shortage.py`). What the fleet says is the same for all runs of one kind, so it is worked out once for each kind.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

import numpy as np

from mainspring.core.ids import RunId
from mainspring.core.reasons import PAUSED, Reason, ReasonCode
from mainspring.core.resources import Resources
from mainspring.core.snapshot import Place, Snapshot, WaitingRun
from mainspring.core.units import show_bytes, show_milli
from mainspring.scheduler.backfill import Backfill, Hold
from mainspring.scheduler.burst import Unpaid
from mainspring.scheduler.cluster import Bools, Ints
from mainspring.scheduler.fit import misfit, most_in_one_cluster, no_cluster
from mainspring.scheduler.order import Entry, Kind
from mainspring.scheduler.placement import Placement
from mainspring.scheduler.requests import Key, Request, without_models
from mainspring.scheduler.shares import CPU, GPU, MEMORY, ROUNDING, Account, Tree
from mainspring.scheduler.shortage import Holders, misfit_or_out, not_ready, shortage

LONGEST_BACKOFF = timedelta(minutes=10)  # a moment farther off was written before the clock was set back: it holds nobody
SCARCE = {ReasonCode.NO_FREE_GPU: GPU, ReasonCode.NO_FREE_CPU: CPU, ReasonCode.NO_FREE_MEMORY: MEMORY}
SHOWN = 4


def hold(run: WaitingRun, now: datetime) -> Reason | None:
    """Return why the run is not to be tried at all, whatever is free; None if it may start."""
    if run.is_held:
        return PAUSED
    if run.is_unconfirmed:
        return Reason(
            code=ReasonCode.CLEANING_UP,
            sentence="Waits until the end of its former attempt is confirmed, so that it never runs twice.",
            facts={"is_unconfirmed": True},
        )
    if run.not_before is not None and timedelta(0) < run.not_before - now <= LONGEST_BACKOFF:
        moment = run.not_before.isoformat()
        return Reason(
            code=ReasonCode.BACKING_OFF,
            sentence=f"Its last attempt could not be kept up; it is tried again at {run.not_before:%H:%M:%S} UTC.",
            facts={"not_before": moment},
        )
    return None


def unpaid(one: Unpaid) -> Reason:
    """Return the reason of a run that a rented machine would be worth it for, did a budget not end before."""
    whose = f"the budget of share {one.share}" if one.share else "the budget of all"
    left = max(Decimal(0), one.left_usd).quantize(Decimal("0.01"))
    return Reason(
        code=ReasonCode.BUDGET,
        sentence=f"Waits for room here: a machine at {one.offer.site.name} may cost {one.offer.cost} USD, and {whose} has "
        f"{left} USD left this month.",
        facts={"site": one.offer.site.name, "cost_usd": str(one.offer.cost), "share": one.share, "left_usd": str(left)},
    )


def gate(entry: Entry, tree: Tree) -> Reason | None:
    """Return what its shares say against a start, whatever is free: held, a limit, a guarantee; None if nothing."""
    account, need = entry.account, entry.need
    if account.is_held:
        name = next(one.name for one in reversed(list(account.path())) if one.share.is_held)
        sentence = f"Waits because share {name} is held; an admin lets it go on with `mainspring share {name} --release`."
        return Reason(code=ReasonCode.SHARE_HELD, sentence=sentence, facts={"share": name})
    over = tree.over_limit(account, need)
    if over is not None:
        return _limited(*over, need.amounts[over[1]], tree)
    if not entry.run.is_preemptible:
        over = tree.over_entitlement(account, need)
        if over is not None:
            return _unpromised(*over, need.amounts[over[1]], tree)
    return None


def choose(entry: Entry, asked: Resources, replicas: int, tree: Tree, placement: Placement) -> Entry:
    """Return a run as if this were all that it asks for, with so many replicas."""
    run = entry.run
    if asked is run.resources and replicas == run.replicas and not run.alternatives and not run.min_replicas:
        return entry
    need = tree.need(placement.request(asked, run.sites), replicas)
    least = min(run.min_replicas, replicas)
    return replace(entry, run=replace(run, resources=asked, alternatives=(), replicas=replicas, min_replicas=least), need=need)


@dataclass(frozen=True, slots=True)
class _Fleet:
    """What the fleet says to one kind of request: a reason, or that it would fit were nothing kept for others."""

    reason: Reason | None
    never: bool = False


@dataclass(frozen=True, slots=True)
class _Fits:
    """What all runs of one shape could start with, were nothing kept. For whom it is kept from one depends on its length too."""

    requests: tuple[Request, ...]


class Explainer:
    """Answers `why` for the blocked runs of one plan. Gives all holds back: it judges what is free in truth."""

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        tree: Tree,
        room: Backfill,
        gone: Collection[RunId],
        placed: Sequence[tuple[str, tuple[Place, ...]]],
        untried: Collection[str],
        started: int,
    ) -> None:
        self._snapshot = snapshot
        self._tree = tree
        self._room = room
        self._cluster = room.placement.cluster
        self._gone = gone
        self._placed = placed
        self._untried = untried
        self._started = started
        self._holds: Sequence[Hold] = tuple(room.holds)
        room.release(self._holds)
        # those that some run may use: its own, a window of its share, what is needed later
        self._loose = [one for one in enumerate(self._holds) if one[1].until_s > 0 or one[1].account or one[1].run in room.kept]
        self._known: dict[tuple[Key, int, str], _Fleet] = {}
        self._told: dict[tuple[Kind, bool], Reason | _Fits] = {}
        self._kept_from: dict[tuple[tuple[Request, ...], int, str, tuple[int, ...]], Reason] = {}
        self._holders: Holders | None = None
        self._owed: dict[tuple[str, int], list[tuple[float, str]]] = {}
        self._unfair_to: dict[tuple[str, int, int], Reason] = {}

    def why(self, entry: Entry) -> Reason:
        """Return the one primary reason of a run that this plan does not start."""
        run = entry.run
        held = hold(run, self._snapshot.now)
        if held is not None:
            return held
        if run.is_bursting:
            return Reason(
                code=ReasonCode.BURSTING,
                sentence="Waits for a machine that was asked for it at a paid site and has not come yet.",
                facts={"is_bursting": True},
            )
        alike = (entry.shape, run.id in self._untried)
        if alike not in self._told:
            self._told[alike] = self._primary(entry)
        told = self._told[alike]
        return told if isinstance(told, Reason) else self._kept(entry, told)

    def _primary(self, entry: Entry) -> Reason | _Fits:
        """Return the reason of all runs of its shape: of the choice that comes nearest, of a gang with as few as may start."""
        run, placement = entry.run, self._room.placement
        asks = (run.resources, *run.alternatives) if run.alternatives else (run.resources,)
        told = [(asked, self._fleet(placement.request(asked, run.sites), run)) for asked in asks]
        able = [one for one in told if not one[1].never] or told[:1]
        if able[0][1].never and able[0][1].reason is not None:
            return able[0][1].reason
        choices = [(choose(entry, asked, run.least, self._tree, placement), fleet) for asked, fleet in able]
        said = [gate(choice, self._tree) for choice, _ in choices]
        if said[0] is not None and None not in said:
            return said[0]
        open_to_it = [choice for choice, no in zip(choices, said, strict=True) if no is None]
        found = [self._nearer(entry, choice, fleet) for choice, fleet in open_to_it]
        fits = [request for one in found if isinstance(one, _Fits) for request in one.requests]
        if not fits:
            return found[0]
        return self._behind() if run.id in self._untried else _Fits(tuple(fits))

    def _nearer(self, entry: Entry, choice: Entry, fleet: _Fleet) -> Reason | _Fits:
        """Return what stands against a choice that its shares let through: GPU models that are closed to it, or the fleet."""
        asked = choice.run.resources
        closed = self._tree.closed_models(entry.account, choice.need)
        left = without_models(self._cluster, asked, closed) if closed else asked
        of_left = self._fleet_of(left, entry.run)
        if left is None or of_left is None or of_left.never or (of_left.reason is not None and fleet.reason is None):
            return self._over_model(entry, choice, closed)
        if of_left.reason is not None:
            return self._unfair(choice, of_left.reason) or of_left.reason
        return _Fits((self._room.placement.request(left, entry.run.sites),))

    def _fleet(self, request: Request, run: WaitingRun) -> _Fleet:
        replicas, same = run.least, run.together
        key = (request.key, replicas, same)
        if key not in self._known:
            self._known[key] = self._ask(request, replicas, same)
        return self._known[key]

    def _ask(self, request: Request, replicas: int, same: str) -> _Fleet:
        cluster = self._cluster
        if not cluster.is_ready.any():
            return _Fleet(no_cluster(cluster), never=True)
        empty = self._room.placement.empty_counts(request)
        never = misfit(cluster, request, empty, replicas, same)
        if never is not None:
            return _Fleet(misfit_or_out(cluster, request, never, replicas, same), never=True)
        candidates: Bools = cluster.is_ready & (empty > 0)
        if most_in_one_cluster(cluster, np.where(candidates, empty, 0), same) < replicas:
            return _Fleet(not_ready(cluster, request, empty))
        fits = self._fits(request, candidates, same)
        if fits >= replicas:
            return _Fleet(None)
        if same and (apart := self._fits(request, candidates, "")) >= replicas:
            return _Fleet(_split(request, replicas, fits, apart, same))
        if fits:
            return _Fleet(
                Reason(
                    code=ReasonCode.GANG_INCOMPLETE,
                    sentence=f"Waits to start as a whole: {fits} of its {replicas} replicas of {request.asked.show()} "
                    "would fit now.",
                    facts={"replicas": replicas, "fit": fits},
                )
            )
        if self._holders is None:
            self._holders = Holders(cluster, self._room.holdings, self._gone, self._placed)
        return _Fleet(shortage(cluster, request, candidates, self._holders))

    def _fits(self, request: Request, candidates: Bools, same: str) -> int:
        cluster = self._cluster
        counts: Ints = np.where(candidates, request.counts(cluster, cluster.free, cluster.gpu_free), 0)
        return most_in_one_cluster(cluster, counts, same)

    def _behind(self) -> Reason:
        policy = self._snapshot.policy
        facts: dict[str, object] = {"started": self._started, "max_starts": policy.max_starts, "depth": policy.backfill.depth}
        sentence = f"Waits its turn: {policy.backfill.depth} kinds of runs of its own share ahead of it are tried first."
        if self._started >= policy.max_starts:
            sentence = f"Waits its turn: {self._started} runs ahead are started first, the most at one time."
        return Reason(code=ReasonCode.BEHIND, sentence=sentence, facts=facts)

    def _over_model(self, entry: Entry, choice: Entry, closed: frozenset[str]) -> Reason:
        """Return SHARE_LIMIT of the model that would let the run start, were it open; else of the first."""
        tree, need = self._tree, choice.need
        but_one = ((one, without_models(self._cluster, choice.run.resources, closed - {one})) for one in sorted(closed))
        fleets = ((one, self._fleet_of(left, entry.run)) for one, left in but_one)
        model = next((one for one, fleet in fleets if fleet is not None and fleet.reason is None), min(closed))
        return _limited(tree.over_model(entry.account, need, model), tree.units.index["gpu:" + model], need.amounts[GPU], tree)

    def _fleet_of(self, asked: Resources | None, run: WaitingRun) -> _Fleet | None:
        return self._fleet(self._room.placement.request(asked, run.sites), run) if asked is not None else None

    def _kept(self, entry: Entry, fits: _Fits) -> Reason:
        """Return why a run waits that would fit were nothing kept: for whom what it needs is kept."""
        run, may_pass = entry.run, self._room.may_pass
        free = tuple([number for number, one in self._loose if one.run == run.id or may_pass(one, run, entry.account)])
        alike = (fits.requests, run.least, run.together, free)
        if alike not in self._kept_from:
            others = [one for number, one in enumerate(self._holds) if number not in free]
            named = [self._in_the_way(request, run, others) for request in fits.requests]
            self._kept_from[alike] = _reserved(named[0]) if all(named) else self._left_over()
        return self._kept_from[alike]

    def _in_the_way(self, request: Request, run: WaitingRun, holds: Sequence[Hold]) -> list[Hold]:
        """Return those holds without which the run would fit beside all others; were any of them left, it would not."""
        cluster, candidates = self._cluster, self._cluster.is_ready
        free, gpu_free = cluster.free.copy(), cluster.gpu_free.copy()
        named: list[Hold] = []
        for one in sorted(holds, key=lambda hold: hold.reservation is None):  # windows first
            for row, need, milli in one.held:
                free[row] -= need
                gpu_free[row] -= milli
            counts: Ints = np.where(candidates, request.counts(cluster, free, gpu_free), 0)
            if most_in_one_cluster(cluster, counts, run.together) < run.least:
                named.append(one)
                for row, need, milli in one.held:
                    free[row] += need
                    gpu_free[row] += milli
        return named

    def _left_over(self) -> Reason:
        return Reason(
            code=ReasonCode.BEHIND,
            sentence="Waits its turn: room was made for others after it was tried, and there is enough left for it; "
            "the next plan tries it again.",
            facts={"stopping": sorted(self._gone)[:SHOWN]},
        )

    def _unfair(self, entry: Entry, scarce: Reason) -> Reason | None:
        """Return FAIR_SHARE if its share (or one above) has its fair part of what is scarce and a sibling is owed more."""
        if not self._snapshot.policy.order.is_fair:
            return None
        need = entry.need
        unit = SCARCE.get(scarce.code, GPU if need.amounts[GPU] else CPU)
        for one in entry.account.path():
            if one.parent is None or one.used[unit] + need.amounts[unit] <= one.fair[unit]:
                continue
            missing = max(0.0, one.fair[unit] - one.used[unit])
            owed = self._owed_below(one.parent, unit)
            count = bisect_left(owed, (-missing - ROUNDING, ""))  # itself is not among them: it misses just as much
            if count:
                return self._say_fair(one, unit, owed[: min(count, SHOWN)], count, scarce)
        return None

    def _owed_below(self, parent: Account, unit: int) -> list[tuple[float, str]]:
        """Return (minus what it is owed, name) of those below a share that are owed something, the most owed first."""
        key = (parent.name, unit)
        if key not in self._owed:
            gaps = ((one.used[unit] - one.fair[unit], one.name) for one in parent.children)
            self._owed[key] = sorted(gap for gap in gaps if gap[0] < 0)
        return self._owed[key]

    def _say_fair(self, account: Account, unit: int, owed: Sequence[tuple[float, str]], count: int, scarce: Reason) -> Reason:
        key = (account.name, unit, id(scarce))  # runs of one kind share the reason of what is scarce
        if key not in self._unfair_to:
            amounts = {name: int(-gap) for gap, name in owed}
            self._unfair_to[key] = _fair(account, unit, amounts, count, scarce, self._tree)
        return self._unfair_to[key]


def _split(request: Request, replicas: int, fits: int, apart: int, same: str) -> Reason:
    one = "machine" if same == "node" else same
    return Reason(
        code=ReasonCode.TOPOLOGY,
        sentence=f"Waits for {replicas} replicas of {request.asked.show()} on one {one}: {apart} would fit now, but at most "
        f"{fits} of them on the same {one}.",
        facts={"replicas": replicas, "fit": fits, "apart": apart, "same": same},
    )


def _fair(account: Account, unit: int, owed: dict[str, int], count: int, scarce: Reason, tree: Tree) -> Reason:
    first = next(iter(owed))
    held, fair = _show(tree, unit, account.used[unit]), _show(tree, unit, int(account.fair[unit]))
    others = f" and {count - 1} more are" if count > 1 else " is"
    return Reason(
        code=ReasonCode.FAIR_SHARE,
        sentence=f"Waits because share {account.name} holds {held} and its fair part is {fair}, while {first}{others} owed more.",
        facts={
            **scarce.facts,
            "scarce": str(scarce.code),
            "share": account.name,
            "unit": tree.units.names[unit],
            "used": account.used[unit],
            "fair": int(account.fair[unit]),
            "owed": owed,
        },
    )


def _reserved(holds: Sequence[Hold]) -> Reason:
    windows = [one.reservation for one in holds if one.reservation is not None]
    runs = [one.run for one in holds if one.reservation is None]
    behind = f"kept for {_listed(runs)} ahead of it, which it would delay"
    if not windows:
        sentence = f"Waits because what is free is {behind}."
        return Reason(code=ReasonCode.RESERVED, sentence=sentence, facts={"runs": runs[:SHOWN]})
    first, *others = windows
    more = f" and {len(others)} more window{'s' * (len(others) > 1)}" if others else ""
    more += f", and {behind}" if runs else ""
    facts: dict[str, object] = {"reservation": first.id, "share": first.share, "begins_at": first.begins_at.isoformat()}
    return Reason(
        code=ReasonCode.ADVANCE_RESERVATION,
        sentence=f"Waits because what is free is reserved for share {first.share or 'all'} "
        f"from {first.begins_at:%d %b %H:%M} to {first.ends_at:%d %b %H:%M} UTC{more}.",
        facts=facts | ({"runs": runs[:SHOWN]} if runs else {}),
    )


def _limited(account: Account, unit: int, need: int, tree: Tree) -> Reason:
    limit, used = account.limit[unit], account.used[unit]
    name = account.name or "all"
    advice = ""
    if need > limit:
        advice = f" It asks for more than share {name} may ever hold: ask for {_show(tree, unit, limit)} or less."
    return Reason(
        code=ReasonCode.SHARE_LIMIT,
        sentence=f"Waits because share {name} may hold {_show(tree, unit, limit)} at most: it holds {_show(tree, unit, used)} "
        f"and this run takes {_show(tree, unit, need)}.{advice}",
        facts={"share": account.name, "unit": tree.units.names[unit], "limit": limit, "used": used, "need": need},
    )


def _unpromised(account: Account, unit: int, need: int, tree: Tree) -> Reason:
    entitled, pinned = int(account.entitled[unit]), account.pinned[unit]
    return Reason(
        code=ReasonCode.OVER_GUARANTEE,
        sentence=f"Waits because it may not be preempted: share {account.name or 'all'} can count on "
        f"{_show(tree, unit, entitled)}, holds {_show(tree, unit, pinned)} in such runs, and this one takes "
        f"{_show(tree, unit, need)}.",
        facts={"share": account.name, "unit": tree.units.names[unit], "entitled": entitled, "pinned": pinned, "need": need},
    )


def _show(tree: Tree, unit: int, amount: int) -> str:
    if unit == MEMORY:
        return show_bytes(amount)
    if unit == CPU:
        return f"{show_milli(amount)} CPU{'' if amount == 1000 else 's'}"
    model = tree.units.names[unit].partition(":")[2]
    return f"{show_milli(amount)} {model + ' ' if model else ''}GPU{'' if amount == 1000 else 's'}"


def _listed(runs: Sequence[str]) -> str:
    more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    return f"{', '.join(runs[:SHOWN])}{more}"
