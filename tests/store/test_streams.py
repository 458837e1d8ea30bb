"""W6: no byte of a stream is lost or stored twice, whatever comes again, late or out of order."""

from __future__ import annotations

import json
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainspring.core.errors import NotFoundError, UsageError
from mainspring.core.records import Cause
from mainspring.store import curves


@pytest.fixture
def attempt(world):
    return world.launch(world.start(world.run(params={"lr": 0.1, "seed": 3}), world.node()))


@pytest.fixture
def node_for_streams(world):
    return world.node(cpu_milli=10**9)  # an example that hypothesis breaks off frees nothing


@pytest.fixture
def append(world, attempt):
    def send(*chunks, replica=0):
        return world.store.attempts.append(attempt.id, replica, chunks, now=world.clock.now())

    return send


def line(name, value, step=None, at=1.0):
    return json.dumps([name, value, step, at]).encode() + b"\n"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_split_repetition_and_order_gives_the_same_bytes(world, node_for_streams, data):
    attempt = world.start(world.run(), node_for_streams)
    whole = data.draw(st.binary(max_size=600))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = list(zip([0, *cuts], [*cuts, len(whole)], strict=True))
    extra = data.draw(st.lists(st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole))), max_size=6))
    sent = data.draw(st.permutations(pieces + [(min(pair), max(pair)) for pair in extra]))
    known = 0  # a model of what the server must hold: the longest run of bytes that came without a gap
    while sent:
        size = data.draw(st.integers(1, len(sent)))
        batch, sent = sent[:size], sent[size:]
        chunks = [("log", begin, whole[begin:end]) for begin, end in batch]
        ends = world.store.attempts.append(attempt.id, 0, chunks, now=world.clock.now())
        for begin, end in batch:
            known = end if begin <= known < end else known
        assert ends.get("log", 0) == known
    assert world.store.logs.read(attempt.id, 0, "log") == whole[:known]
    ends = world.store.attempts.append(attempt.id, 0, [("log", known, whole[known:])], now=world.clock.now())
    assert world.store.logs.read(attempt.id, 0, "log") == whole
    assert ends.get("log", 0) == world.store.logs.size(attempt.id, 0, "log") == len(whole)
    offset, limit = data.draw(st.integers(0, 700)), data.draw(st.integers(0, 700))
    assert world.store.logs.read(attempt.id, 0, "log", offset=offset, limit=limit) == whole[offset : offset + limit]
    world.end(attempt)


def test_every_stream_of_the_replica_is_acknowledged(append):
    assert append(("log", 0, b"abc"), ("params", 0, b"")) == {"log": 3}
    assert append(("metrics", 0, line("a", 1))) == {"log": 3, "metrics": len(line("a", 1))}
    assert append() == {"log": 3, "metrics": len(line("a", 1))}
    assert append(("log", 9, b"gap")) == {"log": 3, "metrics": len(line("a", 1))}


def test_streams_of_replicas_and_attempts_are_apart(world):
    run, node = world.run(replicas=2, retries=1), world.node()
    first = world.start(run, node, node)
    for replica in (0, 1):
        world.store.attempts.append(first.id, replica, [("log", 0, b"%d" % replica)], now=world.clock.now())
        world.end(first, Cause.USER_ERROR, replica=replica)
    second = world.start(world.store.runs.get(run.id), node, node)
    world.store.attempts.append(second.id, 0, [("log", 0, b"again")], now=world.clock.now())
    assert [world.store.logs.read(first.id, n, "log") for n in (0, 1)] == [b"0", b"1"]
    assert world.store.logs.read(second.id, 0, "log") == b"again"
    assert world.store.logs.read(second.id, 1, "log") == b""
    assert world.store.logs.size(second.id, 1, "log") == 0


def test_large_and_binary_text_is_kept_and_read_in_parts(world, append, attempt):
    whole = bytes(range(256)) * 3000 + b"no newline"
    half = len(whole) // 2
    append(("log", 0, whole[:half]), ("log", half, whole[half:]))
    read = b""
    while part := world.store.logs.read(attempt.id, 0, "log", offset=len(read), limit=100_000):
        read += part
    assert read == whole


def test_wrong_places_are_refused(world, append, attempt):
    for stream, offset in (("", 0), ("x" * 65, 0), ("lög", 0), ("a\nb", 0), ("log", -1)):
        with pytest.raises(UsageError):
            append((stream, offset, b"x"))
    with pytest.raises(NotFoundError):
        append(("log", 0, b"x"), replica=5)
    with pytest.raises(NotFoundError):
        world.store.attempts.append("att-0", 0, [("log", 0, b"x")], now=world.clock.now())


def test_the_same_bytes_from_many_threads_are_stored_once(world, append, attempt):
    barrier = threading.Barrier(6)
    chunks = [("metrics", 0, b"".join(line("loss", n, n) for n in range(50)))]

    def send(_):
        barrier.wait()
        return append(*chunks)

    with ThreadPoolExecutor(6) as pool:
        ends = list(pool.map(send, range(6)))
    assert all(end == {"metrics": len(chunks[0][2])} for end in ends)
    assert world.store.metrics.summary(attempt.run)["loss"]["count"] == 50


def test_followers_are_woken_by_fresh_bytes_only(world, append, attempt):
    woken = []
    world.store.on_commit(woken.append)
    append(("log", 0, b"abc"))
    append(("log", 0, b"abc"))
    assert [topics for topics in woken if topics] == [{f"logs:{attempt.id}"}]


def test_summaries_follow_the_points(world, append, attempt):
    first = line("loss", 3, 0) + line("loss", 1.5, 1) + line("acc", 0.5, None)
    second = line("loss", 2.0, 2, 9.5) + line("acc", 0.25, 7)
    append(("metrics", 0, first))
    append(("metrics", 0, first + second))
    assert world.store.metrics.summary(attempt.run) == {
        "acc": {"last": 0.25, "min": 0.25, "max": 0.5, "count": 2, "step": 7},
        "loss": {"last": 2.0, "min": 1.5, "max": 3.0, "count": 3, "step": 2},
    }
    assert world.store.runs.get(attempt.run).metrics == {"loss": 2.0, "acc": 0.25}
    assert world.store.metrics.series(attempt.run, "loss") == [(0, 3, 1.0), (1, 1.5, 1.0), (2, 2.0, 9.5)]
    assert world.store.metrics.series(attempt.run, "loss", start=1, end=1) == [(1, 1.5, 1.0)]
    assert world.store.metrics.series(attempt.run, "none") == []


def test_late_points_of_a_superseded_attempt_are_never_the_last(world):
    run, node = world.run(), world.node()
    first = world.start(run, node)
    _, again = world.end(first, Cause.NODE_LOST)
    second = world.start(again, node)
    world.store.attempts.append(second.id, 0, [("metrics", 0, line("loss", 2.0, 9))], now=world.clock.now())
    world.store.attempts.append(first.id, 0, [("metrics", 0, line("loss", 7.0, 1))], now=world.clock.now())
    assert world.store.metrics.summary(run.id)["loss"] == {"last": 2.0, "min": 2.0, "max": 7.0, "count": 2, "step": 9}


def test_values_that_are_not_finite_are_said_as_text(world, append, attempt):
    append(("metrics", 0, line("x", 1.0) + line("x", "nan") + line("y", "-inf") + line("z", "inf") + line("z", 2)))
    summary = world.store.metrics.summary(attempt.run)
    assert (summary["x"]["last"], summary["x"]["min"], summary["x"]["max"]) == ("nan", 1.0, 1.0)
    assert (summary["y"]["last"], summary["y"]["min"], summary["z"]["last"]) == ("-inf", None, 2.0)
    assert world.store.runs.get(attempt.run).metrics == {"z": 2.0}
    assert [value for _, value, _ in world.store.metrics.series(attempt.run, "x")] == [1.0, "nan"]


BAD = [
    b"garbage\n",
    b"\xff\xfe\n",
    b'["a"]\n',
    b'["a", true, 0, 1]\n',
    b'["a", "wide", 0, 1]\n',
    b'["", 1, 0, 1]\n',
    b'["a\\u0000b", 1, 0, 1]\n',
    b'{"a": 1}\n',
    b'["a", NaN, 0, 1]\n',
    b'["\\ud800", 1, 0, 1]\n',
    b'["' + b"n" * 300 + b'", 1, 0, 1]\n',
    b'["a", 1e999, 0, 1]\n',
]


def test_malformed_lines_are_skipped_and_the_rest_counts(world, append, attempt):
    good, end = line("loss", 1, 1), 0
    for count, bad in enumerate(BAD, 1):
        assert append(("metrics", end, good + bad + good))["metrics"] == end + 2 * len(good) + len(bad)
        end += 2 * len(good) + len(bad)
        assert world.store.metrics.summary(attempt.run)["loss"]["count"] == 2 * count, bad
    assert set(world.store.metrics.summary(attempt.run)) == {"loss"}
    assert len(world.store.metrics.series(attempt.run, "loss")) == 2 * len(BAD)


def test_thinned_series_keep_every_peak(world, append, attempt):
    values = [math.sin(n / 50) for n in range(5000)]
    values[1234], values[4321] = 99.0, -99.0
    append(("metrics", 0, b"".join(line("wave", value, step, step / 10) for step, value in enumerate(values))))
    thin = world.store.metrics.series(attempt.run, "wave", points=100)
    assert len(thin) <= 102
    assert (1234, 99.0, 123.4) in thin
    assert (4321, -99.0, 432.1) in thin
    assert [step for step, _, _ in thin] == sorted(step for step, _, _ in thin)


def test_a_zoomed_series_is_finer_than_the_whole(world, append, attempt):
    lines = b"".join(line("wave", step % 7, step, step / 10) + line("other", 1, step) for step in range(20_000))
    append(("metrics", 0, lines))
    assert len(world.store.metrics.series(attempt.run, "wave", points=100)) <= 102
    part = world.store.metrics.series(attempt.run, "wave", points=100, start=15_000, end=15_049)
    assert part == [(step, step % 7, step / 10) for step in range(15_000, 15_050)]


def test_a_series_grows_by_what_came_since_it_was_asked_for(world, append, attempt):
    whole, seen = b"".join(line("loss", step / 10, step) for step in range(9_000)), 0
    for cut in (10, 5_003, 200_000, len(whole)):  # some of them within a line
        append(("metrics", seen, whole[seen:cut]))
        seen = cut
        known = world.store.metrics.series(attempt.run, "loss", points=10_000)
        assert [step for step, _, _ in known] == list(range(whole[:cut].count(b"\n")))


def test_what_was_read_once_is_not_read_again(world, append, attempt, monkeypatch):
    append(("metrics", 0, b"".join(line("loss", step, step) for step in range(20_000))))
    world.store.metrics.series(attempt.run, "loss")
    parsed, read = curves.parsed, []
    monkeypatch.setattr(curves, "parsed", lambda lines: read.append(len(lines)) or parsed(lines))
    world.store.metrics.series(attempt.run, "loss")
    assert read == []
    world.store.metrics.series(attempt.run, "loss", start=100, end=110)
    assert 0 < sum(read) <= 2 * curves.BLOCK_BYTES


def test_places_of_points_without_a_step_are_counted_over_attempts(world):
    run, node = world.run(retries=1), world.node()
    for first in (0, 3):
        one = world.start(world.store.runs.get(run.id), node)
        lines = b"".join(line("loss", first + n) for n in range(3))
        world.store.attempts.append(one.id, 0, [("metrics", 0, lines)], now=world.clock.now())
        world.end(one, Cause.USER_ERROR)
    assert [value for _, value, _ in world.store.metrics.series(run.id, "loss", start=2, end=4)] == [2, 3, 4]


def test_curves_that_nobody_looks_at_are_let_go(world, monkeypatch):
    monkeypatch.setattr(curves, "MAX_KEPT", 300)
    known, node = curves.Curves(world.store._db), world.node(cpu_milli=10**9)
    for _ in range(5):
        one = world.start(world.run(), node)
        lines = b"".join(line("loss", n, n) for n in range(100))
        world.store.attempts.append(one.id, 0, [("metrics", 0, lines)], now=world.clock.now())
        assert len(known.series(one.run, "loss", points=1000)) == 100
    assert len(known._runs) == 3


def test_names_that_need_escapes_are_found(world, append, attempt):
    append(("metrics", 0, line("größe/π", 1) + line('quo"te', 2)))
    assert [v for _, v, _ in world.store.metrics.series(attempt.run, "größe/π")] == [1]
    assert [v for _, v, _ in world.store.metrics.series(attempt.run, 'quo"te')] == [2]


def test_parameters_and_usage(world, append, attempt):
    append(("params", 0, b'["lr", 0.5]\nbroken\n["opt", {"name": "adam"}]\n'))
    assert world.store.metrics.params(attempt.run) == {"lr": 0.5, "seed": 3, "opt": {"name": "adam"}}
    lines = b"".join(b'{"at": %d, "cpu": 1.5, "memory_bytes": 10, "gpu": []}\n' % n for n in range(100)) + b"broken\n"
    append(("usage", 0, lines))
    assert len(world.store.metrics.usage(attempt.run, points=10)) == 10
    whole = world.store.metrics.usage(attempt.run, points=1000)
    assert [one["at"] for one in whole] == list(range(100))


def test_a_hundred_thousand_points_are_stored_in_a_moment(world, append, attempt):
    parts = [b"".join(line("loss", n * 0.5, n, n / 7) for n in range(begin, begin + 5000)) for begin in range(0, 100_000, 5000)]
    began, offset = time.perf_counter(), 0
    for part in parts:
        offset = append(("metrics", offset, part))["metrics"]
    spent = time.perf_counter() - began
    assert world.store.metrics.summary(attempt.run)["loss"]["count"] == 100_000
    assert spent < 20  # measured 0.5 s; the bound only catches one write a point
