"""Curves of metrics: what a run logged is parsed once, thinned while it is read, and found again by its steps.

A live chart asks each second, a zoomed one for a few steps out of millions. So for the runs last looked at this remembers
how far each stream was read, a thinned curve for each name, and which steps lie in which bytes.
"""

from __future__ import annotations

import math
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from mainspring.store.database import Database
from mainspring.store.points import Point, Shown, as_step, parsed, thinned
from mainspring.store.streams import read_stream
from mainspring.store.tables import attempts, streams

STREAM = "metrics"
MAX_KEPT = 200_000  # points of all runs together: 5 MB
MIN_CAP, MAX_CAP = 64, 2048  # points a curve is thinned to when it has twice as many
BLOCK_BYTES = 1 << 16
_UNSAID = math.nan  # no step


@dataclass(slots=True)
class _Curve:
    """One name in one stream: `stride` raw points became two of `kept` (1: all are there)."""

    steps: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))
    times: array[float] = field(default_factory=lambda: array("d"))
    is_whole: bool = True
    has_bare: bool = False  # some points have no step

    def shown(self) -> list[Shown]:
        return [
            (None if math.isnan(step) else as_step(step), value if math.isfinite(value) else _odd(value), at)
            for step, value, at in zip(self.steps, self.values, self.times, strict=True)
        ]

    def thin(self, cap: int) -> None:
        kept = thinned(self.shown(), cap)
        self.steps = array("d", (_UNSAID if step is None else step for step, _, _ in kept))
        self.values = array("d", (float(value) for _, value, _ in kept))
        self.times = array("d", (at for _, _, at in kept))
        self.is_whole = False


@dataclass(slots=True)
class _Block:
    """Some bytes of a stream and the steps in them."""

    begin: int
    end: int
    low: float = math.inf
    high: float = -math.inf


@dataclass(slots=True)
class _Stream:
    """What is known of one replica's stream."""

    attempt: str
    replica: int
    read: int = 0
    curves: dict[str, _Curve] = field(default_factory=dict)
    blocks: list[_Block] = field(default_factory=list)


@dataclass(slots=True)
class _Run:
    lock: threading.Lock = field(default_factory=threading.Lock)
    streams: dict[tuple[int, int], _Stream] = field(default_factory=dict)  # by number of the attempt and replica

    def size(self) -> int:
        return sum(len(curve.steps) for stream in list(self.streams.values()) for curve in list(stream.curves.values()))


class Curves:
    """Answers from what was read before. Thread safe."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    def series(self, run: str, name: str, *, points: int, start: float | None = None, end: float | None = None) -> list[Shown]:
        """Return (step, value, unix seconds) as logged, thinned to about `points`; see `Metrics.series`."""
        with self._lock:
            known = self._runs.pop(run, None) or _Run()
            self._runs[run] = known
        with known.lock:
            found = self._db.read(lambda conn: _answer(conn, known, run, name, points, start, end))
        self._forget(run)
        return thinned(found, points)

    def _forget(self, but: str) -> None:
        """Let go of the runs that nobody has looked at for longest."""
        with self._lock:
            kept = sum(one.size() for one in self._runs.values())
            for run in [run for run in self._runs if run != but]:
                if kept <= MAX_KEPT:
                    break
                kept -= self._runs.pop(run).size()


def _answer(
    conn: Connection, known: _Run, run: str, name: str, points: int, start: float | None, end: float | None
) -> list[Shown]:
    """Read what is new, then take the curve if it is fine enough, else the bytes that hold the steps."""
    _catch_up(conn, known, run)
    holding = [stream for _, stream in sorted(known.streams.items()) if name in stream.curves]
    curves = [stream.curves[name] for stream in holding]
    is_all = start is None and end is None
    is_whole = all(curve.is_whole for curve in curves)
    if is_whole or (is_all and sum(len(curve.steps) for curve in curves) >= points):
        found = [point for curve in curves for point in curve.shown()]
        return found if is_all else list(_between(found, start, end))
    low, high = -math.inf if start is None else start, math.inf if end is None else end
    if any(curve.has_bare for curve in curves):
        low, high = -math.inf, math.inf  # the place of a point without a step is its count: all are counted
    raw = [(as_step(step), value, at) for stream in holding for _, value, step, at in _raw(conn, stream, name, low, high)]
    return list(_between(raw, start, end))


def _catch_up(conn: Connection, known: _Run, run: str) -> None:
    asked = (
        select(attempts.c.number, streams.c.attempt, streams.c.replica, streams.c.size_bytes)
        .join_from(streams, attempts, attempts.c.id == streams.c.attempt)
        .where(attempts.c.run == run, streams.c.stream == STREAM)
    )
    for number, attempt, replica, size in conn.execute(asked).tuples():
        stream = known.streams.setdefault((number, replica), _Stream(attempt, replica))
        if size > stream.read:
            _read_on(conn, known, stream)


def _read_on(conn: Connection, known: _Run, stream: _Stream) -> None:
    """Take in what came since; a line that has no end yet is left for the next time."""
    rest = b""
    for piece in read_stream(conn, stream.attempt, stream.replica, STREAM, offset=stream.read):
        rest += piece
        cut = rest.rfind(b"\n") + 1
        for begin in range(0, cut, BLOCK_BYTES):  # a beat may bring megabytes: a block ends where a line does
            first = rest.rfind(b"\n", 0, begin) + 1 if begin else 0
            last = cut if begin + BLOCK_BYTES >= cut else rest.rfind(b"\n", 0, begin + BLOCK_BYTES) + 1
            if last > first:
                _take(known, stream, rest[first:last])
        rest = rest[cut:]


def _take(known: _Run, stream: _Stream, lines: bytes) -> None:
    block = stream.blocks[-1] if stream.blocks else None
    if block is None or block.end - block.begin + len(lines) > BLOCK_BYTES:
        block = _Block(stream.read, stream.read)
        stream.blocks.append(block)
    stream.read += len(lines)
    block.end = stream.read
    touched: set[str] = set()
    for name, value, step, at in parsed(lines)[0]:
        curve = stream.curves.get(name)
        if curve is None:
            curve = stream.curves[name] = _Curve()
        touched.add(name)
        curve.has_bare = curve.has_bare or step is None
        curve.steps.append(_UNSAID if step is None else step)
        curve.values.append(float(value))
        curve.times.append(at)
        if step is not None:
            block.low, block.high = min(block.low, step), max(block.high, step)
    names = sum(len(one.curves) for one in known.streams.values())
    cap = min(max(MAX_KEPT // max(names, 1) // 2, MIN_CAP), MAX_CAP)
    for name in touched:
        if len(stream.curves[name].steps) > 2 * cap:
            stream.curves[name].thin(cap)


def _raw(conn: Connection, stream: _Stream, name: str, low: float, high: float) -> Iterator[Point]:
    """Yield the points of `name` from the bytes in which steps between `low` and `high` lie."""
    is_every = low == -math.inf and high == math.inf
    for block in stream.blocks:
        if is_every or (block.low <= high and block.high >= low):
            size = block.end - block.begin
            lines = b"".join(read_stream(conn, stream.attempt, stream.replica, STREAM, offset=block.begin, limit=size))
            yield from (point for point in parsed(lines)[0] if point[0] == name)


def _between(found: list[Shown], start: float | None, end: float | None) -> Iterator[Shown]:
    for number, point in enumerate(found):
        place = number if point[0] is None else point[0]
        if (start is None or place >= start) and (end is None or place <= end):
            yield point


def _odd(value: float) -> str:
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
