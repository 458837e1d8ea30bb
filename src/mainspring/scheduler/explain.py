"""Why a run waits: one reason, true of the state after the plan, with the numbers to check it by (invariant 28).

Runs that ask for the same wait for the same reason, so the work is done once for each kind of request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import numpy as np

from mainspring.core.reasons import Reason, ReasonCode
from mainspring.core.resources import GPU_MILLI
from mainspring.core.snapshot import Decision, Place, Snapshot, WaitingRun
from mainspring.core.units import show_bytes, show_milli
from mainspring.scheduler.cluster import Bools, Cluster, Ints
from mainspring.scheduler.fit import empty_counts, misfit, most_in_one_cluster, no_cluster
from mainspring.scheduler.placement import Placement
from mainspring.scheduler.requests import Key, Request

SHOWN_HOLDERS = 4
LONGEST_BACKOFF = timedelta(minutes=10)  # a moment farther off was written before the clock was set back: it holds nobody
OTHERS = "others"  # holds what no placed run of the snapshot accounts for


def hold(run: WaitingRun, now: datetime) -> Reason | None:
    """Return why the run is not to be tried at all, whatever is free; None if it may start."""
    if run.is_held:
        return Reason(
            code=ReasonCode.PAUSED, sentence="Paused by its owner; `mainspring resume` lets it go on.", facts={"is_held": True}
        )
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


class Explainer:
    """Answers `why` for the blocked runs of one plan."""

    def __init__(self, *, snapshot: Snapshot, placement: Placement, starts: Sequence[Decision]) -> None:
        self._snapshot = snapshot
        self._placement = placement
        self._cluster = placement.cluster
        self._starts = starts
        self._known: dict[tuple[Key, int], Reason] = {}
        self._held: _Held | None = None

    def why(self, run: WaitingRun) -> Reason:
        """Return the one primary reason of a run that this plan does not start."""
        held = hold(run, self._snapshot.now)
        if held is not None:
            return held
        request = self._placement.request(run.resources)
        key = (request.key, run.replicas)
        if key not in self._known:
            self._known[key] = self._explain(request, run.replicas)
        return self._known[key]

    def _explain(self, request: Request, replicas: int) -> Reason:
        cluster = self._cluster
        if not cluster.is_ready.any():
            return no_cluster(cluster)
        never = misfit(cluster, request, replicas)
        if never is not None:
            return never
        empty = empty_counts(cluster, request)
        candidates: Bools = cluster.is_ready & (empty > 0)
        if most_in_one_cluster(cluster, np.where(candidates, empty, 0)) < replicas:
            return _not_ready(cluster, request, empty)
        now = np.where(candidates, request.counts(cluster, cluster.free, cluster.gpu_free), 0)
        fits = most_in_one_cluster(cluster, now)
        if fits >= replicas:
            limit = self._snapshot.policy.max_starts
            return Reason(
                code=ReasonCode.BEHIND,
                sentence=f"Waits its turn: {len(self._starts)} runs ahead are started first, the most at one time.",
                facts={"started": len(self._starts), "max_starts": limit},
            )
        if fits:
            return Reason(
                code=ReasonCode.GANG_INCOMPLETE,
                sentence=f"Waits to start as a whole: {fits} of its {replicas} replicas of {request.asked.show()} would fit now.",
                facts={"replicas": replicas, "fit": fits},
            )
        return self._no_room(request, candidates)

    def _no_room(self, request: Request, candidates: Bools) -> Reason:
        """Return the scarce resource when not even one replica fits: what all candidates together lack, or FRAGMENTED."""
        if self._held is None:
            self._held = _Held(self._cluster, self._snapshot, self._starts)
        where = _where(self._cluster, candidates)
        if request.devices:
            reason = _no_gpu(self._cluster, request, candidates, self._held, where)
            if reason is not None:
                return reason
        for column, code, show in (
            (1, ReasonCode.NO_FREE_MEMORY, show_bytes),
            (0, ReasonCode.NO_FREE_CPU, _show_cpus),
            (2, ReasonCode.NO_FREE_DISK, _show_disk),
        ):
            need = int(request.need[column])
            free = sum(max(0, one) for one in self._cluster.free[candidates, column].tolist())
            if need and free < need:
                total = sum(self._cluster.capacity[candidates, column].tolist())
                holders = self._held.of_column(column, candidates)
                sentence = f"Waits for {show(need)}: {show(free)} of {show(total)}{where} is free{_named(holders, show)}."
                return Reason(code=code, sentence=sentence, facts=_facts(need, free, total, candidates, holders))
        nodes = int(candidates.sum())
        return Reason(
            code=ReasonCode.FRAGMENTED,
            sentence=f"Waits for {request.asked.show()} on one node: enough is free in total, "
            f"but none of the {nodes} nodes that could hold it has all of it.",
            facts={"nodes": nodes},
        )


def _no_gpu(cluster: Cluster, request: Request, candidates: Bools, held: _Held, where: str) -> Reason | None:
    """Return NO_FREE_GPU if all candidates together have too little: whole idle devices, or thousandths for a share."""
    milli = request.milli(cluster)
    usable = candidates[:, None] & (milli <= GPU_MILLI)
    holders = held.of_devices(usable)
    free = np.where(usable, np.maximum(cluster.gpu_free, 0), 0)
    asked = request.asked
    least = int(milli[usable].min())
    if asked.gpu_milli >= GPU_MILLI or least == GPU_MILLI:
        need, idle, total = request.devices, int((free == GPU_MILLI).sum()), int(usable.sum())
        if idle >= need:
            return None
        need, idle, total = need * GPU_MILLI, idle * GPU_MILLI, total * GPU_MILLI
        if idle:
            said = f"{show_milli(idle)} of the {show_milli(total)}{where} is free"
        elif free.any():
            said = f"none of the {show_milli(total)}{where} is wholly free"
        else:
            said = f"all {show_milli(total)}{where} are taken"
    else:
        need, idle, total = least, int(free.sum()), int(usable.sum()) * GPU_MILLI
        if idle >= need:
            return None
        said = f"{show_milli(idle)} of the {show_milli(total)}{where} is free"
        if not idle:
            said = f"all {show_milli(total)}{where} are taken"
    what = f"{show_milli(need)} GPU{'s' if need > GPU_MILLI else ''}"
    if asked.gpu_models:
        what += f" ({' or '.join(asked.gpu_models)})"
    sentence = f"Waits for {what}: {said}{_named(holders, show_milli)}."
    return Reason(code=ReasonCode.NO_FREE_GPU, sentence=sentence, facts=_facts(need, idle, total, candidates, holders))


def _not_ready(cluster: Cluster, request: Request, empty: Ints) -> Reason:
    rows = np.flatnonzero(~cluster.is_ready & (empty > 0)).tolist()
    states = {cluster.nodes[row].name: str(cluster.nodes[row].state) for row in rows}
    listed = ", ".join(f"{name} ({state})" for name, state in sorted(states.items())[:SHOWN_HOLDERS])
    more = f" and {len(states) - SHOWN_HOLDERS} more" if len(states) > SHOWN_HOLDERS else ""
    return Reason(
        code=ReasonCode.NODE_UNREACHABLE,
        sentence=f"Waits for nodes that take no runs now and that {request.asked.show()} needs: {listed}{more}.",
        facts={"nodes": states},
    )


class _Held:
    """Who holds what: the open allocations of the snapshot and the starts of this plan, as arrays."""

    def __init__(self, cluster: Cluster, snapshot: Snapshot, starts: Sequence[Decision]) -> None:
        self._cluster = cluster
        self._owners: list[str] = []
        numbers: dict[str, int] = {}
        owner_of = {run.id: run.owner for run in snapshot.waiting}
        rows: list[tuple[int, int, int, int, int]] = []
        devices: list[tuple[int, int, int, int]] = []
        columns: dict[int, dict[int, int]] = {}

        def note(owner: str, places: tuple[Place, ...]) -> None:
            number = numbers.setdefault(owner, len(numbers))
            for place in places:
                row = cluster.row_of.get(place.node)
                if row is None:
                    continue
                granted = place.granted
                rows.append((number, row, granted.cpu_milli, granted.memory_bytes, granted.disk_bytes))
                if granted.devices and row not in columns:
                    indexes = sorted(device.index for device in cluster.nodes[row].devices)
                    columns[row] = {index: column for column, index in enumerate(indexes)}
                devices.extend(
                    (number, row, columns[row][share.index], share.milli)
                    for share in granted.devices
                    if share.index in columns[row]
                )

        for run in snapshot.placed:
            note(run.owner, run.places)
        for decision in starts:
            note(owner_of[decision.run], decision.places)
        self._owners = list(numbers)
        self._rows = np.array(rows, dtype=np.int64).reshape(len(rows), 5)
        self._devices = np.array(devices, dtype=np.int64).reshape(len(devices), 4)

    def of_column(self, column: int, candidates: Bools) -> dict[str, int]:
        """Return how much each owner holds of cpu (0), memory (1) or disk (2) on the candidates, most first."""
        mine = self._rows[candidates[self._rows[:, 1]]]
        used = sum((self._cluster.capacity[candidates, column] - self._cluster.free[candidates, column]).tolist())
        return self._summed(mine[:, 0], mine[:, 2 + column], used)

    def of_devices(self, usable: Bools) -> dict[str, int]:
        """Return how many milli of the usable devices each owner holds, most first."""
        mine = self._devices[usable[self._devices[:, 1], self._devices[:, 2]]]
        used = int((GPU_MILLI - self._cluster.gpu_free[usable]).sum())
        return self._summed(mine[:, 0], mine[:, 3], used)

    def _summed(self, owners: Ints, amounts: Ints, used: int) -> dict[str, int]:
        held: dict[str, int] = {}
        for owner, amount in zip(owners.tolist(), amounts.tolist(), strict=True):
            held[self._owners[owner]] = held.get(self._owners[owner], 0) + amount
        rest = used - sum(held.values())
        if rest > 0:
            held[OTHERS] = held.get(OTHERS, 0) + rest
        return dict(sorted(((owner, amount) for owner, amount in held.items() if amount), key=lambda one: (-one[1], one[0])))


def _facts(need: int, free: int, total: int, candidates: Bools, holders: dict[str, int]) -> dict[str, object]:
    return {
        "need": need,
        "free": free,
        "total": total,
        "nodes": int(candidates.sum()),
        "holders": dict(list(holders.items())[:SHOWN_HOLDERS]),
    }


def _named(holders: dict[str, int], show: Callable[[int], str]) -> str:
    """Return ` (alice holds 1, bob 1)`."""
    if not holders:
        return ""
    (first, most), *rest = list(holders.items())[:SHOWN_HOLDERS]
    more = f" and {len(holders) - SHOWN_HOLDERS} more" if len(holders) > SHOWN_HOLDERS else ""
    return f" ({', '.join([f'{first} holds {show(most)}', *(f'{owner} {show(amount)}' for owner, amount in rest)])}{more})"


def _where(cluster: Cluster, candidates: Bools) -> str:
    pools = {cluster.nodes[row].pool for row in np.flatnonzero(candidates).tolist()}
    return f" of pool {next(iter(pools))}" if len(pools) == 1 else ""


def _show_cpus(milli: int) -> str:
    return f"{show_milli(milli)} CPU{'' if milli == 1000 else 's'}"


def _show_disk(count: int) -> str:
    return f"{show_bytes(count)} of disk"
