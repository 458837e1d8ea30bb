"""Snapshots by hypothesis, and a slow planner's arithmetic in plain Python that shares nothing with the room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from mainspring.core.ids import RunId
from mainspring.core.policy import Policy
from mainspring.core.records import Node, NodeState
from mainspring.core.resources import Device, DeviceShare, Granted, Resources
from mainspring.core.snapshot import Decision, DecisionKind, Place, PlacedRun, Plan, Snapshot, WaitingRun
from mainspring.scheduler.scorers import SCORERS

GIB = 2**30
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NodeMaker = Callable[..., Node]
RunMaker = Callable[..., WaitingRun]
Pick = Callable[[Sequence[Any]], Any]


def _node(node_id: str, *, cpus: int = 8, memory_gib: int = 32, gpus: int = 0, **others: object) -> Node:
    """Make a node of `gpus` equal devices of 16 GiB; `others` are fields of Node, `used_cpus` holds CPUs back."""
    devices = tuple(Device(index=index, model="A100", memory_bytes=16 * GIB) for index in range(gpus))
    made = Node(id=node_id, cluster="c", name=node_id, cpu_milli=cpus * 1000, memory_bytes=memory_gib * GIB, devices=devices)
    return replace(made, **others)


def _waiting(seq: int, *, owner: str = "alice", replicas: int = 1, **others: object) -> WaitingRun:
    """Make a waiting run; `others` are fields of WaitingRun or of Resources."""
    own = {name: value for name, value in others.items() if name in WaitingRun.__dataclass_fields__}
    asked = {name: value for name, value in others.items() if name in Resources.__dataclass_fields__}
    assert len(own) + len(asked) == len(others)
    resources = Resources(**asked)
    made = WaitingRun(
        id=RunId(f"run_{seq:03}"),
        owner=owner,
        project="p",
        seq=seq,
        priority=0,
        submitted_at=NOW,
        resources=resources,
        replicas=replicas,
    )
    return replace(made, **own)


def _nodes(pick: Pick, number: int) -> tuple[Node, PlacedRun | None]:
    devices = tuple(
        Device(index=index * 2, model=pick(["A100", "T4"]), memory_bytes=pick([0, 8, 15]) * GIB)
        for index in range(pick(range(0, 3 + 1)))
    )
    cpu, memory = pick([4000, 2000, 8000, 1000]), pick([8, 8, 2, 0]) * GIB
    used = Granted(
        cpu_milli=pick([0, 0, 500, 1000, 4000]),
        memory_bytes=pick([0, 0, 1, 3]) * GIB,
        devices=tuple(DeviceShare(index=one.index, milli=milli) for one in devices if (milli := pick([0, 0, 0, 300, 500, 1000]))),
    )
    node = Node(
        id=f"n{number}",
        cluster=pick(["east", "east", "west"]),
        name=f"node-{number}",
        cpu_milli=cpu,
        memory_bytes=memory,
        disk_bytes=pick([0, 10]) * GIB,
        devices=devices,
        pool=pick(["default", "default", "big"]),
        labels=pick([{}, {}, {"zone": "a"}, {"zone": "b", "disk": "ssd"}]),
        state=pick([NodeState.READY] * 12 + list(NodeState)),
        used_cpu_milli=used.cpu_milli,
        used_memory_bytes=used.memory_bytes,
        used_devices=used.devices,
    )
    if not pick([False, True]):
        return node, None  # held by an allocation that no placed run accounts for
    place = Place(replica=0, node=node.id, granted=used)
    placed = PlacedRun(
        id=RunId(f"run_placed{number}"),
        owner=pick(["alice", "bob"]),
        project="p",
        priority=0,
        seq=-number - 1,
        since=NOW,
        is_preemptible=True,
        places=(place,),
    )
    return node, placed


def _asks(pick: Pick) -> Resources:
    gpu = pick([0, 0, 0, 0, 200, 500, 500, 700, 1000, 1000, 2000])
    gpu_memory = pick([0, 0, 0, 0, 0, 4, 8, 14]) * GIB
    return Resources(
        cpu_milli=pick([1000, 100, 500, 1500, 4000]),
        memory_bytes=pick([0, 0, 0, 1, 5]) * GIB,
        gpu_milli=gpu,
        gpu_memory_bytes=gpu_memory,
        gpu_models=pick([(), (), (), ("A100",), ("a100", "T4")]) if gpu or gpu_memory else (),
        disk_bytes=pick([0] * 7 + [6]) * GIB,
        pool=pick([""] * 6 + ["default", "big"]),
        labels=pick([{}, {}, {}, {"zone": "a"}]),
    )


def _runs(pick: Pick, number: int, nodes: int, asks: list[Resources]) -> WaitingRun:
    rarely = [False] * 24 + [True]
    return WaitingRun(
        id=RunId(f"run_{number}"),
        owner=pick(["alice", "bob", "eve"]),
        project="p",
        seq=number,
        priority=pick([0, 0, 5, -5]),
        submitted_at=NOW,
        resources=pick(asks),
        replicas=pick([1, 1, 1, 2, 3, 5]),
        version=pick(range(1, 3 + 1)),
        is_held=pick(rarely),
        is_unconfirmed=pick(rarely),
        not_before=pick([None] * 20 + [NOW - timedelta(seconds=1), NOW + timedelta(seconds=9)]),
        avoid=pick([(), (), *((f"n{one}",) for one in range(nodes)), ("gone",)]),
    )


@st.composite
def _snapshots(draw: DrawFn, most_nodes: int, most_runs: int) -> Snapshot:
    # Most of them by a seed: hypothesis alone repeats its small choices, and then few runs fit anywhere.
    seeded = Random(draw(st.integers(0, 2**32))) if draw(st.sampled_from([False, True, True, True])) else None

    def pick(options: Sequence[Any]) -> Any:
        return seeded.choice(options) if seeded is not None else draw(st.sampled_from(options))

    made = [_nodes(pick, number) for number in range(pick([0, *range(1, most_nodes + 1)] + [most_nodes] * 3))]
    asks = [_asks(pick) for _ in range(pick([1, 2, 3, 4]))]  # few, so that runs often ask for the same
    runs = tuple(_runs(pick, number, len(made), asks) for number in range(pick([0, *range(1, most_runs + 1)] + [most_runs] * 3)))
    scorer = pick(["pack", "pack", "pack", *SCORERS])
    return Snapshot(
        now=NOW,
        nodes=tuple(node for node, _ in made),
        placed=tuple(placed for _, placed in made if placed is not None),
        waiting=runs,
        policy=Policy(scorer=scorer, max_starts=pick([10_000] * 8 + [0, 2])),
    )


class Naive:
    """The planner's arithmetic on dictionaries, one replica and one device at a time."""

    @staticmethod
    def free(nodes: tuple[Node, ...], *, is_empty: bool = False) -> dict[str, dict[str, int]]:
        """Return what is free on each node; devices have the keys `gpu0`, `gpu1`, …"""
        result = {}
        for node in nodes:
            free = {"cpu": node.cpu_milli, "memory": node.memory_bytes, "disk": node.disk_bytes}
            free |= {f"gpu{device.index}": 1000 for device in node.devices}
            if not is_empty:
                free["cpu"] -= node.used_cpu_milli
                free["memory"] -= node.used_memory_bytes
                free["disk"] -= node.used_disk_bytes
                for share in node.used_devices:
                    free[f"gpu{share.index}"] -= share.milli
            result[node.id] = free
        return result

    @staticmethod
    def take(free: dict[str, int], granted: Granted, sign: int = -1) -> None:
        """Take what is granted from what is free (or give it back)."""
        free["cpu"] += sign * granted.cpu_milli
        free["memory"] += sign * granted.memory_bytes
        free["disk"] += sign * granted.disk_bytes
        for share in granted.devices:
            free[f"gpu{share.index}"] += sign * share.milli

    @staticmethod
    def share(asked: Resources, device: Device) -> int | None:
        """Return the milli that one replica takes of this device, None if it may not."""
        if asked.gpu_models and device.model.lower() not in [model.lower() for model in asked.gpu_models]:
            return None
        milli = min(asked.gpu_milli, 1000)
        if asked.gpu_memory_bytes:
            if device.memory_bytes < asked.gpu_memory_bytes:
                return None
            while milli * device.memory_bytes < asked.gpu_memory_bytes * 1000:
                milli += 1
        return milli

    def grant(self, node: Node, free: dict[str, int], asked: Resources) -> Granted | None:
        """Return a grant by the first devices that fit, None if the replica does not fit on the node."""
        if (asked.pool and node.pool != asked.pool) or any(node.labels.get(k) != v for k, v in asked.labels.items()):
            return None
        for name, need in (("cpu", asked.cpu_milli), ("memory", asked.memory_bytes), ("disk", asked.disk_bytes)):
            if need and free[name] < need:
                return None
        shares: list[DeviceShare] = []
        count = max(1, asked.gpu_milli // 1000) if asked.gpu_milli or asked.gpu_memory_bytes else 0
        for device in sorted(node.devices, key=lambda one: one.index):
            milli = self.share(asked, device)
            if milli is not None and len(shares) < count and free[f"gpu{device.index}"] >= milli:
                shares.append(DeviceShare(index=device.index, milli=milli))
        if len(shares) < count:
            return None
        return Granted(
            cpu_milli=asked.cpu_milli, memory_bytes=asked.memory_bytes, disk_bytes=asked.disk_bytes, devices=tuple(shares)
        )

    def most(self, nodes: list[Node], free: dict[str, dict[str, int]], asked: Resources, enough: int) -> int:
        """Return how many replicas one cluster could hold at most, counted up to `enough`."""
        best = 0
        for cluster in {node.cluster for node in nodes}:
            left = {name: dict(one) for name, one in free.items()}
            count = 0
            for node in nodes:
                while node.cluster == cluster and count < enough and (granted := self.grant(node, left[node.id], asked)):
                    self.take(left[node.id], granted)
                    count += 1
            best = max(best, count)
        return best

    @staticmethod
    def starts(plan: Plan) -> list[Decision]:
        """Return the decisions that start a run."""
        return [one for one in plan.decisions if one.kind is DecisionKind.START]

    @staticmethod
    def waits(plan: Plan) -> list[Decision]:
        """Return the decisions that let a run wait."""
        return [one for one in plan.decisions if one.kind is DecisionKind.WAIT]


@pytest.fixture(scope="session")
def snapshots() -> SearchStrategy[Snapshot]:
    """Give a strategy of small snapshots of every kind."""
    return _snapshots(5, 8)


@pytest.fixture(scope="session")
def tiny_snapshots() -> SearchStrategy[Snapshot]:
    """Give a strategy of snapshots small enough to try every assignment."""
    return _snapshots(2, 4)


@pytest.fixture(scope="session")
def naive() -> Naive:
    """Give the independent arithmetic."""
    return Naive()


@pytest.fixture(scope="session")
def make_node() -> NodeMaker:
    """Give a maker of nodes."""
    return _node


@pytest.fixture(scope="session")
def make_waiting() -> RunMaker:
    """Give a maker of waiting runs."""
    return _waiting


@pytest.fixture(scope="session")
def scene() -> Callable[..., Snapshot]:
    """Give a maker of snapshots at one moment: `scene(nodes, waiting, **fields)`."""

    def made(nodes: list[Node], waiting: list[WaitingRun], **others: object) -> Snapshot:
        return replace(Snapshot(now=NOW, nodes=tuple(nodes), waiting=tuple(waiting)), **others)

    return made
