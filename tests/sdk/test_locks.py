"""Lock files as people have them, read by a real uv where it is uv's, into the one text that travels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mainspring.core.environments import Captured, Package, check_lock, lock_of
from mainspring.core.errors import UsageError
from mainspring.sdk.locks import lock_file, python_of, read_lock

UV = str(Path(sys.executable).parent / "uv")
HASH = "sha256:" + "a" * 64


def project(folder: Path, more: str = "") -> Path:
    """Make a project whose uv.lock names itself alone; return the lock."""
    folder.mkdir(exist_ok=True)
    told = '[project]\nname = "mine"\nversion = "0.1"\nrequires-python = ">=3.12"\ndependencies = []\n'
    (folder / "pyproject.toml").write_text(told + more)
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_CACHE_DIR": str(folder.parent / "uv")}
    subprocess.run([UV, "lock", "--offline", "--quiet", "--python", sys.executable], cwd=folder, env=env, check=False)
    if not (folder / "uv.lock").exists():  # this Python is older than the project asks
        (folder / "uv.lock").write_text(
            'version = 1\nrequires-python = ">=3.12"\n[[package]]\nname = "mine"\nversion = "0.1"\nsource = { virtual = "." }\n'
        )
    return folder / "uv.lock"


def test_uv_lock_names_its_projects_its_python_and_its_indexes(tmp_path: Path) -> None:
    path = project(tmp_path / "p", '[[tool.uv.index]]\nname = "lab"\nurl = "https://lab.example/simple"\n')
    lock = read_lock(path)
    assert lock.text == "--extra-index-url https://lab.example/simple\n"
    assert [one.resolve() for one in lock.projects] == [path.parent]
    assert python_of(lock, "", "") == f"3.{max(12, sys.version_info.minor)}"
    assert python_of(lock, "3.13", "") == "3.13"
    (path.parent / ".python-version").write_text("3.14.1\n")
    assert python_of(lock, "", "") == "3.14"


def test_a_workspace_that_lies_outside_the_code_is_refused(tmp_path: Path) -> None:
    path = project(tmp_path / "p")
    path.write_text(path.read_text() + '\n[[package]]\nname = "far"\nversion = "1"\nsource = { editable = "../far" }\n')
    with pytest.raises(UsageError, match="outside the code"):
        read_lock(path)


def test_pylock_becomes_pinned_lines(tmp_path: Path) -> None:
    path = tmp_path / "pylock.toml"
    path.write_text(
        'lock-version = "1.0"\nrequires-python = "==3.11.*"\n'
        '[[packages]]\nname = "alpha"\nversion = "1.0"\nmarker = "sys_platform == \'linux\'"\n'
        f'wheels = [{{ name = "a.whl", url = "https://x.example/a.whl", hashes = {{ sha256 = "{"b" * 64}" }} }}]\n'
        '[[packages]]\nname = "beta"\nvcs = { type = "git", url = "https://x.example/beta", commit-id = "c0ffee" }\n'
    )
    lock = read_lock(path)
    assert lock.text == (
        f"alpha==1.0 ; sys_platform == 'linux' --hash=sha256:{'b' * 64}\nbeta @ git+https://x.example/beta@c0ffee\n"
    )
    assert python_of(lock, "", "") == "3.11"
    path.write_text('lock-version = "1.0"\n[[packages]]\nname = "mine"\ndirectory = { path = "../mine" }\n')
    with pytest.raises(UsageError, match="folder"):
        read_lock(path)


@pytest.mark.parametrize(
    "line",
    [
        "numpy",
        "numpy>=1",
        "numpy==1.*",
        "-r other.txt",
        "-e .",
        "./numpy.whl",
        "numpy @ file:///tmp/numpy.whl",
        "--find-links ./wheels",
        "--index-url https://me:secret@lab.example/simple",
        "numpy==1.0 --hash=md5:aa",
        "numpy==1.0 --config-settings=x",
        "numpy==1.0 ; python_version > '3' ;" + " --hash=sha256:aa" * 20000 + " x",
    ],
)
def test_what_pins_nothing_is_refused_by_its_line(line: str) -> None:
    with pytest.raises(UsageError, match="Line 2 of it"):
        check_lock(f"# a comment\n{line}\n", "it")


def test_what_tools_write_is_taken() -> None:
    text = f"""# by uv
--extra-index-url https://lab.example/simple
alpha[a,b]==1.0 ; python_version < '3.12' \\
    --hash={HASH} \\
    --hash={HASH}
    # via mine
beta @ https://x.example/beta-1.0.whl#sha256=aa
gamma @ git+ssh://git@x.example/gamma@c0ffee
"""
    assert not check_lock(text)
    assert check_lock(f"alpha==1.0 --hash={HASH}\n")


def test_the_lock_is_found_beside_the_code_or_above_it(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert lock_file("auto", inner) is None
    assert lock_file("here", inner) is None
    with pytest.raises(UsageError, match=r"no uv\.lock"):
        lock_file("lock", inner)
    (tmp_path / "requirements.txt").write_text("alpha==1.0\n")
    assert lock_file("lock", inner) == tmp_path / "requirements.txt"
    (inner / "uv.lock").write_text("version = 1\n")
    assert lock_file("lock[x]", inner) == inner / "uv.lock"


def test_what_was_captured_becomes_a_lock_and_what_no_index_has_is_named() -> None:
    packages = (
        Package(name="beta", version="2", origin="git+https://x.example/beta@c0ffee"),
        Package(name="alpha", version="1.0"),
        Package(name="mine", version="0.1", origin="file:///home/me/mine", is_editable=True),
        Package(name="odd", version="1;x"),
    )
    text, left_out = lock_of(Captured(python="3.11.7", packages=packages))
    assert text == "alpha==1.0\nbeta @ git+https://x.example/beta@c0ffee\n"
    assert left_out == ("mine", "odd")
    assert check_lock(text) is False


def test_a_lock_without_uv_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "uv.lock").write_text('version = 1\nrequires-python = ">=3.9"\n')
    with pytest.raises(UsageError, match="not on this machine") as told:
        read_lock(tmp_path / "uv.lock")
    assert "pip install uv" in told.value.hint
