"""What the fleet lacks for a request: the scarce resource and who holds it, judged by the state after the plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from mainspring.core.health import why_closed
from mainspring.core.ids import RunId
from mainspring.core.reasons import Reason, ReasonCode
from mainspring.core.records import Node, NodeState
from mainspring.core.resources import ALONE, GPU_MILLI
from mainspring.core.snapshot import Place
from mainspring.core.units import is_or_are, show_bytes, show_milli
from mainspring.scheduler.cluster import Bools, Cluster, Ints
from mainspring.scheduler.fit import would_fit
from mainspring.scheduler.holdings import Holdings, taken_by
from mainspring.scheduler.requests import Request

SHOWN_HOLDERS = 4
OTHERS = "others"  # holds what no placed run of the snapshot accounts for


def shortage(cluster: Cluster, request: Request, candidates: Bools, held: Holders) -> Reason:
    """Return the scarce resource when not even one replica fits: what all candidates together lack, or FRAGMENTED."""
    where = _where(cluster, candidates)
    if request.devices:
        reason = _no_gpu(cluster, request, candidates, held, where)
        if reason is not None:
            return reason
    for column, code, show, verb in (
        (1, ReasonCode.NO_FREE_MEMORY, show_bytes, _is),
        (0, ReasonCode.NO_FREE_CPU, show_cpus, is_or_are),
        (2, ReasonCode.NO_FREE_DISK, _show_disk, _is),
    ):
        need = int(request.need[column])
        free = int(np.maximum(cluster.free[candidates, column], 0).sum())
        if need and free < need:
            total = int(cluster.capacity[candidates, column].sum())
            holders = held.of_column(column, candidates)
            sentence = f"Waits for {show(need)}: {show(free)} of {show(total)}{where} {verb(free)} free{_named(holders, show)}."
            return Reason(code=code, sentence=sentence, facts=_facts(need, free, total, candidates, holders))
    nodes = int(candidates.sum())
    rest = f"but none of the {nodes} nodes that could hold it has all of it" if nodes > 1 else "but in parts that do not suit it"
    return Reason(
        code=ReasonCode.FRAGMENTED,
        sentence=f"Waits for {request.asked.show()} on one node: enough is free in total, {rest}.",
        facts={"nodes": nodes},
    )


def _no_gpu(cluster: Cluster, request: Request, candidates: Bools, held: Holders, where: str) -> Reason | None:
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
            said = f"{show_milli(idle)} of the {show_milli(total)}{where} {is_or_are(idle)} free"
        elif free.any():
            said = f"none of the {show_milli(total)}{where} is wholly free"
        else:
            said = f"all {show_milli(total)}{where} are taken"
    else:
        free[(milli == GPU_MILLI) & (free < GPU_MILLI)] = 0  # of these only an idle one serves
        need, idle, total = least, int(free.sum()), int(usable.sum()) * GPU_MILLI
        if idle >= need:
            return None
        said = f"{show_milli(idle)} of the {show_milli(total)}{where} {is_or_are(idle)} free"
        if not idle:
            said = f"all {show_milli(total)}{where} are taken"
    what = f"{show_milli(need)} GPU{'s' if need > GPU_MILLI else ''}"
    if asked.gpu_models:
        what += f" ({' or '.join(asked.gpu_models)})"
    if need > asked.gpu_milli and _are_whole(cluster, usable):
        what += ", which is given only whole here"
    sentence = f"Waits for {what}: {said}{_named(holders, show_milli)}."
    return Reason(code=ReasonCode.NO_FREE_GPU, sentence=sentence, facts=_facts(need, idle, total, candidates, holders))


def _are_whole(cluster: Cluster, usable: Bools) -> bool:
    """Say whether all these devices are given only whole."""
    return all(
        kind.is_whole for number in np.unique(cluster.kind_of[usable]).tolist() if (kind := cluster.kinds[number]) is not None
    )


def not_ready(cluster: Cluster, request: Request, empty: Ints) -> Reason:
    rows = np.flatnonzero(~cluster.is_ready & (empty > 0)).tolist()
    nodes = [cluster.nodes[row] for row in rows]
    sick = [node for node in nodes if node.state is NodeState.QUARANTINED]
    states = {node.name: str(node.state) for node in nodes}
    listed = ", ".join(f"{name} ({state})" for name, state in sorted(states.items())[:SHOWN_HOLDERS])
    more = f" and {len(states) - SHOWN_HOLDERS} more" if len(states) > SHOWN_HOLDERS else ""
    sentence = f"Waits for nodes that take no runs now and could hold {request.asked.show()}: {listed}{more}."
    sentence += "".join(f" {node.name}: {told}." for node in nodes[:SHOWN_HOLDERS] for told in why_closed(node)[:1])
    code = ReasonCode.QUARANTINED if sick else ReasonCode.NODE_UNREACHABLE
    return Reason(code=code, sentence=sentence, facts={"nodes": states})


def misfit_or_out(cluster: Cluster, request: Request, never: Reason, replicas: int, same: str) -> Reason:
    """Return why it fits nowhere: `never`, unless devices that were taken out, or what others hold, change the answer."""
    nodes = [cluster.nodes[row] for row in np.flatnonzero(request.allowed(cluster)).tolist()]
    out = {node.name: sorted(node.out()) for node in sorted(nodes, key=lambda node: node.name) if node.out() and request.devices}
    shared = [node for node in nodes if node.foreign != ALONE]
    if not out and not shared:
        return never
    whole = would_fit(nodes, request.asked, replicas, same)
    if whole is not None:
        return whole
    if not out:
        return _foreign_work(request, shared)
    listed = ", ".join(f"{', '.join(map(str, devices))} of {name}" for name, devices in list(out.items())[:SHOWN_HOLDERS])
    told = next((f" {node.name}, {words}." for node in nodes if node.out() for words in why_closed(node)), "")
    return Reason(
        code=ReasonCode.QUARANTINED,
        sentence=f"Waits for GPUs that were taken out and could hold {request.asked.show()}: {listed}.{told}",
        facts={"devices": out},
    )


def _foreign_work(request: Request, nodes: Sequence[Node]) -> Reason:
    held, named = {}, sorted(nodes, key=lambda node: node.name)
    for node in named:
        theirs = node.foreign
        amounts = {"cpu_milli": theirs.cpu_milli, "memory_bytes": theirs.memory_bytes, "gpus": len(theirs.devices)}
        held[node.name] = {name: amount for name, amount in amounts.items() if amount}
    told = [f"{node.foreign.show()} of {node.name}" for node in named[:SHOWN_HOLDERS]]
    more = f" and more on {len(nodes) - SHOWN_HOLDERS} others" if len(nodes) > SHOWN_HOLDERS else ""
    return Reason(
        code=ReasonCode.FOREIGN_WORK,
        sentence=f"Waits for {request.asked.show()}: work that came past this queue holds {', '.join(told)}{more}.",
        facts={"nodes": held},
    )


class Holders:
    """Who holds what after a plan: what is placed but not `gone`, and the places that were `started`, by owner."""

    def __init__(
        self, cluster: Cluster, holdings: Holdings, gone: Collection[RunId], started: Iterable[tuple[str, tuple[Place, ...]]]
    ) -> None:
        self._cluster = cluster
        names, lines, owners = holdings.by_owner(gone)
        rows, needs, milli = holdings.of_lines(lines)
        numbers = {name: number for number, name in enumerate(names)}
        taken = [(numbers.setdefault(name, len(numbers)), *one) for name, places in started for one in taken_by(cluster, places)]
        self._owners: Sequence[str] = list(numbers)
        if taken:
            owners = np.concatenate([owners, np.array([number for number, *_ in taken], dtype=np.int64)])
            rows = np.concatenate([rows, np.array([row for _, row, _, _ in taken], dtype=np.int64)])
            needs = np.concatenate([needs, np.array([need for _, _, need, _ in taken])])
            milli = np.concatenate([milli, np.array([each for _, _, _, each in taken])])
        self._owner, self._row, self._need, self._milli = owners, rows, needs, milli
        self._all_milli = milli.sum(axis=1)

    def of_column(self, column: int, candidates: Bools) -> dict[str, int]:
        """Return how much each owner holds of cpu (0), memory (1) or disk (2) on the candidates, most first."""
        used = int((self._cluster.capacity[candidates, column] - self._cluster.free[candidates, column]).sum())
        return self._summed(np.where(candidates[self._row], self._need[:, column], 0), used)

    def of_devices(self, usable: Bools) -> dict[str, int]:
        """Return how many milli of the usable devices each owner holds, most first."""
        used = int((GPU_MILLI - self._cluster.gpu_free[usable]).sum())
        rows = np.asarray(usable.any(axis=1), dtype=np.bool_)
        if ((self._cluster.kind_of > 0) & ~usable & rows[:, None]).any():  # of some nodes a part is usable
            return self._summed(np.where(usable[self._row], self._milli, 0).sum(axis=1), used)
        return self._summed(np.where(rows[self._row], self._all_milli, 0), used)

    def _summed(self, amounts: Ints, used: int) -> dict[str, int]:
        sums = np.zeros(len(self._owners), dtype=np.int64)
        np.add.at(sums, self._owner, amounts)
        held = {name: amount for name, amount in zip(self._owners, sums.tolist(), strict=True) if amount}
        rest = used - sum(held.values())
        if rest > 0:
            held[OTHERS] = held.get(OTHERS, 0) + rest
        return dict(sorted(held.items(), key=lambda one: (-one[1], one[0])))


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
    pools = {cluster.groups[group].pool for group in np.unique(cluster.group_of[candidates]).tolist()}
    return f" of pool {next(iter(pools))}" if len(pools) == 1 else ""


def show_cpus(milli: int) -> str:
    return f"{show_milli(milli)} CPU{'' if milli == 1000 else 's'}"


def _is(_: int) -> str:
    return "is"


def _show_disk(count: int) -> str:
    return f"{show_bytes(count)} of disk"
