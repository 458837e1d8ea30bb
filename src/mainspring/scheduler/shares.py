"""The tree of shares in one plan: who holds what, what is promised to whom, and what would be fair.

An `Account` is one share (organisation, team, person). Amounts are lists by `Units`: cpu, memory, gpu, then each GPU model
of the fleet. A run counts to its leaf and to every share above. A share that nobody configured has weight 1, no guarantee
and no limit, so that a new user needs no setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mainspring.core.resources import GPU_MILLI, Granted, Resources
from mainspring.core.shares import ROOT, Share, path_of
from mainspring.core.snapshot import Snapshot
from mainspring.scheduler.cluster import Cluster
from mainspring.scheduler.holdings import Holdings
from mainspring.scheduler.requests import NEVER, Request

CPU, MEMORY, GPU = 0, 1, 2
UNBOUNDED = 2**62
ROUNDING = 1e-6  # of a milli or a byte
NEVER_SERVED = 0.0  # seconds of 1970
LEAST_WEIGHT = 0.1  # past use takes no more than nine tenths of a share's weight: it never starves


@dataclass(frozen=True, slots=True)
class Units:
    """The resources that are shared, in one order, and how much there is of each on nodes that take runs."""

    names: tuple[str, ...]
    index: Mapping[str, int]
    capacity: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Need:
    """What all replicas of a run take, at most where it depends on the device. `mask`: the resources asked for."""

    amounts: tuple[int, ...]
    mask: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Account:
    """One share in one plan. `guarantee` is what it can count on: scaled where more was promised than there is.

    `pinned` is what its non-preemptible runs hold, `asked` what its waiting runs ask for, `demand` what it could use of both
    within its limits and those below, `pledged` the resources that
    its own guarantee names. `entitled` bounds `pinned`, `fair` is its water-filled amount (both set by `Tree`).
    """

    share: Share
    parent: Account | None
    capacity: Sequence[int]  # of the fleet
    history: float
    guarantee: list[int]
    limit: list[int]
    used: list[int]
    pinned: list[int]
    asked: list[int]
    unused: list[int] = field(default_factory=list)  # what its placed runs could have taken on other devices
    bound: list[int] = field(default_factory=list)  # of a GPU model: what is held and asked for by runs that may have no other
    demand: list[int] = field(default_factory=list)
    depth: int = 0
    served_s: float = NEVER_SERVED  # when it, or one below it, was last given a start
    weight: float = 1.0
    is_limited: bool = False
    is_held: bool = False  # it or one above it
    pledged: frozenset[int] = frozenset()
    children: list[Account] = field(default_factory=list)
    entitled: list[float] = field(default_factory=list)
    fair: list[float] = field(default_factory=list)
    scarce: list[bool] = field(default_factory=list)  # those below it ask for more than it may fairly have

    @property
    def name(self) -> str:
        """Return the share's path."""
        return self.share.name

    def is_promised(self, need: Need) -> bool:
        """Say whether it would stay within what it has guaranteed of each resource that counts here.

        Resources that its guarantee does not name are not counted, but a run with GPUs needs GPUs guaranteed.
        """
        counted = False
        for place in need.mask:
            if self.guarantee[place]:
                if self.used[place] + need.amounts[place] > self.guarantee[place]:
                    return False
                counted = counted or place >= GPU or not need.amounts[GPU]
        return counted

    def has_room(self, need: Need) -> bool:
        """Say whether it would stay at or below its fair amount of all that is asked for."""
        return all(self.used[place] + need.amounts[place] <= self.fair[place] + ROUNDING for place in need.mask)

    def path(self) -> Iterator[Account]:
        """Give this account, then those above it up to the root."""
        account: Account | None = self
        while account is not None:
            yield account
            account = account.parent


class Tree:
    """All accounts of one plan. Use changes with `charge`, fair amounts only with the demand (`turn`, `settle_again`)."""

    def __init__(self, snapshot: Snapshot, measure: Measure, holdings: Holdings) -> None:
        self.units = measure.units
        self.granted, self.need, self.unused = measure.granted, measure.need, measure.unused
        self._is_stale = False  # demand has changed since the fair amounts were computed
        self.accounts: dict[str, Account] = {}
        self._names_models = any(
            name.startswith("gpu:") for state in snapshot.shares for name in (*state.share.limit, *state.share.guarantee)
        )
        self._models = range(GPU + 1, len(self.units.names))
        self._set_up(snapshot)
        for leaf, sums in holdings.by_leaf.items():
            for one in self.account(leaf).path():
                one.unused[GPU] += sums.unused
                for place in self._models:
                    one.bound[place] += sums.bound[place]
                for place, amount in enumerate(sums.used):
                    one.used[place] += amount
                    one.pinned[place] += sums.pinned[place]

    def account(self, leaf: str) -> Account:
        """Return the account of that share, made with its ancestors when nobody configured it."""
        found = self.accounts.get(leaf)
        return found if found is not None else self._grow(leaf)

    def charge(self, account: Account, amounts: Sequence[int], *, is_pinned: bool, sign: int = 1) -> None:
        """Add what a run holds to its share and to all above (`sign` -1 takes it away)."""
        for one in account.path():
            used = one.used
            for place, amount in enumerate(amounts):
                used[place] += sign * amount
            if is_pinned:
                for place, amount in enumerate(amounts):
                    one.pinned[place] += sign * amount

    def ask(self, account: Account, need: Need, runs: int) -> None:
        """Count what so many waiting runs ask for to their share and to all above."""
        for one in account.path():
            for place in need.mask:
                one.asked[place] += need.amounts[place] * runs
                one.bound[place] += need.amounts[place] * runs

    def turn(self, account: Account, need: Need, *, asked: int, held: Sequence[int], unused: int) -> None:
        """Count that a run asks for its need once more (`asked` 1), no more (-1) or as before (0), and holds so much more.

        With `held` it was charged before. Amounts of a model that nobody asks for by name are compared with nothing, so that
        they may change.
        """
        root, change = self.accounts[ROOT], [asked * amount for amount in need.amounts]
        counts = [place for place in range(len(change)) if place <= GPU or root.asked[place]]
        if any(change[place] + held[place] + (unused if place == GPU else 0) for place in counts):
            self._is_stale = True
        for one in account.path():
            one.unused[GPU] += unused
            for place in need.mask:
                one.asked[place] += change[place]
                one.bound[place] += change[place] + held[place]

    def settle_again(self) -> None:
        """Compute the fair amounts anew where what is held and asked for together has changed."""
        if self._is_stale:
            self.settle()
            self._is_stale = False

    def serve(self, account: Account, at_s: float) -> None:
        """Note that a run of the share was started then."""
        for one in account.path():
            one.served_s = max(one.served_s, at_s)

    def over_limit(self, account: Account, need: Need) -> tuple[Account, int] | None:
        """Return the lowest share that may not hold so much more, and of what; None if all may."""
        for one in account.path():
            if one.is_limited:
                for place in need.mask:
                    if one.used[place] + need.amounts[place] > one.limit[place]:
                        return one, place
        return None

    def over_entitlement(self, account: Account, need: Need) -> tuple[Account, int] | None:
        """Return the lowest share that may not hold so much more without being preemptible, and of what."""
        for one in account.path():
            for place in need.mask:
                if one.pinned[place] + need.amounts[place] > one.entitled[place]:
                    return one, place
        return None

    def closed_models(self, account: Account, need: Need) -> frozenset[str]:
        """Return the GPU models of which some share on the path may not hold so much more."""
        if not self._names_models or not need.amounts[GPU]:
            return frozenset()
        return frozenset(
            name.partition(":")[2]
            for place, name in enumerate(self.units.names)
            if place > GPU
            and any(one.is_limited and one.used[place] + need.amounts[GPU] > one.limit[place] for one in account.path())
        )

    def over_model(self, account: Account, need: Need, model: str) -> Account:
        """Return the lowest share that may not hold so much more of a GPU model that is closed."""
        place = self.units.index["gpu:" + model]
        return next(one for one in account.path() if one.is_limited and one.used[place] + need.amounts[GPU] > one.limit[place])

    def settle(self) -> None:
        """Compute weights, guarantees, entitlements and fair amounts, top down, when all demand is known."""
        size = len(self.units.names)
        root = self.accounts[ROOT]
        for account in self.accounts.values():
            account.children.sort(key=lambda one: one.name)  # whatever came first
        for account in sorted(self.accounts.values(), key=lambda one: -one.depth):  # bottom up
            account.demand = _demand(account)
            if account.children:
                promised = [sum(child.guarantee[place] for child in account.children) for place in range(size)]
                account.guarantee = [max(own, below) for own, below in zip(account.guarantee, promised, strict=True)]
        root.guarantee = [min(own, most) for own, most in zip(root.guarantee, self.units.capacity, strict=True)]
        root.entitled = [float(most) for most in self.units.capacity]
        root.fair = [float(min(most, root.demand[place])) for place, most in enumerate(self.units.capacity)]
        root.fair[GPU] = min(root.fair[GPU], self._could_use(root))
        level = [root]
        while level:
            for account in level:
                self._divide(account)
            level = [child for account in level for child in account.children]

    def _divide(self, account: Account) -> None:
        children = account.children
        if not children:
            return
        _weigh(children, self._history)
        askers = [one for one in children if any(one.used) or any(one.asked)]
        size = len(self.units.names)
        for one in children:
            one.entitled, one.fair = [0.0] * size, [0.0] * size
        account.scarce = [False] * size
        for place in (CPU, MEMORY, *self._models, GPU):  # models first: who may have no other can use no more GPUs than of those
            demands = [float(one.demand[place]) for one in children]
            if place == GPU:
                demands = [min(most, self._could_use(one)) for one, most in zip(children, demands, strict=True)]
            account.scarce[place] = sum(demands) > account.fair[place] + ROUNDING
            promised = sum(one.guarantee[place] for one in children)
            if promised > account.guarantee[place] and promised:
                for one in children:
                    one.guarantee[place] = one.guarantee[place] * account.guarantee[place] // promised
                promised = sum(one.guarantee[place] for one in children)
            rest = max(0.0, account.entitled[place] - promised)
            weights = sum(one.share.weight for one in askers if GPU not in one.pledged)
            for one in children:
                if GPU in one.pledged:  # else it has no more than a window of CPUs
                    one.entitled[place] = float(one.guarantee[place]) if place in one.pledged else float(UNBOUNDED)
                else:
                    own = rest * one.share.weight / weights if weights else rest
                    one.entitled[place] = max(own, float(one.guarantee[place]))
            filled = water_fill(
                account.fair[place],
                [min(one.guarantee[place], demand) for one, demand in zip(children, demands, strict=True)],
                demands,
                [one.weight for one in children],
            )
            for one, amount in zip(children, filled, strict=True):
                one.fair[place] = amount

    def _could_use(self, account: Account) -> float:
        """Return the GPUs that a share could use of those it holds and asks for, its fair amounts of each model given.

        Runs that name one model, beyond what the share may fairly have of that, wait for it: they want nothing of the others,
        which are not scarce for their sake.
        """
        used, asked = account.used, account.asked
        stuck = sum(
            max(0.0, min(account.bound[place], used[place] + asked[place] - account.fair[place])) for place in self._models
        )
        return used[GPU] + asked[GPU] + account.unused[GPU] - stuck

    def _set_up(self, snapshot: Snapshot) -> None:
        self._history = snapshot.policy.order.history
        self._states = {state.share.name: state for state in snapshot.shares}
        self._size = len(self.units.names)
        for name in (ROOT, *self._states):
            self._grow(name)
        for name, state in self._states.items():
            if state.served_at is not None:
                self.serve(self.accounts[name], state.served_at.timestamp())
        for kept in snapshot.reservations:
            if kept.begins_at <= snapshot.now < kept.ends_at:  # an open window is a guarantee on top
                account = self.account(kept.share)
                asked = kept.resources
                more = {CPU: asked.cpu_milli, MEMORY: asked.memory_bytes, GPU: asked.gpu_milli}
                for place, amount in more.items():
                    account.guarantee[place] += amount * kept.replicas
                account.pledged |= {place for place, amount in more.items() if amount}

    def _grow(self, name: str) -> Account:
        above: Account | None = None
        for depth, step in enumerate(path_of(name)):
            if step not in self.accounts:
                self.accounts[step] = self._new(step, depth, above)
                if above is not None:
                    above.children.append(self.accounts[step])
            above = self.accounts[step]
        return self.accounts[name]

    def _new(self, name: str, depth: int, parent: Account | None) -> Account:
        state = self._states.get(name)
        share = state.share if state is not None else Share(name=name)
        index, size = self.units.index, self._size
        guarantee, limit = [0] * size, [UNBOUNDED] * size
        for amounts, target in ((share.guarantee, guarantee), (share.limit, limit)):
            for unit, amount in amounts.items():
                if unit in index:
                    target[index[unit]] = amount
        if not guarantee[GPU]:  # so many of each model are so many
            guarantee[GPU] = sum(guarantee[GPU + 1 :])
        pledged = frozenset({place for place, amount in enumerate(guarantee) if amount})
        if pledged:
            pledged |= {GPU}
        return Account(
            share=share,
            parent=parent,
            capacity=self.units.capacity,
            history=state.history if state is not None else 0.0,
            guarantee=guarantee,
            limit=limit,
            used=[0] * size,
            pinned=[0] * size,
            asked=[0] * size,
            unused=[0] * size,
            bound=[0] * size,
            depth=depth,
            is_limited=bool(share.limit),
            is_held=share.is_held or (parent is not None and parent.is_held),
            pledged=pledged,
            entitled=[float(UNBOUNDED)] * size,
            fair=[0.0] * size,
            scarce=[False] * size,
        )


class Measure:
    """Turns what is granted or asked for into amounts by `Units`. Good for as long as the nodes are the same."""

    def __init__(self, cluster: Cluster) -> None:
        self.units = units_of(cluster)
        self._cluster = cluster
        self._columns: dict[str, dict[int, int]] = {}
        self._needs: dict[tuple[Request, int], Need] = {}
        self._has_whole = any(kind is not None and kind.is_whole for kind in cluster.kinds)

    def granted(self, places: Iterable[tuple[str, Granted]]) -> list[int]:
        """Return what grants take of each resource; devices that the node does not list count to no model."""
        amounts = [0] * len(self.units.names)
        for node, granted in places:
            amounts[CPU] += granted.cpu_milli
            amounts[MEMORY] += granted.memory_bytes
            for share in granted.devices:
                amounts[GPU] += share.milli
                model = self._models(node).get(share.index)
                if model is not None:
                    amounts[model] += share.milli
        return amounts

    def need(self, request: Request, replicas: int) -> Need:
        """Return what `replicas` of a request take; of a model only when it may be no other."""
        found = self._needs.get((request, replicas))
        if found is None:
            found = self._needs[request, replicas] = self._need(request, replicas)
        return found

    def model(self, asked: Resources) -> int:
        """Return the place of the one GPU model that a request may have, or 0: it may have several, or none of the fleet's."""
        models = {model.casefold() for model in asked.gpu_models}
        return self.units.index.get("gpu:" + models.pop(), 0) if len(models) == 1 else 0

    def may_differ(self, asked: Resources) -> bool:
        """Say whether it depends on the device how much of it a request takes."""
        return asked.gpu_memory_bytes > 0 or (self._has_whole and 0 < asked.gpu_milli < GPU_MILLI)

    def unused(self, request: Request, replicas: int, amounts: Sequence[int]) -> int:
        """Return the milli-GPU that a placed run might take elsewhere beyond what it holds: so starting it leaves all demand."""
        return max(0, self.need(request, replicas).amounts[GPU] - amounts[GPU]) if self.may_differ(request.asked) else 0

    def _need(self, request: Request, replicas: int) -> Need:
        amounts = [0] * len(self.units.names)
        asked = request.asked
        amounts[CPU], amounts[MEMORY] = asked.cpu_milli * replicas, asked.memory_bytes * replicas
        if request.devices:
            amounts[GPU] = self._most(request) * request.devices * replicas
            model = self.model(asked)
            if model:
                amounts[model] = amounts[GPU]
        return needed(amounts)

    def _most(self, request: Request) -> int:
        """Return the most that a replica takes of one device, of all those where it may go."""
        able = {milli for milli in request.milli_of_kind.tolist() if milli < NEVER}
        if len(able) > 1:
            allowed = request.allowed(self._cluster)
            able = able & set(request.milli_of_kind[np.unique(self._cluster.kind_of[allowed])].tolist()) or able
        return max(able, default=GPU_MILLI)

    def _models(self, node: str) -> dict[int, int]:
        """Return the place of each device's model among the units, by the device's index."""
        found = self._columns.get(node)
        if found is None:
            row = self._cluster.row_of.get(node)
            devices = self._cluster.nodes[row].devices if row is not None else ()
            index = self.units.index
            found = {one.index: index["gpu:" + one.model.casefold()] for one in devices}
            self._columns[node] = found
        return found


def needed(amounts: Sequence[int]) -> Need:
    """Return these amounts as what a run takes."""
    return Need(tuple(amounts), tuple(place for place, amount in enumerate(amounts) if amount))


def units_of(cluster: Cluster) -> Units:
    """Return the resources of a cluster, with what its ready nodes have."""
    ready = cluster.capacity[cluster.is_ready].sum(axis=0).tolist()
    kinds = cluster.kind_of[cluster.is_ready]
    counts = {number: int((kinds == number).sum()) * GPU_MILLI for number in range(1, len(cluster.kinds))}
    models: dict[str, int] = {}
    for number, kind in enumerate(cluster.kinds):
        if kind is not None:
            models["gpu:" + kind.model] = models.get("gpu:" + kind.model, 0) + counts[number]
    names = ("cpu", "memory", "gpu", *sorted(models))
    capacity = (int(ready[0]), int(ready[1]), sum(counts.values()), *(models[name] for name in sorted(models)))
    return Units(names, {name: place for place, name in enumerate(names)}, capacity)


def water_fill(total: float, base: Sequence[float], most: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Split `total`: to each its `base` first, the rest by weight, to nobody above its `most`.

    Bases above `total` are scaled. Progressive filling: who is satisfied first leaves the rest to the others.
    O(n log n). Source: weighted max-min fairness, Bertsekas and Gallager, Data Networks, section 6.5.
    """
    promised = sum(base)
    if promised > total:
        return [one * total / promised for one in base]
    filled = [float(one) for one in base]
    rest = total - promised
    ordered = sorted(
        (index for index, weight in enumerate(weights) if weight > 0), key=lambda one: (most[one] - base[one]) / weights[one]
    )
    left = sum(weights[index] for index in ordered)
    for index in ordered:
        given = min(most[index] - base[index], rest * weights[index] / left) if left > 0 else 0.0
        filled[index] += given
        rest -= given
        left -= weights[index]
    return filled


def _demand(account: Account) -> list[int]:
    """Return what it and those below hold and ask for, each no more than its limit allows."""
    if not account.children:
        return [
            min(four[0], sum(four[1:])) for four in zip(account.limit, account.used, account.asked, account.unused, strict=True)
        ]
    return [
        min(
            account.limit[place],
            used
            + account.asked[place]
            + account.unused[place]
            + sum(one.demand[place] - one.used[place] - one.asked[place] - one.unused[place] for one in account.children),
        )
        for place, used in enumerate(account.used)
    ]


def _weigh(children: Sequence[Account], history: float) -> None:
    """Set the weight that counts: past use above a share's part lowers it, below raises it (KAI's time-based fair share)."""
    askers = [one for one in children if any(one.used) or any(one.asked)]
    total = sum(one.share.weight for one in askers)
    past = sum(one.history for one in askers)
    for one in children:
        one.weight = one.share.weight
        if history and past > 0 and total > 0:
            part = one.share.weight / total
            one.weight *= max(LEAST_WEIGHT, 1 + history * (part - one.history / past) / part)
