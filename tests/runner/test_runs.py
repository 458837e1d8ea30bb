"""What a run's end, output, environment and files look like to the server."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("code", "cause", "exit_code"),
    [
        ("print('hello')", "succeeded", 0),
        ("raise SystemExit(1)", "user_error", 1),
        ("raise SystemExit(137)", "user_error", 137),
        ("import os; os.kill(os.getpid(), 9)", "user_error", -9),
    ],
)
def test_the_end_is_told_once_with_its_cause(site: Any, server: Any, code: str, cause: str, exit_code: int) -> None:
    site.python_code(code)
    assert site.run() == 0
    assert (server.exit["cause"], server.exit["exit_code"], server.ends) == (cause, exit_code, 1)
    assert server.log == (b"hello\n" if "hello" in code else b"")
    assert server.tokens == {"Bearer t0ken-of-the-attempt"}
    assert site.read("exit.json") == {"outcome": server.exit, "outputs": {}, "is_final": True}
    assert not (site.root / "work").exists()


def test_a_run_that_prints_nothing_beats_once_for_each_state(site: Any, server: Any) -> None:
    server.beat_in_s = 60
    site.spec("sleep", "0.2")
    assert site.run() == 0
    assert server.states == ["starting", "running", "ended"]


def test_user_code_sees_what_it_was_promised(site: Any, server: Any) -> None:
    site.python_code(
        "import json, os; print(json.dumps(dict(os.environ)))", env={"SECRET": "s3cret", "A": "1", "PYTHONPATH": "/nowhere"}
    )
    launch = {**site.read("launch.json"), "env": {"A": "2", "CUDA_VISIBLE_DEVICES": ""}}
    (site.root / "launch.json").write_text(json.dumps(launch))
    assert site.run() == 0
    env = json.loads(server.log)
    assert (env["SECRET"], env["A"], env["CUDA_VISIBLE_DEVICES"]) == ("s3cret", "2", "")
    assert (env["MAINSPRING_RUN"], env["MAINSPRING_ATTEMPT"], env["MAINSPRING_WORLD_SIZE"]) == ("run-1", "att-1", "1")
    assert env["MAINSPRING_SPOOL"] == str(site.root / "spool")
    assert env["PYTHONUNBUFFERED"] == "1"
    assert "MAINSPRING_RESUME" not in env
    paths = env["PYTHONPATH"].split(":")
    assert (paths[0], paths[1], paths[2].endswith("/shim")) == (str(site.root / "work"), "/nowhere", True)
    assert "t0ken" not in server.log.decode()
    kept = [path for path in site.root.rglob("*") if path.is_file() and path.name != "log"]
    assert not [path for path in kept if b"s3cret" in path.read_bytes()]


def test_code_is_laid_out_and_a_script_gets_the_interpreter(site: Any, server: Any) -> None:
    files = {"pkg/train.py": b"import near, sys, os; print(near.x, sys.argv[1:], os.getcwd())", "pkg/near.py": b"x = 'big' * 1\n"}
    manifest = server.manifest({**files, "pkg/large.bin": b"x" * 200_000})
    site.spec("train.py", "--lr", "1", code={"manifest": manifest, "folder": "pkg"}, environment={"interpreter": sys.executable})
    assert site.run() == 0
    assert server.log.decode() == f"big ['--lr', '1'] {site.root}/work/pkg\n"


@pytest.mark.parametrize("path", ["../evil.py", "/etc/evil", "a/../../b", "a//b", "", "a\\b"])
def test_a_hostile_manifest_starts_nothing(site: Any, server: Any, path: str) -> None:
    site.spec("/bin/echo", "ran", code={"manifest": server.manifest({path: b"x"})})
    assert site.run() == 0
    assert server.exit["cause"] == "launch_failed"
    assert b"ran" not in server.log
    assert not (site.root / "started").exists()


def test_a_blob_that_lies_starts_nothing(site: Any, server: Any) -> None:
    manifest = server.manifest({"a.py": b"print(1)"})
    server.blobs[next(one for one, data in server.blobs.items() if data == b"print(1)")] = b"print(2)"
    site.spec("a.py", code={"manifest": manifest})
    assert site.run() == 0
    assert server.exit["cause"] == "launch_failed"


@pytest.mark.parametrize(("words", "exit_code"), [(["no-such-program"], 127), (["gone.py"], 127), (["./data.txt"], 126)])
def test_what_cannot_start_is_the_users_error_with_a_sentence(site: Any, server: Any, words: list[str], exit_code: int) -> None:
    site.spec(*words, code={"manifest": server.manifest({"data.txt": b"x"})})
    assert site.run() == 0
    assert (server.exit["cause"], server.exit["exit_code"]) == ("user_error", exit_code)
    assert server.exit["message"].encode() in server.log


def test_output_of_any_shape_arrives_as_it_was(site: Any, server: Any) -> None:
    site.python_code(
        "import os, sys; w = sys.stdout.buffer.write; w(bytes(range(256)) * 4); w(b'x' * 10_000_000);"
        "w(b''.join(b'line %d\\n' % n for n in range(100_000))); sys.stdout.flush(); os.write(2, b'end')"
    )
    assert site.run() == 0
    lines = b"".join(b"line %d\n" % n for n in range(100_000))
    assert server.log == bytes(range(256)) * 4 + b"x" * 10_000_000 + lines + b"end"


def test_files_in_out_become_outputs(site: Any, server: Any) -> None:
    site.python_code(
        "import os; o = os.environ['MAINSPRING_OUT']; os.mkdir(o + '/sub'); open(o + '/sub/a.txt', 'w').write('small');"
        "open(o + '/big.bin', 'wb').write(b'B' * 300_000)"
    )
    assert site.run() == 0
    assert set(server.outputs) == {"sub/a.txt", "big.bin"}
    assert server.blobs[server.outputs["sub/a.txt"]["digest"]] == b"small"
    assert server.blobs[server.outputs["big.bin"]["digest"]] == b"B" * 300_000
    assert server.outputs["big.bin"] == {**server.outputs["big.bin"], "kind": "file", "size_bytes": 300_000}


def test_arguments_are_files_below_inputs(site: Any, server: Any) -> None:
    args = {
        "rows": {"kind": "dataset", "digest": server.manifest({"d/rows.csv": b"1,2"}), "size_bytes": 3},
        "note": {"kind": "file", "digest": server.put(b"note"), "size_bytes": 4, "meta": {"name": "note.txt"}},
    }
    site.python_code(
        "import os; i = os.environ['MAINSPRING_INPUTS'];"
        "print(open(i + '/rows/d/rows.csv').read(), open(i + '/note/note.txt').read())",
        args=args,
    )
    assert site.run() == 0
    assert server.log == b"1,2 note\n"
    cached = [path for path in (site.root.parent / "cache").rglob("*") if len(path.name) == 64]
    assert cached
    assert {stat.S_IMODE(path.stat().st_mode) for path in cached} == {0o444}


def test_the_next_attempt_on_this_node_finds_the_checkpoint(site: Any, server: Any) -> None:
    code = (
        "import os, sys\n"
        "path = os.environ['MAINSPRING_CHECKPOINT'] + '/at'\n"
        "if 'MAINSPRING_RESUME' in os.environ: print('from', open(path).read()); sys.exit(0)\n"
        "open(path, 'w').write('7'); sys.exit(3)"
    )
    site.python_code(code)
    assert site.run() == 0
    assert server.exit["exit_code"] == 3
    first = {name: (site.root / name).read_bytes() for name in ("launch.json", "token")}
    site.root = site.root.parent / "second"
    site.root.mkdir()
    for name, data in first.items():
        (site.root / name).write_bytes(data)
    server.work["number"] = 2
    assert site.run() == 0
    assert server.log == b"from 7\n"
    assert not list((site.root.parent / "cache" / "checkpoints").iterdir())


def test_a_replica_tells_its_address(site: Any, server: Any, until: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    site.python_code(
        "import os, time; open(os.environ['MAINSPRING_SPOOL'] + '/address', 'w').write('127.0.0.1:4711')\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)"
    )
    site.start()
    until(lambda: "127.0.0.1:4711" in server.addresses, "the address")
    go.touch()
    until(lambda: server.exit, "the end")
    assert server.exit["cause"] == "succeeded"
