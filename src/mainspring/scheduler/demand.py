"""What is often asked for, made ready for scorers that keep room for it.

The usable part of a node is an expectation over typical requests. A device with `f` milli free is worth `f` to a share
that fits it, and idle devices are worth 1000 each to a request of whole GPUs that fits the node, so the sum over all
typical requests is one look-up for each device in a table by (class of node, rank of free CPU, rank of free milli).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mainspring.core.resources import GPU_MILLI, Resources
from mainspring.scheduler.cluster import Cluster, Floats, Ints, Rows
from mainspring.scheduler.requests import Key, Request, key_of, make_request

COVERED = 0.95  # rare requests are left out: the most frequent ones up to this part of all
MOST_KINDS = 400
MOST_KEYS = 100_000  # objects whose kind is remembered
MOST_RANKS = 64  # of free CPU that are told apart
LEVELS = 100  # of a device, when it is filled in thought
GOOD_FIT = 300.0  # milli left empty that make an end e times less likely
FILLED = 0.5  # weight of what is believed to be filled, beside what can be used at once


class Classes(NamedTuple):
    """Rows that are open to the same requests: of one group, with one model of the first device."""

    of_row: Ints
    groups: Ints  # of each class
    kinds: Ints
    devices: Floats  # how many


@dataclass(frozen=True)
class Demand:
    """The typical requests with their part of all (`parts` sum to 1), and tables made of them when first read."""

    cluster: Cluster
    classes: Classes
    requests: tuple[Request, ...]
    parts: Floats

    @property
    def class_of(self) -> Ints:
        """The class of each row."""
        return self.classes.of_row

    @cached_property
    def _open(self) -> list[tuple[int, int, int, int, float]]:
        """(class, rank of CPU from which it fits, devices, milli of each, part) of typical requests where they may go."""
        if not self.requests:
            return []
        milli = np.stack([one.milli_of_kind for one in self.requests])[:, self.classes.kinds]  # (requests, classes)
        allowed = np.stack([one.is_allowed_group for one in self.requests])[:, self.classes.groups]
        ranks = np.searchsorted(self.cpu_steps, [int(one.need[0]) for one in self.requests], side="left") + 1
        devices = np.array([one.devices for one in self.requests])
        places, chosen = np.nonzero((allowed & (milli <= GPU_MILLI) & (devices > 0)[:, None]).T)
        columns = (places, ranks[chosen], devices[chosen], milli[chosen, places], self.parts[chosen])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    @cached_property
    def cpu_steps(self) -> Ints:
        """The amounts of CPU at which another typical request fits."""
        needs = np.unique([int(one.need[0]) for one in self.requests]) if self.requests else np.zeros(0, dtype=np.int64)
        if len(needs) > MOST_RANKS:
            needs = needs[np.linspace(0, len(needs) - 1, MOST_RANKS).astype(np.int64)]
        return np.asarray(needs, dtype=np.int64)

    @cached_property
    def share_worth(self) -> Floats:
        """(classes, CPU ranks, 0..1000): milli of a device with so much free that typical shares can use, expected."""
        table = np.zeros((len(self.classes.kinds), len(self.cpu_steps) + 1, GPU_MILLI + 1))
        for place, rank, devices, milli, part in self._open:
            if devices == 1 and milli < GPU_MILLI:
                table[place, rank:, milli:] += part
        return np.asarray(table * np.arange(GPU_MILLI + 1), dtype=np.float64)

    @cached_property
    def fill_worth(self) -> Floats:
        """As `share_worth`, with what is believed to be filled in the end: runs come until none fits, good fits more likely.

        `fill(f)` is the mean of `g + fill(f - g)` over typical sizes g up to f, each weighed by how often it is asked for and
        by exp(-milli that stay empty / GOOD_FIT): at random an emptier device looks too bad, by the best fits alone too good.
        """
        classes, ranks, _ = self.share_worth.shape
        sizes = np.zeros((classes, ranks, LEVELS + 1))
        for place, rank, devices, milli, part in self._open:
            if devices == 1:
                sizes[place, rank:, -(-milli * LEVELS // GPU_MILLI)] += part
        if not sizes[:, :, :LEVELS].any():
            return self.share_worth
        asked = np.flatnonzero(sizes.sum(axis=(0, 1)))
        often = sizes[:, :, asked]
        fill = np.zeros((classes, ranks, LEVELS + 1))
        for level in range(max(1, int(asked[0])) if len(asked) else LEVELS + 1, LEVELS + 1):  # nothing fits below
            count = int(np.searchsorted(asked, level, side="right"))
            ends = asked[:count] + fill[:, :, level - asked[:count]]
            weight = often[:, :, :count] * np.exp((ends - level) * (GPU_MILLI / LEVELS / GOOD_FIT))
            fill[:, :, level] = (weight * ends).sum(axis=2) / np.maximum(weight.sum(axis=2), 1e-300)
        shares = sizes[:, :, :LEVELS].sum(axis=2)[:, :, None]
        steps = fill[:, :, np.arange(GPU_MILLI + 1) * LEVELS // GPU_MILLI] * (GPU_MILLI / LEVELS)
        return np.asarray(self.share_worth + FILLED * shares * steps, dtype=np.float64)

    @cached_property
    def idle_worth(self) -> Floats:
        """(classes, CPU ranks, 0..most devices): milli of so many idle devices that requests of whole GPUs can use."""
        most = self.cluster.gpu_free.shape[1]
        table = np.zeros((len(self.classes.kinds), len(self.cpu_steps) + 1, most + 1))
        for place, rank, devices, milli, part in self._open:
            if milli == GPU_MILLI:
                table[place, rank:, devices:] += part
        return np.asarray(table * (GPU_MILLI * np.arange(most + 1)), dtype=np.float64)

    @cached_property
    def pressure(self) -> Floats:
        """How much each row's model is asked for by requests that cannot go everywhere, per GPU it has (about 0..1)."""
        devices = self.classes.devices
        asked = np.zeros(len(devices))
        amounts = self.parts * np.array([_milli(one) for one in self.requests]) if self.requests else self.parts
        total = max(float(amounts.sum()), 1e-9)
        for request, amount in zip(self.requests, amounts.tolist(), strict=True):
            if not request.devices:
                continue
            open_to = request.is_allowed_group[self.classes.groups] & (request.milli_of_kind[self.classes.kinds] <= GPU_MILLI)
            served = devices[open_to].sum()
            if served and not open_to.all():
                asked[open_to] += amount / served
        scaled: Floats = (asked * devices.sum() / total)[self.class_of]
        return scaled

    def usable(self, worth: Floats, rows: Rows, cpu: Ints, gpu_free: Ints, idle: Ints) -> Floats:
        """Return the expected usable milli-GPU of `rows` with so much CPU, milli on each device and idle devices.

        `worth` is the table of shares: `share_worth` or `fill_worth`.
        """
        kind = self.class_of[rows]
        rank = np.searchsorted(self.cpu_steps, cpu, side="right")
        shares = worth[kind[:, None], rank[:, None], np.maximum(gpu_free, 0)].sum(axis=1)
        return np.asarray(shares + self.idle_worth[kind, rank, idle], dtype=np.float64)


@dataclass(slots=True)
class Typical:
    """How often each kind of request is made; counted up and down as runs come and go."""

    cluster: Cluster
    _counts: dict[Key, float] = field(default_factory=dict)
    _asked: dict[Key, Resources] = field(default_factory=dict)
    _words: dict[Key, str] = field(default_factory=dict)
    _keys: dict[int, tuple[Resources, Key]] = field(default_factory=dict)  # by identity: most runs share few objects
    _requests: dict[Key, Request] = field(default_factory=dict)
    _classes: Classes | None = None
    _last: Demand | None = None

    def count(self, resources: Resources, count: float) -> None:
        """Add `count` (below 0 to take away) to how often such a request is made."""
        known = self._keys.get(id(resources))
        if known is None:
            if len(self._keys) > MOST_KEYS:
                self._keys.clear()
            known = self._keys[id(resources)] = (resources, _kind(resources))
        key = known[1]
        self._asked.setdefault(key, resources)
        self._counts[key] = self._counts.get(key, 0.0) + count
        if not self._counts[key]:
            del self._counts[key], self._asked[key]

    def demand(self) -> Demand:
        """Return the most frequent requests, up to COVERED of all; the same object while they are the same."""
        for key in self._counts:
            if key not in self._words:
                self._words[key] = repr(key)
        ordered = sorted(self._counts, key=lambda key: (-self._counts[key], self._words[key]))
        total, covered, chosen = sum(self._counts.values()), 0.0, []
        for key in ordered[:MOST_KINDS]:
            if covered >= COVERED * total:
                break
            chosen.append(key)
            covered += self._counts[key]
        parts = np.array([self._counts[key] for key in chosen], dtype=np.float64)
        parts = parts / max(float(parts.sum()), 1e-9)
        for key in chosen:
            if key not in self._requests:
                self._requests[key] = make_request(self.cluster, self._asked[key])
        requests = tuple(self._requests[key] for key in chosen)
        if self._last is None or self._last.requests != requests or not np.array_equal(self._last.parts, parts):
            self._classes = self._classes or _classes(self.cluster)
            self._last = Demand(cluster=self.cluster, classes=self._classes, requests=requests, parts=parts)
        return self._last


def _classes(cluster: Cluster) -> Classes:
    kinds = cluster.kind_of[:, 0] if cluster.kind_of.shape[1] else np.zeros(len(cluster.nodes), dtype=np.int64)
    codes, of_row = np.unique(cluster.group_of * len(cluster.kinds) + kinds, return_inverse=True)
    devices = np.bincount(of_row, weights=(cluster.kind_of > 0).sum(axis=1), minlength=len(codes))
    groups, models = np.divmod(codes, len(cluster.kinds))
    return Classes(of_row.astype(np.int64), groups, models, devices.astype(np.float64))


def make_demand(cluster: Cluster, typical: Iterable[tuple[Resources, float]]) -> Demand:
    """Return the most frequent of the `typical` requests, up to COVERED of all."""
    counted = Typical(cluster)
    for resources, count in typical:
        counted.count(resources, count)
    return counted.demand()


def _kind(resources: Resources) -> Key:
    """Return what makes two typical requests one: all but memory and disk, which do not decide what a GPU is worth."""
    key = key_of(resources)
    return (key[0], *key[2:5], *key[6:])


def _milli(request: Request) -> float:
    if not request.devices:
        return 0.0
    return float(min(request.milli_of_kind.min(), GPU_MILLI)) * request.devices
