"""A run with a lock: what is typed, what it finds installed, what is shown of it, how it is built again."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engines.docker import IMAGE as CONTAINER

from mainspring.services.serving import NEEDS

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.e2e
UV = str(Path(sys.executable).parent / "uv")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def make_wheel(folder: Path, name: str, version: str, text: str = "") -> Path:
    """Write a wheel of one module; return its path."""
    told = f"{name}-{version}.dist-info"
    inside = {
        f"{name}.py": f"version = {version!r}\n{text}".encode(),
        f"{told}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{told}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for path, data in inside.items()
    ]
    inside[f"{told}/RECORD"] = "".join([*lines, f"{told}/RECORD,,\n"]).encode()
    folder.mkdir(exist_ok=True, parents=True)
    target = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, data in inside.items():
            archive.writestr(path, data)
    return target


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a uv.lock, made by uv of wheels in a folder: there is no index."""
    folder = tmp_path / "project"
    wheels = tmp_path / "wheelhouse"
    make_wheel(wheels, "alpha", "1.2", "class Double:\n    def predict(self, rows):\n        return rows[:, 0] * 2\n")
    (folder / "src" / "mine").mkdir(parents=True)
    (folder / "src" / "mine" / "__init__.py").write_text("told = 'from the project'\n")
    (folder / "train.py").write_text("import alpha, mine, sys\nprint(alpha.version, mine.told, sys.prefix)\n")
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "0.1"\nrequires-python = ">=3.9"\ndependencies = ["alpha"]\n'
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    )
    words = [UV, "lock", "--no-index", "--find-links", str(wheels), "--quiet"]
    subprocess.run(words, cwd=folder, check=True, env={**os.environ, "UV_CACHE_DIR": str(tmp_path / "uv")})
    return folder


def listed_of(site: Site, lock: str) -> dict[str, Any]:
    """Return what `env ls` tells of the environment of a lock; nothing where there is none."""
    found = json.loads(site.cli("env", "ls", "--json").out)
    return next((one for one in found if one["lock"] == lock), {})


def test_a_run_gets_the_packages_of_uv_lock_and_the_code_beside_it(site: Site, project: Path) -> None:
    words = ("run", "train.py", "--environment", "lock", "--wheels", str(project.parent / "wheelhouse"))
    done = site.cli(*words, cwd=project)
    assert done.code == 0, done
    told = done.out.splitlines()[-1]
    assert told.startswith("1.2 from the project "), done
    assert "/cache/environments/" in told
    assert "is built on this node" in done.out
    again = site.cli(*words, "--json", cwd=project)
    assert "is built on this node" not in again.err
    run = json.loads(again.out)
    listed = listed_of(site, run["spec"]["environment"]["lock"])
    assert (listed["uses"], listed["run"], listed["is_in_use"]) == (2, run["id"], False)
    assert listed["python"].startswith(VERSION)
    shown = json.loads(site.cli("env", "show", run["id"], "--json").out)
    assert [(one["name"], one["version"]) for one in shown["captured"]["packages"]] == [("alpha", "1.2")]
    assert "alpha==1.2" in site.cli("env", "export", run["id"]).out


def test_what_was_pruned_goes_with_the_next_run_and_is_built_again(site: Site, project: Path, until: Callable[..., Any]) -> None:
    words = ("run", "train.py", "--environment", "lock", "--wheels", str(project.parent / "wheelhouse"))
    lock = json.loads(site.cli(*words, "--json", cwd=project).out)["spec"]["environment"]["lock"]
    listed = listed_of(site, lock)
    assert "There is nothing" in site.cli("env", "prune", "--older-than", "1h").err
    assert "removed by the next run" in site.cli("env", "prune", listed["key"][:8]).out
    assert listed_of(site, lock)["asked_to_go_at"]
    site.running(site.python("import time; print('here', flush=True); time.sleep(20)"), b"here")
    until(lambda: not listed_of(site, lock), "the removal")
    assert "is built on this node" in site.cli(*words, cwd=project).out


def test_what_is_pruned_now_is_gone_when_the_command_is_done(site: Site, project: Path) -> None:
    words = ("run", "train.py", "--environment", "lock", "--wheels", str(project.parent / "wheelhouse"))
    lock = json.loads(site.cli(*words, "--json", cwd=project).out)["spec"]["environment"]["lock"]
    listed = listed_of(site, lock)
    pruned = site.cli("env", "prune", listed["key"][:8], "--now", timeout_s=150)
    assert (pruned.code, "1 environment, " in pruned.out, ": removed." in pruned.out) == (0, True, True), pruned
    assert not listed_of(site, lock)
    assert not list(site.home.glob(f"**/environments/{listed['key']}"))
    assert site.wait("env-prune")["state"] == "succeeded", "it ends by itself"


# It lives a little longer than the question what is installed, which is not waited for beyond some seconds.
GO = """import beta, os, pathlib, sys, time
print(beta.version, sys.prefix)
events, deadline = pathlib.Path(os.environ["MAINSPRING_SPOOL"], "events"), time.monotonic() + 60
while not (events.exists() and b"environment_seen" in events.read_bytes()) and time.monotonic() < deadline:
    time.sleep(0.02)
"""


@pytest.fixture
def seen(site: Site, tmp_path: Path) -> dict[str, Any]:
    """A run without a lock, in a virtual environment that has beta from an index (here: a folder); its script is `code/go.py`."""
    wheels = tmp_path / "wheelhouse"
    make_wheel(wheels, "beta", "3.1")
    env = {**os.environ, "UV_CACHE_DIR": str(tmp_path / "uv")}
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")], check=True, env=env)
    python = str(tmp_path / "venv" / "bin" / "python")
    words = [UV, "pip", "install", "--quiet", "--offline", "--no-index", "--find-links", str(wheels), "--python", python, "beta"]
    subprocess.run(words, check=True, env=env)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "go.py").write_text(GO)
    done = site.cli("run", "go.py", "--python", python, "--json", cwd=tmp_path / "code")
    assert done.code == 0, done
    return dict(json.loads(done.out))


def test_what_a_run_without_a_lock_ran_with_is_seen(site: Site, seen: dict[str, Any]) -> None:
    exported = site.cli("env", "export", seen["id"])
    assert exported.out.splitlines()[1:] == ["beta==3.1"], exported
    shown = json.loads(site.cli("env", "show", seen["id"], "--json").out)
    (package,) = shown["captured"]["packages"]
    assert (package["name"], package["version"], package["wheel"]) == ("beta", "3.1", "beta-3.1-py3-none-any.whl")
    assert "as it was there, with 1 package" in site.cli("show", seen["id"]).out
    told = json.loads(site.cli("show", seen["id"], "--json").out)["environment"]
    assert [one["name"] for one in told["captured"]["packages"]] == ["beta"]


def test_it_is_built_again_by_its_run_and_by_its_export(site: Site, seen: dict[str, Any], tmp_path: Path) -> None:
    code, wheels = tmp_path / "code", str(tmp_path / "wheelhouse")
    again = site.cli("run", "go.py", "--environment", f"from:{seen['id']}", "--wheels", wheels, "--json", cwd=code)
    assert again.code == 0, again
    rebuilt = json.loads(again.out)
    log = site.log(rebuilt["id"]).decode()
    assert "3.1 " in log, log
    assert "/cache/environments/" in log
    assert "built from the lock" in site.cli("show", rebuilt["id"]).out
    # what was exported may be edited, and pins the same: the environment is there already
    assert site.cli("env", "export", seen["id"], "-o", "requirements.txt", cwd=code).code == 0
    mine = site.cli("run", "go.py", "--environment", "lock", "--wheels", wheels, cwd=code)
    assert "3.1 " in mine.out, mine
    assert "/cache/environments/" in mine.out
    index = site.cli("run", "go.py", "--environment", f"from:{seen['id']}", "--env", f"UV_FIND_LINKS={wheels}", cwd=code)
    assert "is built on this node" not in index.out, index


def test_a_rerun_keeps_the_environment_and_can_change_it(site: Site, seen: dict[str, Any], project: Path, tmp_path: Path) -> None:
    again = site.cli("rerun", seen["id"], "--environment", f"from:{seen['id']}", "--wheels", str(tmp_path / "wheelhouse"))
    assert again.code == 0, again
    changed = site.wait(again.out.strip())
    assert changed["state"] == "succeeded", site.log(changed["id"])
    assert "/cache/environments/" in site.log(changed["id"]).decode()
    kept = site.wait(site.cli("rerun", changed["id"]).out.strip())
    assert kept["spec"]["environment"] == changed["spec"]["environment"]
    back = site.wait(
        site.cli("rerun", changed["id"], "--environment", "here", "--python", str(tmp_path / "venv/bin/python")).out.strip()
    )
    assert (back["spec"]["environment"]["lock"], back["state"]) == ("", "succeeded"), site.log(back["id"])
    other = site.wait(site.cli("rerun", changed["id"], "--python", "3.4").out.strip())
    assert (other["spec"]["environment"]["lock"], other["state"]) == (changed["spec"]["environment"]["lock"], "failed")
    assert "There is no Python 3.4 on this node" in other["outcome"]["message"]
    # the lock of the folder it is typed in, for the code that was sent then
    words = ("run", "train.py", "--environment", "lock", "--wheels", str(project.parent / "wheelhouse"))
    first = json.loads(site.cli(*words, "--json", cwd=project).out)
    lock = ("--environment", "lock", "--wheels", str(project.parent / "wheelhouse"))
    second = site.wait(site.cli("rerun", first["id"], *lock, cwd=project).out.strip())
    assert (second["state"], second["spec"]["env"]) == ("succeeded", first["spec"]["env"]), site.log(second["id"])
    rebuilt = site.cli("run", "train.py", "--environment", f"from:{first['id']}", cwd=project)
    assert "from the project" in rebuilt.out, rebuilt


def test_in_python_the_words_are_the_same(site: Site, project: Path) -> None:
    (project / "tune.py").write_text(
        "import os\nimport mainspring as ms\n"
        "@ms.task(wheels=os.environ.get('WHEELS', ''), environment='lock')\n"
        "def tune(x, python=1):\n    import alpha\n    ms.log_metric('score', x)\n    return [alpha.version, python]\n"
        "if __name__ == '__main__':\n"
        "    study = ms.sweep(tune, trials=1, maximize='score', x=ms.uniform(0, 1))\n"
        "    first = study.best\n"
        "    lock = first.record.spec.environment.lock\n"
        "    kept = first.rerun(python=2)\n"  # the run has such a parameter: that is what is meant
        "    assert (kept.result(), kept.record.spec.environment.lock) == (['1.2', 2], lock), kept.record\n"
        "    back = first.rerun(environment='here')\n"
        "    assert (back.record.spec.environment.lock, back.params['python']) == ('', 1), back.record\n"
        "    again = back.rerun(environment=f'from:{first.id}')\n"
        "    assert (again.result(), again.record.spec.environment.lock) == (['1.2', 1], lock), again.record\n"
        "    print(lock)\n"
    )
    env = site.environ(WHEELS=str(project.parent / "wheelhouse"))
    words = [sys.executable, "tune.py"]
    done = subprocess.run(words, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done
    assert listed_of(site, done.stdout.splitlines()[-1])["uses"] >= 3


def test_the_trials_of_a_sweep_share_one_environment(site: Site, project: Path) -> None:
    (project / "tune.py").write_text(
        "import argparse, alpha, mainspring as ms\n"
        "given = argparse.ArgumentParser(); given.add_argument('--x', type=float)\n"
        "ms.log_metric('score', given.parse_args().x)\nprint(alpha.version)\n"
    )
    words = ("--environment", "lock", "--wheels", str(project.parent / "wheelhouse"), "--maximize", "score", "-n", "3", "--json")
    done = site.cli("sweep", "tune.py", "x=uniform:0:1", *words, cwd=project)
    assert done.code == 0, done
    told = json.loads(done.out)
    assert [site.run(one["run"])["state"] for one in told["trials"]] == ["succeeded"] * 3
    lock = told["sweep"]["spec"]["template"]["environment"]["lock"]
    assert listed_of(site, lock)["uses"] >= 3
    # a task names its environment in its decorator, and a flag is over that
    (project / "task.py").write_text(
        "import mainspring as ms\n@ms.task(environment='lock')\ndef tune(x):\n    import alpha\n    ms.log_metric('score', x)\n"
    )
    done = site.cli("sweep", "task.py:tune", "x=uniform:0:1", "--maximize", "score", "-n", "1", "--json", cwd=project)
    assert json.loads(done.out)["sweep"]["spec"]["template"]["environment"]["lock"] == lock
    here = ("--environment", "here", "--detach", "--json")
    done = site.cli("sweep", "task.py:tune", "x=uniform:0:1", "--maximize", "score", "-n", "1", *here, cwd=project)
    assert json.loads(done.out)["spec"]["template"]["environment"]["lock"] == ""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """An index that has gamma alone, on loopback: its address, and what was asked of it."""
    wheel = make_wheel(tmp_path / "index", "gamma", "4.0")
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            page = f'<a href="/files/{wheel.name}">{wheel.name}</a>'.encode()
            known = {"/simple/gamma/": page, f"/files/{wheel.name}": wheel.read_bytes()}
            data = known.get(self.path)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Type", "text/html" if data == page else "application/octet-stream")
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple", asked
        server.shutdown()


def test_wheels_are_fetched_here_for_a_node_without_an_index(site: Site, tmp_path: Path, index: tuple[str, list[str]]) -> None:
    url, asked = index
    code = tmp_path / "code"
    code.mkdir()
    (code / "requirements.txt").write_text("gamma==4.0\n")
    (code / "go.py").write_text("import gamma, sys\nprint(gamma.version, sys.prefix)\n")
    words = ("run", "go.py", "--environment", "lock", "--env", "UV_OFFLINE=1")
    done = site.cli(*words, "--wheels", "fetch", cwd=code, timeout_s=120, PIP_INDEX_URL=url, PIP_RETRIES="0")
    assert done.code == 0, done
    assert "is built on this node" in done.out
    assert done.out.splitlines()[-1].startswith("4.0 "), done
    assert "/simple/gamma/" in asked
    asked.clear()
    again = site.cli(*words, "--wheels", "fetch", cwd=code, timeout_s=120, PIP_INDEX_URL=url, PIP_RETRIES="0")
    assert (again.code, asked) == (0, []), again
    (code / "requirements.txt").write_text("delta==1.0\n")
    missing = site.cli(*words, "--wheels", "fetch", cwd=code, timeout_s=120, PIP_INDEX_URL=url, PIP_RETRIES="0")
    assert (missing.code, "The wheels of requirements.txt cannot be fetched here" in missing.err) == (2, True), missing


def repacked(name: str, folder: Path) -> None:
    """Write the wheel of a package that is installed here: there is no index to get it from."""
    found = distribution(name)
    wheel = found.read_text("WHEEL") or ""
    tags = [line.partition(": ")[2].split("-") for line in wheel.splitlines() if line.startswith("Tag: ")]
    parts = [".".join(dict.fromkeys(one[part] for one in tags)) for part in range(3)]
    target = folder / f"{name}-{found.version}-{'-'.join(parts)}.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path in found.files or ():
            if ".." not in path.parts and path.suffix != ".pyc":
                archive.write(str(path.locate()), str(path))


def test_a_model_made_in_an_environment_is_served_in_it(site: Site, project: Path) -> None:
    wheels = project.parent / "wheelhouse"
    for name in NEEDS:
        repacked(name, wheels)
    (project / "make.py").write_text(
        "import os\nimport mainspring as ms\n"
        "found = {'UV_FIND_LINKS': os.environ.get('WHEELS', ''), 'UV_OFFLINE': '1'}\n"
        "@ms.task(environment='lock', name='make', env=found)\n"
        "def make():\n"
        "    import json, pickle, alpha\n"
        "    os.makedirs('m')\n"
        "    told = {'format': 'native', 'signature': {'inputs': [{'name': 'x', 'dtype': 'float64'}]}}\n"
        "    json.dump(told, open('m/model.json', 'w'))\n"
        "    pickle.dump(alpha.Double(), open('m/model.pkl', 'wb'))\n"
        "    return ms.Model('m', {'format': 'native'})\n"
        "if __name__ == '__main__':\n"
        "    make.submit().result().register('doubles')\n"
    )
    words = [sys.executable, "make.py"]
    env = site.environ(WHEELS=str(wheels))
    made = subprocess.run(words, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert made.returncode == 0, made
    done = site.cli("deploy", "doubles@1", "--name", "doubles", timeout_s=200)
    assert done.code == 0, (done, site.log(site.call("GET", "/runs", params={"text": "serve-doubles"}).json()["items"][0]["id"]))
    assert "Its replicas run in the environment of run make" in done.err
    assert json.loads(site.cli("endpoint", "predict", "doubles", '[{"x": 2.5}]').out) == [5.0]
    shown = json.loads(site.cli("endpoint", "show", "doubles", "--json").out)
    assert shown["serves_in"].startswith("the environment of run make")
    assert site.cli("endpoint", "rm", "doubles", "--yes").code == 0


@pytest.fixture
def offline(project: Path) -> Path:
    """The wheels of the lock and uv's own: all that a node without an index, pip and uv needs."""
    folder = project.parent / "wheelhouse"
    uv = {"uv-0.0.data/scripts/uv": Path(os.path.realpath(UV)).read_bytes(), "uv-0.0.dist-info/METADATA": b"Name: uv\n"}
    with zipfile.ZipFile(folder / "uv-0.0-py3-none-any.whl", "w") as archive:
        for path, data in uv.items():
            archive.writestr(path, data)
    return folder


@pytest.mark.engine
@pytest.mark.timeout(900)  # with pods it may wait until the program of Kubernetes is built
@pytest.mark.xdist_group("fleet")
@pytest.mark.parametrize("where", ["metal", "box", "podman", "hpc", "pods"])
def test_a_lock_is_built_once_on_a_node_and_in_containers(
    fresh: Site,
    begin_fleet: Callable[..., None],
    add_engine: Callable[..., None],
    project: Path,
    offline: Path,
    where: str,
    request: pytest.FixtureRequest,
) -> None:
    begin_fleet(fresh, where)
    if where == "podman":
        url = request.getfixturevalue("podman_engine").url
        added = fresh.cli("cluster", "add", "podman", "--name", where, "--host", url, "--image", CONTAINER, "--cpus", "1")
        assert added.code == 0, added
    else:
        add_engine(fresh, where)
    image = ("--image", CONTAINER) if where != "pods" else ()
    python = ("--python", VERSION) if where in ("metal", "hpc") else image
    words = ("run", "train.py", "--environment", "lock", "--wheels", str(offline), "--label", f"cluster={where}", *python)
    done = fresh.cli(*words, cwd=project, timeout_s=240, UV_PYTHON_DOWNLOADS="never")
    assert done.code == 0, done
    assert "is built on this node" in done.out
    assert done.out.splitlines()[-1].startswith("1.2 from the project "), done
    assert "/environments/" in done.out.splitlines()[-1]
    again = fresh.cli(*words, "--json", cwd=project, timeout_s=240)
    assert again.code == 0, again
    assert ("is built on this node" in again.err) == (where == "pods"), "a pod has no cache that outlives it"
    run = json.loads(again.out)
    listed = listed_of(fresh, run["spec"]["environment"]["lock"])
    if where == "pods":
        assert listed == {}
    else:
        assert (listed["cluster"], listed["uses"], listed["tool"]) == (where, 2, "uv")
    told = json.loads(fresh.cli("env", "show", run["id"], "--json").out)
    assert [one["name"] for one in told["captured"]["packages"]] == ["alpha"]


def test_mistakes_about_environments_have_sentences(site: Site, tmp_path: Path) -> None:
    (tmp_path / "go.py").write_text("print('ran')\n")
    for words, said in (
        (("--environment", "lock"), "There is no uv.lock, pylock.toml, requirements.txt"),
        (("--environment", "nowhere.txt"), "there is no such file"),
        (("--wheels", "fetch"), "--wheels goes with a lock"),
        (("--environment", "from:nothing"), "nothing"),
    ):
        done = site.cli("run", "go.py", *words, cwd=tmp_path)
        assert (done.code in (2, 4), said in done.err, "ran" in done.out) == (True, True, False), done
    (tmp_path / "requirements.txt").write_text("numpy\n")
    done = site.cli("run", "go.py", "--environment", "lock", cwd=tmp_path)
    assert "Line 1 of requirements.txt pins no package" in done.err
    assert site.cli("run", "go.py", cwd=tmp_path).code == 0  # nobody asked for it: as it is there
