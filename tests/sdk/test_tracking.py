"""Metrics from user code: cheap, complete, and silent outside a run. Each in a process of its own, as user code is."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def user(tmp_path):
    def call(code, **env):
        spool, out = tmp_path / "spool", tmp_path / "out"
        spool.mkdir(exist_ok=True)
        out.mkdir(exist_ok=True)
        environ = {**os.environ, "MAINSPRING_SPOOL": str(spool), "MAINSPRING_OUT": str(out), **env}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    return call


@pytest.fixture
def lines(tmp_path):
    return lambda stream: [json.loads(line) for line in (tmp_path / "spool" / stream).read_text().splitlines()]


def test_points_are_written_in_order_at_exit(user, lines):
    user("import mainspring as ms\nfor n in range(10_000): ms.log_metric('loss', 1 / (n + 1), step=n)")
    found = lines("metrics")
    assert [step for _, _, step, _ in found] == list(range(10_000))
    assert found[1][:2] == ["loss", 0.5]


def test_numbers_that_json_lacks_are_text(user, lines):
    user("import mainspring as ms\nfor x in ('nan', 'inf', '-inf'): ms.log_metric('x', float(x))")
    assert [value for _, value, _, _ in lines("metrics")] == ["nan", "inf", "-inf"]


def test_numbers_of_numpy_are_numbers(user, lines):
    user("import mainspring as ms, numpy as np\nms.log_metric('x', np.float32(0.5)); ms.log_params(lr=np.float64(0.1), f=print)")
    assert lines("metrics")[0][1] == 0.5
    assert dict(map(tuple, lines("params")))["lr"] == 0.1


def test_a_call_costs_microseconds(user):
    code = """
import time, mainspring as ms
ms.log_metric('x', 1.0)
def took():
    began = time.perf_counter()
    for n in range(500): ms.log_metric('x', 1.0, step=n)
    return time.perf_counter() - began
best = min(took() for _ in range(20))
print(best / 500 * 1e6)
"""
    assert float(user(code).stdout) < 5.0


def test_points_are_written_while_the_run_goes_on(user):
    code = """
import os, time, mainspring as ms
ms.log_metric('x', 1.0)
path, until = os.path.join(os.environ['MAINSPRING_SPOOL'], 'metrics'), time.monotonic() + 5
while not os.path.exists(path) and time.monotonic() < until: time.sleep(0.005)
print(os.path.exists(path))
os._exit(0)
"""
    assert user(code).stdout.strip() == "True"


def test_a_fork_neither_loses_nor_doubles(user, lines):
    code = """
import os, mainspring as ms
ms.log_metric('parent', 1.0)
child = os.fork()
ms.log_metric('child' if child == 0 else 'after', 2.0)
if child: os.waitpid(child, 0)
"""
    user(code)
    assert sorted(name for name, *_ in lines("metrics")) == ["after", "child", "parent"]


def test_threads_lose_nothing(user, lines):
    code = """
import threading, mainspring as ms
def work(k):
    for n in range(3000): ms.log_metric(f'm{k}', n, step=n)
threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
"""
    user(code)
    found = lines("metrics")
    assert {(name, step) for name, _, step, _ in found} == {(f"m{k}", n) for k in range(4) for n in range(3000)}
    assert len(found) == 12_000


def test_parameters_that_json_lacks_are_text(user, lines):
    user("import mainspring as ms\nms.log_params({'lr': 0.1, 'f': len}, deep={'a': [1]}, bad=float('nan'))")
    found = dict(map(tuple, lines("params")))
    assert (found["lr"], found["deep"], found["bad"]) == (0.1, {"a": [1]}, "nan")
    assert "built-in" in found["f"]


def test_artifacts_are_copied_below_out_and_nowhere_else(user, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    user("import mainspring as ms\nms.log_artifact('a.txt'); ms.log_artifact('a.txt', 'deep/b.txt')")
    assert (tmp_path / "out/deep/b.txt").read_text() == (tmp_path / "out/a.txt").read_text() == "x"
    done = user("import mainspring as ms\ntry: ms.log_artifact('a.txt', '../evil')\nexcept ms.UsageError as e: print(e)")
    assert "cannot name" in done.stdout
    assert not (tmp_path / "evil").exists()


def test_outside_a_run_nothing_happens_and_it_is_told_once(user):
    code = "import mainspring as ms\nfor _ in range(3): ms.log_metric('x', 1); ms.log_params(a=1); ms.log_artifact('no')\n"
    code += "print(ms.should_stop())"
    done = user(code, MAINSPRING_SPOOL="", MAINSPRING_OUT="")
    assert done.stderr.count("this is no run") == 1
    assert done.stdout.strip() == "False"


def test_a_stop_and_a_checkpoint_are_seen(user, tmp_path):
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool/checkpoint_requested").touch()
    code = "import mainspring as ms\nprint(ms.should_checkpoint(), ms.should_checkpoint(), ms.should_stop())"
    assert user(code).stdout.split() == ["True", "False", "False"]
    (tmp_path / "spool/stop_requested").touch()
    assert user(code).stdout.split() == ["True", "False", "True"]  # to save once more is enough
