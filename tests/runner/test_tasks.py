"""Task runs: arguments in, results out, errors in the log; and the shim that user code has where Mainspring is not installed."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NUMPY = pytest.importorskip("numpy")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def call(site: Any, server: Any) -> Any:
    """Run `module:function` of the given source and return the value called `result`."""

    def run(source: str, args: dict[str, Any] | None = None, function: str = "go", **more: Any) -> dict[str, Any]:
        manifest = server.manifest({"job.py": source.encode()})
        site.spec(
            kind="task",
            entry={"module": "job", "function": function, "pickled": ""},
            args=args or {},
            code={"manifest": manifest, "folder": "."},
            environment={"interpreter": sys.executable},
            **more,
        )
        assert site.run() == 0
        return dict(server.outputs.get("result", {}))

    return run


def _json(value: object) -> dict[str, object]:
    return {"kind": "json", "json": value, "digest": "", "size_bytes": 0, "meta": {}}


@pytest.mark.parametrize("value", [None, 1, 1.5, "ü\n", [1, [2]], {"a": {"b": [True, None]}}])
def test_json_goes_in_and_comes_out(call: Any, value: object) -> None:
    result = call("def go(x): return x", {"x": _json(value)})
    assert (result["kind"], result["json"]) == ("json", value)


def test_a_short_call_of_a_task_loads_neither_the_client_nor_what_a_spec_needs(call: Any) -> None:
    result = call(
        "import sys, mainspring as ms\n"
        "@ms.task(gpus=1, memory='2GiB')\n"
        "def go():\n"
        "    ms.log_metric('score', 1.0)\n"
        "    return [ms.__file__.endswith('src/mainspring/__init__.py'), sorted(sys.modules)]\n"
    )
    is_installed, loaded = result["json"]
    assert is_installed
    assert "mainspring.sdk.tracking" in loaded
    heavy = {
        "mainspring.core.specs",
        "mainspring.client.client",
        "dataclasses",
        "inspect",
        "pathlib",
        "pickle",
        "shutil",
        "traceback",
    }
    assert not heavy & set(loaded)


def test_a_task_with_wrong_options_is_refused_where_it_is_submitted_from_a_call(call: Any) -> None:
    result = call(
        "import mainspring as ms\n"
        "def go():\n"
        "    wrong = ms.task(colour='red')(lambda: 1)\n"
        "    try:\n"
        "        wrong.submit()\n"
        "    except ms.UsageError as told:\n"
        "        return str(told)\n"
    )
    assert "no option 'colour'" in result["json"]


def test_figures_of_numpy_come_out_as_json(call: Any) -> None:
    result = call("import numpy as np\ndef go(): return {'auc': np.float64(0.5), 'n': [np.int64(3)], 'ok': np.bool_(True)}")
    assert (result["kind"], result["json"]) == ("json", {"auc": 0.5, "n": [3], "ok": True})


def test_arrays_and_pickles_are_blobs(call: Any, server: Any) -> None:
    data = io.BytesIO()
    NUMPY.save(data, NUMPY.arange(4))
    args = {
        "a": {"kind": "npy", "digest": server.put(data.getvalue()), "size_bytes": len(data.getvalue()), "meta": {}},
        "b": {"kind": "pickle", "digest": server.put(pickle.dumps({1, 2})), "size_bytes": 0, "meta": {}},
    }
    result = call("def go(a, b): return a * len(b)", args)
    assert result["kind"] == "npy"
    assert result["meta"] == {"shape": [4], "dtype": "int64"}
    assert NUMPY.load(io.BytesIO(server.blobs[result["digest"]])).tolist() == [0, 2, 4, 6]


def test_anything_else_is_pickled(call: Any, server: Any) -> None:
    result = call("def go(): return {(1, 2): {3}}")
    assert result["kind"] == "pickle"
    assert pickle.loads(server.blobs[result["digest"]]) == {(1, 2): {3}}  # noqa: S301


def test_an_object_may_save_itself_and_a_data_set_arrives_as_a_folder(call: Any, server: Any) -> None:
    args = {"rows": {"kind": "dataset", "digest": server.manifest({"a.csv": b"1"}), "size_bytes": 1, "meta": {}}}
    source = (
        "class Own:\n"
        "    def __mainspring_save__(self, folder):\n"
        "        open(folder + '/w.bin', 'w').write(self.text)\n"
        "        return {'kind': 'model', 'meta': {'format': 'native'}}\n"
        "class Task:\n"
        "    def __init__(self, function): self.function = function\n"
        "@Task\n"
        "def go(rows):\n"
        "    own = Own()\n"
        "    own.text = open(str(rows) + '/a.csv').read() + '!'\n"
        "    return own\n"
    )
    result = call(source.replace("str(rows)", "str(rows.path)"), args)
    assert (result["kind"], result["meta"]) == ("model", {"format": "native"})
    files = json.loads(server.blobs[result["digest"]])["files"]
    assert [(entry["path"], server.blobs[entry["digest"]]) for entry in files] == [("w.bin", b"1!")]


def test_a_traceback_is_in_the_log_from_user_code_on(call: Any, server: Any) -> None:
    call("def go():\n    raise ValueError('wrong number')")
    assert (server.exit["cause"], server.exit["exit_code"]) == ("user_error", 1)
    assert b"ValueError: wrong number" in server.log
    assert b"runner" not in server.log
    assert server.outputs == {}


def test_a_module_that_is_missing_is_named(call: Any, server: Any) -> None:
    call("import no_such_module_here\ndef go(): pass")
    assert server.exit["exit_code"] == 1
    assert b"no_such_module_here" in server.log


def _shim(bundle: Path, code: str, env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    env = {**{name: value for name, value in os.environ.items() if not name.startswith("MAINSPRING_")}, **env}
    env["PYTHONPATH"] = str(bundle / "shim")
    return subprocess.run([sys.executable, "-S", "-c", code], env=env, capture_output=True, check=False, timeout=30)


def test_outside_a_run_the_shim_does_nothing_and_says_so_once(bundle: Path) -> None:
    done = _shim(bundle, "import mainspring as ms\nms.log_metric('a', 1)\nms.log_params(b=2)\nprint(ms.should_stop())", {})
    assert (done.returncode, done.stdout) == (0, b"False\n")
    assert done.stderr.count(b"\n") == 1


def test_the_shim_writes_whole_lines_also_from_forks_and_threads(bundle: Path, tmp_path: Path) -> None:
    code = (
        "import mainspring as ms, os, threading\n"
        "def log(who):\n"
        "    for n in range(3000): ms.log_metric(who, n, n)\n"
        "ms.log_metric('before', float('nan'), 0)\n"
        "ms.log_metric('wrong', 'text')\n"
        "many = [threading.Thread(target=log, args=('t%d' % n,)) for n in range(3)]\n"
        "[one.start() for one in many]\n"
        "pid = os.fork()\n"
        "log('child' if pid == 0 else 'parent')\n"
        "if pid: os.waitpid(pid, 0); [one.join() for one in many]\n"
    )
    done = _shim(bundle, code, {"MAINSPRING_SPOOL": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    points = [json.loads(line) for line in (tmp_path / "metrics").read_text().splitlines()]
    assert points[0][:3] == ["before", "nan", 0]
    assert b"wrong" in done.stderr
    for who in ("t0", "t1", "t2", "child", "parent"):
        assert [point[1] for point in points if point[0] == who] == list(range(3000))


def test_a_metric_costs_microseconds(bundle: Path, tmp_path: Path) -> None:
    code = (
        "import mainspring as ms, time\n"
        "def once():\n"
        "    begun = time.process_time()\n"
        "    for n in range(20000): ms.log_metric('loss', 0.5, n)\n"
        "    return (time.process_time() - begun) / 20000\n"
        "print(min(once() for _ in range(5)))\n"
    )
    done = _shim(bundle, code, {"MAINSPRING_SPOOL": str(tmp_path)})
    assert float(done.stdout) < 30e-6, "process time, with the writer's thread in it"
    assert (tmp_path / "metrics").read_bytes().count(b"\n") == 100_000


def test_an_installed_mainspring_takes_the_shims_place(bundle: Path) -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(bundle / "shim")}
    code = "import mainspring, mainspring.core.ids; print(mainspring.__file__)"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True, timeout=30)
    assert done.stdout.decode().strip() == str(ROOT / "src" / "mainspring" / "__init__.py")


def test_a_file_with_tasks_a_pipeline_and_a_sweep_is_understood_without_the_library(bundle: Path) -> None:
    code = """
import mainspring as ms
SPACE = {"lr": ms.loguniform(1e-4, 1), "layers": ms.choice(1, 2)}
GOAL = ms.Objective("delays", kpi="value", at_least=0)
@ms.task(cpus=1)
def double(x): return 2 * x
@ms.pipeline(triggers=[ms.cron("0 6 * * *")])
def nightly(): return double(1)
@ms.pipeline
def plain(): return double(2)
print(double(3), nightly(), plain(), nightly.function is nightly, hasattr(ms, "__path_hooks__"))
ms.sweep(double, space=SPACE)
"""
    done = _shim(bundle, code, {})
    assert done.stdout == b"6 2 4 True False\n", done
    assert b"mainspring.sweep is not there inside a run on a node without Mainspring: install it there" in done.stderr


def test_artifacts_stay_in_the_outputs(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    code = f"import mainspring as ms; ms.log_artifact({str(tmp_path / 'a.txt')!r}, 'x/b.txt'); ms.log_artifact('a', '../evil')"
    done = _shim(bundle, code, {"MAINSPRING_SPOOL": str(tmp_path), "MAINSPRING_OUT": str(tmp_path / "out")})
    assert (tmp_path / "out" / "x" / "b.txt").read_text() == "a"
    assert b"leads outside" in done.stderr
