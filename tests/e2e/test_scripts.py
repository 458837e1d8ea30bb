"""What people's scripts do: end in every way, leave things behind, print what nobody expects, refuse to end, want secrets."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.e2e


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a user keeps scripts."""
    made = tmp_path / "my work"
    made.mkdir()
    return made


@pytest.mark.parametrize(
    ("line", "code", "state"), [("exit 0", 0, "succeeded"), ("exit 1", 1, "failed"), ("exit 137", 137, "failed")]
)
def test_the_exit_code_is_that_of_the_script(site: Site, folder: Path, line: str, code: int, state: str) -> None:
    (folder / "go.sh").write_text(f"#!/bin/sh\necho said\n{line}\n")
    (folder / "go.sh").chmod(0o755)
    done = site.cli("run", "./go.sh", "--json", cwd=folder)
    assert done.code == code, done
    run = json.loads(done.out)
    assert run["state"] == state
    assert run["outcome"]["exit_code"] == code
    assert "said" in done.err


def test_a_script_killed_by_a_signal_ends_as_in_a_shell(site: Site) -> None:
    done = site.cli("run", "--", "sh", "-c", "kill -9 $$")
    assert done.code == 137
    assert "SIGKILL" in done.err


def test_a_script_that_is_not_executable_says_what_to_do(site: Site, folder: Path) -> None:
    (folder / "go.sh").write_text("#!/bin/sh\necho no\n")
    (folder / "go.sh").chmod(0o644)
    done = site.cli("run", "./go.sh", cwd=folder)
    assert done.code == 126
    assert "chmod +x" in done.err


def test_a_program_that_is_nowhere_is_named(site: Site) -> None:
    done = site.cli("run", "--", "no-such-program-at-all")
    assert done.code == 127
    assert "no-such-program-at-all" in done.err


def test_daemons_that_outlive_their_script_are_ended(site: Site, tmp_path: Path, until: Callable[..., Any]) -> None:
    left = tmp_path / "left"
    code = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True, stdout=subprocess.DEVNULL, env={})\n"
        f"open({str(left)!r}, 'w').write(str(child.pid))\n"
    )
    run = site.wait(site.python(code))
    assert run["state"] == "succeeded"
    pid = int(left.read_text())
    until(lambda: not Path(f"/proc/{pid}").exists(), "the daemon's end", timeout_s=90)


def test_output_of_any_kind_is_kept_to_the_byte(site: Site) -> None:
    every = bytes(range(256)) * 8
    ref = site.python("import sys; sys.stdout.buffer.write(bytes(range(256)) * 8)")
    assert site.wait(ref)["state"] == "succeeded"
    assert site.log(ref) == every
    assert site.cli("logs", ref).code == 0


def test_ten_megabytes_without_a_newline(site: Site) -> None:
    ref = site.python("import sys; sys.stdout.write('x' * 10_000_000)")
    assert site.wait(ref)["state"] == "succeeded"
    assert site.log(ref) == b"x" * 10_000_000
    done = site.cli("logs", ref, "--tail", "2")
    assert done.code == 0
    assert 0 < len(done.out) <= 1 << 20


def test_a_hundred_thousand_lines_arrive_once_and_in_order(site: Site) -> None:
    ref = site.python("for n in range(100_000): print(n)")
    assert site.wait(ref)["state"] == "succeeded"
    assert site.log(ref) == b"".join(b"%d\n" % n for n in range(100_000))
    assert site.cli("logs", ref, "--tail", "3").out.split() == ["99997", "99998", "99999"]


def test_a_script_that_fills_its_disk_fails_as_itself(site: Site) -> None:
    code = (
        "import os, resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "open('big', 'wb', 0).write(b'x' * (1 << 16))\n"
        "open('big', 'ab', 0).write(b'x')\n"
    )
    run = site.wait(ref := site.python(code))
    assert (run["state"], run["outcome"]["cause"]) == ("failed", "user_error")
    assert b"File too large" in site.log(ref)


def test_a_script_that_ignores_sigterm_is_killed_after_its_grace(site: Site) -> None:
    code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(600)"
    ref = site.python(code, grace_s=1)
    site.running(ref, b"deaf")
    assert site.cli("cancel", ref).code == 0
    told = site.call("GET", f"/runs/{ref}/why").json()
    assert "stop" in told["sentence"].lower(), told
    run = site.wait(ref, timeout_s=90)
    assert (run["state"], run["outcome"]["cause"]) == ("cancelled", "cancelled")
    assert run["outcome"]["exit_code"] == -9


def test_a_script_may_end_by_itself_when_it_is_asked_to(site: Site) -> None:
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n    print('goodbye', flush=True)\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\nprint('up', flush=True)\ntime.sleep(600)"
    )
    ref = site.python(code)
    site.running(ref, b"up")
    site.call("POST", f"/runs/{ref}/cancel", json={})
    assert site.wait(ref, timeout_s=90)["state"] == "cancelled"
    assert b"goodbye" in site.log(ref)


def test_a_limit_is_kept_and_named(site: Site) -> None:
    done = site.cli("run", "--timeout", "0.5s", "--grace", "0s", "--json", "--", "sleep", "600")
    run = json.loads(done.out)
    assert (run["state"], run["outcome"]["cause"]) == ("failed", "timeout")
    assert done.code != 0
    assert "limit" in done.err


def test_retries_are_used_up_and_each_try_keeps_its_log(site: Site) -> None:
    code = "import os, sys; print('try', os.environ['MAINSPRING_ATTEMPT_NUMBER']); sys.exit(3)"
    run = site.wait(ref := site.python(code, retries=2))
    assert (run["state"], run["retries_used"]) == ("failed", 2)
    assert [one["outcome"]["exit_code"] for one in site.attempts(ref)] == [3, 3, 3]
    for number in (1, 2, 3):
        assert site.log(ref, attempt=number) == b"try %d\n" % number


def test_a_checkpoint_is_there_for_the_second_try(site: Site) -> None:
    code = (
        "import os, sys\npath = os.environ['MAINSPRING_CHECKPOINT'] + '/at'\n"
        "if os.path.exists(path):\n    print('went on from', open(path).read()); sys.exit(0)\n"
        "open(path + '.new', 'w').write('7'); os.rename(path + '.new', path); sys.exit(1)"
    )
    assert site.wait(ref := site.python(code, retries=1))["state"] == "succeeded"
    assert b"went on from 7" in site.log(ref)


def test_arguments_arrive_as_they_were_typed(site: Site, folder: Path) -> None:
    (folder / "say it.py").write_text("import json, os, sys\nprint(json.dumps([sys.argv[1:], os.environ['GREETING']]))\n")
    words = ["two words", "ünï", "日本", "--lr=3e-4", "-x", "", "$HOME", "'\"", "a\nb"]
    done = site.cli("run", "say it.py", "--env", "GREETING=hällo = wörld", "--", *words, cwd=folder)
    assert done.code == 0, done
    told = [line for line in done.out.splitlines() if line.startswith("[[")]
    assert json.loads(told[0]) == [words, "hällo = wörld"]


def test_the_granted_devices_are_what_user_code_sees(site: Site) -> None:
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    for gpus, count in ((2000, 2), (1000, 1), (0, 0)):
        ref = site.python(code, resources={"cpu_milli": 3000, "gpu_milli": gpus})
        assert site.wait(ref)["state"] == "succeeded"
        told = json.loads(site.log(ref))
        assert told["OMP_NUM_THREADS"] == "3"
        assert len([word for word in told["CUDA_VISIBLE_DEVICES"].split(",") if word.isdecimal()]) == count, told


def test_a_secret_reaches_the_process_and_nothing_else(site: Site, tmp_path: Path, until: Callable[..., Any]) -> None:
    value = "s3cr3t-0f-the-house"
    assert site.cli("secret", "set", "HOUSE", data=value).code == 0
    done = site.cli("secret", "ls", "--json")
    assert "HOUSE" in done.out
    assert value not in done.out + done.err
    out = tmp_path / "told"
    code = f"import os, time; open({str(out)!r}, 'w').write(os.environ['HOUSE']); print('up', flush=True); time.sleep(600)"
    ref = site.python(code, secrets=["HOUSE"], grace_s=0)
    site.running(ref, b"up")
    assert out.read_text() == value
    pid = json.loads((site.folder_of(ref) / "started").read_text())["pid"]
    listing = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, check=True).stdout
    assert value.encode() not in listing
    for holder in [one for one in site.carriers() if one != pid]:
        with contextlib.suppress(OSError):  # one that has ended
            assert value.encode() not in Path(f"/proc/{holder}/environ").read_bytes()
    for root, _, names in os.walk(site.home):
        for path in (Path(root, name) for name in names):
            with contextlib.suppress(FileNotFoundError):  # what is written and renamed meanwhile
                assert not path.is_file() or value.encode() not in path.read_bytes(), f"the secret lies in {path}"
    for route in (f"/runs/{ref}", f"/runs/{ref}/attempts", "/secrets", "/events?limit=1000", f"/runs/{ref}/native"):
        assert value not in site.call("GET", route).text
    site.call("POST", f"/runs/{ref}/cancel", json={})
    site.wait(ref)


def test_an_unknown_secret_is_named_before_anything_runs(site: Site) -> None:
    done = site.cli("run", "--secret", "NOBODY_SET_ME", "-d", "--", "true")
    assert done.code == 4
    assert "NOBODY_SET_ME" in done.err


def test_a_function_of_a_notebook_travels_by_value(site: Site, tmp_path: Path) -> None:
    script = tmp_path / "cells.py"
    script.write_text(
        "import mainspring as ms\n"
        "names = {'__name__': '__main__', 'ms': ms}\n"
        "exec('''\nscale = 3\n@ms.task(cpus=1)\ndef cell(x):\n    return {\"y\": x * scale}\n''', names)\n"
        "run = names['cell'].submit(14)\n"
        "print(run.result())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], env=site.environ(), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'y': 42}"


def test_user_code_may_use_an_older_python(site: Site, tmp_path: Path) -> None:
    places = (*Path.home().glob(".pyenv/versions/3.9*/bin/python"), Path("/usr/bin/python3.9"))
    found = [place for place in places if place.exists()]
    if not found:
        pytest.skip("no Python 3.9 here")
    (tmp_path / "old.py").write_text(
        "import sys\nimport mainspring as ms\nms.log_metric('loss', 0.5, step=1)\nprint(sys.version_info[:2])\n"
    )
    done = site.cli("run", "old.py", "--python", str(found[0]), "--json", cwd=tmp_path, PYTHONPATH="")
    assert done.code == 0, done
    assert "(3, 9)" in done.err
    metrics = site.call("GET", f"/runs/{json.loads(done.out)['id']}/metrics").json()
    assert metrics["loss"]["last"] == 0.5
