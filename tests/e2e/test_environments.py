"""A run with a lock: what is typed, what it finds installed, what is shown of it, how it is built again."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.e2e
UV = str(Path(sys.executable).parent / "uv")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def make_wheel(folder: Path, name: str, version: str) -> Path:
    """Write a wheel of one module; return its path."""
    told = f"{name}-{version}.dist-info"
    inside = {
        f"{name}.py": f"version = {version!r}\n".encode(),
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
    make_wheel(wheels, "alpha", "1.2")
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


def test_what_a_run_without_a_lock_ran_with_is_seen_and_built_again(site: Site, tmp_path: Path) -> None:
    wheels = tmp_path / "wheelhouse"
    wheel = make_wheel(wheels, "beta", "3.1")
    env = {**os.environ, "UV_CACHE_DIR": str(tmp_path / "uv")}
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")], check=True, env=env)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([UV, "pip", "install", "--quiet", "--offline", "--python", python, str(wheel)], check=True, env=env)
    wheel.unlink()
    make_wheel(wheels, "beta", "3.1")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "go.py").write_text("import beta, sys\nprint(beta.version, sys.prefix)\n")
    seen = site.cli("run", "go.py", "--python", python, "--json", cwd=tmp_path / "code")
    run = json.loads(seen.out)
    exported = site.cli("env", "export", run["id"])
    assert "beta" in exported.out or "beta" in exported.err, exported
    shown = json.loads(site.cli("env", "show", run["id"], "--json").out)
    (package,) = shown["captured"]["packages"]
    assert (package["name"], package["version"]) == ("beta", "3.1")


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
